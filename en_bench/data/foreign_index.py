"""A manifest for WebDataset tars of other makers, by one scan: they then train like shards of our own."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from en_bench.data.foreign_images import EXTENSIONS
from en_bench.data.index import Index, index_bytes
from en_bench.data.index_home import MADE, Home, default_names, home_of
from en_bench.data.label_classes import ClassNames, Column, classes_of, read_classes, unused_classes
from en_bench.data.label_rules import KEY, LabelRule
from en_bench.data.manifest import GIVEN, INDEX_NAME, SKIPPED_NAME, Manifest, save_manifest
from en_bench.data.places import shown, write_file
from en_bench.data.pool import fill_all
from en_bench.data.shard_patterns import Tars, find_tars
from en_bench.data.shard_scan import Scanned, ScanOptions, ScanTask, first_groups, scan_shard
from en_bench.data.shard_stream import check_reachable
from en_bench.data.sources import Skipped, skipped_bytes
from en_bench.errors import InputError

AUTO = "auto"
_PROBED = 100  # samples that tell where labels stand
_TOLD = 5  # classes named in a note
_ROWS = 2**16  # of the index that are made Python objects at a time


@dataclass(frozen=True)
class IndexOptions:
    """What `index_tars` may be told.

    Attributes:
        out: folder or URL of the manifest (default: that of the tars).
        dataset, split: names (default: what the names of folder and tars say).
        labels: where labels stand, as LabelRule.parse takes it, or "auto": in `.cls`, else in the field "label" of
            `.json`, else in the key, as the first samples tell.
        columns: further label columns and where theirs stand.
        classes: file of class names, as read_classes takes it.
        images: extensions of images, the preferred first.
        decode: decode every image, and skip those that cannot be.
        workers: processes. The result does not depend on them.
    """

    out: str | None = None
    dataset: str | None = None
    split: str | None = None
    labels: str = AUTO
    columns: Mapping[str, str] | None = None
    classes: str | None = None
    images: tuple[str, ...] = EXTENSIONS
    decode: bool = False
    workers: int = 1


def index_tars(
    url: str,
    options: IndexOptions,
    progress: Callable[[int, int, int, int], None] = lambda *_: None,
    say: Callable[[str], None] = print,
) -> Manifest:
    """Scans the tars that `url` names and writes manifest.json, index.npz and skipped.csv; returns the manifest.

    Nothing is written before all is known. An earlier index of the same tars is replaced file by file, manifest.json
    last.

    Args:
        url: a folder, a tar, or a pattern of tars: see `find_tars`.
        options: see there.
        progress: called with (shards done, shards in all, samples, bytes read).
        say: receives what the user should know of labels and classes, line by line.

    Raises:
        InputError: nothing is there, a shard cannot be read or is no whole plain tar, no sample can be used, two have
            one key, the labels are ambiguous, or the folder of the manifest holds something else.
    """
    names = read_classes(options.classes) if options.classes else None
    tars = find_tars(url)
    home = home_of(tars, options.out)
    if not tars.listed:
        check_reachable(tars.folder / tars.names[-1])  # before hours of work on those before it
    rules = _rules(tars, options, say)
    scan = ScanOptions(options.images, rules, options.decode)
    found = _scan_all(tars, scan, options.workers, progress)
    if names is None:
        names = classes_of([_column(found, name, rule) for name, rule in rules.items()])
    rows = [_Rows.of(scanned, rules, names) for scanned in found]
    skipped = [skip for shard in rows for skip in shard.skipped]
    used = [shard for shard in rows if len(shard.keys)]
    if not used:
        first = f", first {skipped[0].origin}: {skipped[0].reason}" if skipped else ""
        raise InputError(
            f"{shown(url)}: none of {len(skipped):,} samples can be used{first}: tell where labels stand with "
            "--labels, or the extension of images with --image"
        )
    index = _index_of(used, rules)
    _check_unique(tars, index, used)
    left_out = [shard.scanned.shard.name for shard in rows if not len(shard.keys)]
    _tell(index, names, left_out, say)
    dataset, split = default_names(tars)
    manifest = Manifest(
        folder=home.folder,
        dataset=options.dataset or dataset,
        split=options.split or split,
        classes=names.classes,
        columns=tuple(rules),
        members=("image",),
        count=len(index),
        skipped=len(skipped),
        shards=tuple(replace(shard.scanned.shard, samples=len(shard.keys)) for shard in used),
        index_sha256="",
        inputs_sha256=_fingerprint(index),
        seed=None,
        ignore_index=None,
        source={
            "made": MADE,
            "labels": {column: str(rule) for column, rule in rules.items()},
            "images": list(options.images),
            **names.source,
            **({"left_out": left_out} if left_out else {}),
        },
        image={"reencoded": 0, **({"verified": True} if options.decode else {})},
        noise={},
        location=home.location,
    )
    return _write(home, manifest, index, skipped)


def _rules(tars: Tars, options: IndexOptions, say: Callable[[str], None]) -> dict[str, LabelRule]:
    given = _guess(tars, options, say) if options.labels == AUTO else LabelRule.parse(options.labels)
    further = options.columns or {}
    return {GIVEN: given, **{name: LabelRule.parse(rule) for name, rule in further.items()}}


def _guess(tars: Tars, options: IndexOptions, say: Callable[[str], None]) -> LabelRule:
    """Where the first samples have their labels: a single one must not decide for a whole set."""
    guesses = [LabelRule.parse("cls"), LabelRule.parse("json")]
    asked = ScanOptions(options.images, {rule.source: rule for rule in guesses})
    first = first_groups(tars.folder / tars.names[0], asked, _PROBED)
    for rule in guesses:
        if any(rule.finds(group.key, group.contents) for group in first):
            break
    else:
        rule = LabelRule(KEY)
    of = "the keys" if rule.source == KEY else f".{rule.source}"
    of += f", field {rule.detail!r}" if rule.detail else ""
    say(f"labels are taken from {of} (--labels names another place)")
    return rule


def _scan_all(
    tars: Tars, options: ScanOptions, workers: int, progress: Callable[[int, int, int, int], None]
) -> list[Scanned]:
    """What the shards hold, in the order of their names."""
    done = samples = read = 0

    def advance(more_samples: int, more_bytes: int) -> None:
        nonlocal samples, read
        samples, read = samples + more_samples, read + more_bytes
        progress(done, len(tars.names), samples, read)

    scan = functools.partial(scan_shard, folder=tars.folder, options=options)
    tasks = [ScanTask(number, name) for number, name in enumerate(tars.names)]
    found: dict[int, Scanned] = {}
    for number, scanned in fill_all(tasks, scan, max(1, min(workers, len(tasks))), advance, cure="use fewer --workers"):
        found[number] = scanned
        done += 1
        progress(done, len(tars.names), samples, read)
    return [found[number] for number in range(len(tasks))]


def _column(found: Sequence[Scanned], name: str, rule: LabelRule) -> Column:
    labels = dict.fromkeys(label for scanned in found for label in scanned.texts[name])
    return Column(name, tuple(labels), rule.names)


@dataclass(frozen=True, eq=False)
class _Rows:
    """What of a shard stands in the index.

    Attributes:
        scanned: the shard.
        keys, places: as there, of the samples whose given label is that of a class.
        labels: per column their class numbers, -1 where unknown.
        skipped: the other samples.
    """

    scanned: Scanned
    keys: NDArray[np.bytes_]
    places: NDArray[np.int64]
    labels: Mapping[str, NDArray[np.int32]]
    skipped: Sequence[Skipped]

    @classmethod
    def of(cls, scanned: Scanned, columns: Mapping[str, LabelRule], names: ClassNames) -> _Rows:
        labels = {}
        for column in columns:
            numbers = [*(names.number(text) for text in scanned.texts[column]), -1]  # code -1 takes the last
            labels[column] = np.array(numbers, dtype=np.int32)[scanned.codes[column]]
        known = labels[GIVEN] >= 0
        skipped = list(scanned.skipped)
        for row in np.flatnonzero(~known).tolist():
            key = bytes(scanned.keys[row]).decode()
            text = scanned.texts[GIVEN][int(scanned.codes[GIVEN][row])]
            skipped.append(Skipped(key, f"{scanned.shard.name}/{key}", names.fault(text)))
        kept = {column: values[known] for column, values in labels.items()}
        return cls(scanned, scanned.keys[known], scanned.places[known], kept, skipped)


def _index_of(used: Sequence[_Rows], columns: Mapping[str, LabelRule]) -> Index:
    counts = [len(shard.keys) for shard in used]
    places = np.concatenate([shard.places for shard in used])
    return Index(
        keys=np.concatenate([shard.keys for shard in used]),
        shard=np.repeat(np.arange(len(used), dtype=np.int32), counts),
        offset=np.ascontiguousarray(places[:, :1]),
        size=np.ascontiguousarray(places[:, 1:]),
        labels={column: np.concatenate([shard.labels[column] for shard in used]) for column in columns},
    )


def _check_unique(tars: Tars, index: Index, used: Sequence[_Rows]) -> None:
    keys, first, counts = np.unique(index.keys, return_index=True, return_counts=True)
    twice = np.flatnonzero(counts > 1)
    if not len(twice):
        return
    earliest = twice[np.argmin(first[twice])]
    a, b = np.flatnonzero(index.keys == keys[earliest])[:2].tolist()
    places = [f"byte {int(index.offset[r, 0]):,} of {used[int(index.shard[r])].scanned.shard.name}" for r in (a, b)]
    raise InputError(
        f"{shown(tars.folder)}: key {index.key(a)!r} is that of two samples, whose images lie at {places[0]} and at "
        f"{places[1]} ({len(twice):,} such keys): write the tars again with a key for each sample"
    )


def _tell(index: Index, names: ClassNames, left_out: Sequence[str], say: Callable[[str], None]) -> None:
    """What may not be as the user thinks."""
    present = np.unique(np.concatenate(list(index.labels.values())))
    unused = unused_classes(names, present.tolist())
    if unused:
        few = ", ".join(names.classes[number] for number in unused[:_TOLD]) + (", …" if len(unused) > _TOLD else "")
        say(f"warning: {len(unused):,} of {len(names.classes):,} classes have no sample: {few}")
    if len(names.classes) == 1 or len(names.classes) > max(10, len(index) // 2):
        say(f"warning: {len(names.classes):,} classes in {len(index):,} samples: see whether --labels is right")
    for column, values in index.labels.items():
        unknown = int((values < 0).sum())
        if unknown:
            say(f"warning: {unknown:,} of {len(index):,} samples have no label of a class in column {column!r}")
    for name in left_out:
        say(f"warning: {name}: no sample in it can be used: left out")


def _fingerprint(index: Index) -> str:
    """sha256 (hex) over the keys and labels, as `sources.fingerprint` takes it."""
    digest = hashlib.sha256()
    columns = list(index.labels)
    labels = np.stack([index.labels[column] for column in columns], axis=1)
    encoded: dict[tuple[int, ...], bytes] = {}
    for first in range(0, len(index), _ROWS):
        rows = slice(first, first + _ROWS)
        for key, values in zip(index.keys[rows].tolist(), map(tuple, labels[rows].tolist()), strict=True):
            if values not in encoded:
                encoded[values] = json.dumps(dict(zip(columns, values, strict=True))).encode()
            digest.update(key + b"\0" + encoded[values] + b"\n")
    return digest.hexdigest()


def _write(home: Home, manifest: Manifest, index: Index, skipped: Sequence[Skipped]) -> Manifest:
    content = index_bytes(index)
    try:
        write_file(home.folder / SKIPPED_NAME, skipped_bytes(skipped))
        write_file(home.folder / INDEX_NAME, content)
        return save_manifest(replace(manifest, index_sha256=hashlib.sha256(content).hexdigest()))
    except OSError as error:
        raise InputError(
            f"{shown(home.folder)}: {error.strerror or error}: make room, or choose another folder with --out, and run "
            "again"
        ) from error
