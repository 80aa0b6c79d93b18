"""The one writer of shards: samples in, a whole split folder out, or nothing."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from en_bench.data.images import Encoded, UnreadableImage
from en_bench.data.index import Index, save_index
from en_bench.data.manifest import (
    GIVEN,
    INDEX_NAME,
    MANIFEST_NAME,
    SKIPPED_NAME,
    Manifest,
    load_manifest,
    save_manifest,
)
from en_bench.data.order import write_order
from en_bench.data.partial import partial_folder
from en_bench.data.shards import ShardWriter
from en_bench.errors import InputError

SHARD_BYTES = 256 * 2**20
_MAX_KEY_BYTES = 240  # key and extension must fit into a file name when somebody unpacks the tar
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")


@dataclass(frozen=True, slots=True)
class Source:
    """One sample to be written.

    Attributes:
        key: unique name in the split; "/" may group, the last part has no dot. Readers see `<key>.jpg`.
        labels: per column the class number, -1 where unknown. The same columns for all samples.
        load: returns the bytes of the raw image file; may raise UnreadableImage or OSError, then it is skipped.
        origin: where the user finds the raw file, for skipped.csv.
    """

    key: str
    labels: Mapping[str, int]
    load: Callable[[], bytes]
    origin: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that is not in the shards, and why. `key` may be empty where none was made."""

    key: str
    origin: str
    reason: str


def write_split(
    folder: str | os.PathLike[str],
    samples: Sequence[Source],
    *,
    dataset: str,
    split: str,
    classes: Sequence[str],
    encode: Callable[[bytes], Encoded],
    image: Mapping[str, Any],
    source: Mapping[str, Any],
    noise: Mapping[str, Any] | None = None,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    skipped: Sequence[Skipped] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = print,
) -> Manifest:
    """Writes the samples, in an order permuted by `seed`, into shards with a manifest, and returns the manifest.

    The folder appears when it is whole. A folder that was made with the same options from samples of the same keys and
    labels is left as it is; the pixels are not compared.

    Args:
        folder: the split folder to make.
        samples: in the order of their source.
        dataset, split: names; `dataset` may contain "/".
        classes: names of the classes that labels number.
        encode: from raw file to image file; raises UnreadableImage with the reason.
        image: what `encode` does, for the manifest.
        source: provenance and the options of the script, for the manifest. JSON values.
        noise: kind, rate and seed of the label noise that is in column "given"; the realised rate is added here,
            over the samples written whose label in column "clean" is known.
        seed: of the permutation.
        shard_bytes: size at which a new shard is begun.
        skipped: what the caller had to leave out already; listed first in skipped.csv.
        progress: called with (samples done, samples in all).
        say: receives the closing line.

    Raises:
        InputError: no sample is readable, a key is used twice or cannot be a name, the folder holds something else,
            another process is writing it, or the disk refuses.
    """
    folder = Path(folder)
    for name in (dataset, split):
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot name shards: use letters, digits, '_', '-' and '.'")
    columns = _check_samples(samples, len(classes))
    if noise is not None and "clean" not in columns:
        raise ValueError("noise can be measured only beside a column 'clean'")
    plan = Manifest(
        folder=folder,
        dataset=dataset,
        split=split,
        classes=tuple(classes),
        columns=columns,
        members=("image",),
        count=0,
        skipped=0,
        shards=(),
        index_sha256="",
        inputs_sha256=_fingerprint(samples),
        seed=seed,
        shard_bytes=shard_bytes,
        source=json.loads(json.dumps(source)),
        image=json.loads(json.dumps(image)),
        noise=None if noise is None else json.loads(json.dumps(noise)),
    )
    existing = _existing(plan)
    if existing is not None:
        say(
            f"{folder}: already there, made with the same options from samples of the same keys and labels "
            "(their pixels are not compared); nothing to do"
        )
        return existing
    try:
        with partial_folder(folder) as partial:
            written = _write(dataclasses.replace(plan, folder=partial), samples, encode, skipped, progress)
    except OSError as error:
        raise InputError(
            f"{folder}: {error.strerror or error}: nothing was kept; make room or choose another place, and run again"
        ) from error
    size = sum(shard.bytes for shard in written.shards)
    shards = f"{len(written.shards):,} shard{'' if len(written.shards) == 1 else 's'}"
    unused = f"; skipped {written.skipped:,}, see {folder / SKIPPED_NAME}" if written.skipped else "; skipped 0"
    say(f"{folder}: wrote {written.count:,} samples in {shards}, {size / 1e6:,.1f} MB{unused}")
    return dataclasses.replace(written, folder=folder)


def _write(
    plan: Manifest,
    samples: Sequence[Source],
    encode: Callable[[bytes], Encoded],
    skipped: Sequence[Skipped],
    progress: Callable[[int, int], None],
) -> Manifest:
    """Fills the partial folder; returns the manifest it wrote there."""
    shards = ShardWriter(plan.folder, f"{plan.dataset.replace('/', '-')}-{plan.split}", plan.shard_bytes)
    order = write_order(len(samples), plan.seed)
    rows: list[int] = []  # positions in `samples`, as written
    places: list[tuple[int, int, int]] = []  # shard, offset, size of the image
    refused: dict[int, str] = {}
    with contextlib.closing(shards) as shards:
        try:
            for done, position in enumerate(order.tolist()):
                sample = samples[position]
                encoded = _encoded(sample, encode)
                if isinstance(encoded, str):
                    refused[position] = encoded
                else:
                    shard, offsets = shards.add_sample(_files(sample, encoded))
                    rows.append(position)
                    places.append((shard, offsets[0], len(encoded.payload)))
                progress(done + 1, len(samples))
        except BaseException:
            shards.abandon()
            raise
    listed = [*skipped, *(Skipped(samples[p].key, samples[p].origin, refused[p]) for p in sorted(refused))]
    if not rows:
        first = f", first {listed[0].origin}: {listed[0].reason}" if listed else ""
        raise InputError(
            f"none of {len(listed)} samples for split {plan.split!r} can be read{first}: check the raw data"
        )
    _write_skipped(plan.folder / SKIPPED_NAME, listed)
    where = np.array(places, dtype=np.int64)
    labels = {c: np.array([samples[row].labels[c] for row in rows], dtype=np.int32) for c in plan.columns}
    index = Index(
        keys=np.array([samples[row].key.encode() for row in rows]),
        shard=where[:, 0].astype(np.int32),
        offset=where[:, 1:2],
        size=where[:, 2:3],
        labels=labels,
    )
    save_index(plan.folder / INDEX_NAME, index)
    noise = plan.noise
    if noise is not None:
        known = labels["clean"] >= 0
        flipped = (labels[GIVEN] != labels["clean"])[known]
        noise = {**noise, "realised": float(flipped.mean()) if known.any() else None}
    return save_manifest(
        dataclasses.replace(
            plan,
            count=len(rows),
            skipped=len(listed),
            shards=tuple(shards.shards),
            index_sha256=hashlib.sha256((plan.folder / INDEX_NAME).read_bytes()).hexdigest(),
            noise=noise,
        )
    )


def _encoded(sample: Source, encode: Callable[[bytes], Encoded]) -> Encoded | str:
    """The image of a sample, or the reason why there is none."""
    try:
        return encode(sample.load())
    except UnreadableImage as error:
        return str(error)
    except OSError as error:  # of the raw file: the shards are not touched here
        return f"cannot be read: {error.strerror or error}"


def _files(sample: Source, encoded: Encoded) -> list[tuple[str, bytes]]:
    about = {"labels": dict(sample.labels), "source": sample.origin}
    return [
        (f"{sample.key}.{encoded.extension}", encoded.payload),
        (f"{sample.key}.cls", str(sample.labels[GIVEN]).encode()),
        (f"{sample.key}.json", json.dumps(about, sort_keys=True).encode()),
    ]


def _check_samples(samples: Sequence[Source], classes: int) -> tuple[str, ...]:
    """The label columns, after a look at every key and label."""
    if not samples:
        return (GIVEN,)
    columns = tuple(samples[0].labels)
    if not columns or columns[0] != GIVEN:
        raise ValueError(f"the first label column must be {GIVEN!r}, got {columns}")
    origins: dict[str, str] = {}
    for sample in samples:
        _check_key(sample)
        if sample.key in origins:
            raise InputError(
                f"key {sample.key!r} belongs to both {origins[sample.key]} and {sample.origin}: rename one of them"
            )
        origins[sample.key] = sample.origin
        if tuple(sample.labels) != columns or not all(-1 <= label < classes for label in sample.labels.values()):
            raise ValueError(f"{sample.origin}: labels {dict(sample.labels)} do not fit {columns}, {classes} classes")
    return columns


def _check_key(sample: Source) -> None:
    parts = sample.key.split("/")
    bad = any(part in ("", ".", "..") for part in parts) or "." in parts[-1] or not sample.key.isprintable()
    if bad or len(sample.key.encode()) > _MAX_KEY_BYTES:
        raise InputError(
            f"{sample.origin}: {sample.key!r} cannot be a key: at most {_MAX_KEY_BYTES} bytes, printable, relative, "
            "without '..', and no dot in its last part; rename the file"
        )


def _fingerprint(samples: Sequence[Source]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.key, dict(sample.labels)]).encode() + b"\n")
    return digest.hexdigest()


def _existing(plan: Manifest) -> Manifest | None:
    """The finished split in the folder, None if nothing is there. Raises InputError if it is another one."""
    if not plan.folder.exists():
        return None
    cure = "remove it, or choose another output folder"
    if not (plan.folder / MANIFEST_NAME).exists():
        if plan.folder.is_dir() and not any(plan.folder.iterdir()):
            return None
        raise InputError(f"{plan.folder}: holds something that is not a prepared split: {cure}")
    found = load_manifest(plan.folder)
    found.check_shards()
    same = ("dataset", "split", "classes", "columns", "members", "seed", "shard_bytes", "source", "image")
    differing = [name for name in same if getattr(found, name) != getattr(plan, name)]
    noise = None if found.noise is None else {k: v for k, v in found.noise.items() if k != "realised"}
    differing += ["noise"] if noise != plan.noise else []
    differing += ["samples"] if not differing and found.inputs_sha256 != plan.inputs_sha256 else []
    if differing:
        raise InputError(f"{plan.folder}: already there, made with other {', '.join(differing)}: {cure}")
    return found


def _write_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    # A name that is not UTF-8 on disk reaches Python with surrogates; it is listed, visibly escaped.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(["key", "origin", "reason"])
        table.writerows((item.key, item.origin, item.reason) for item in skipped)
        file.flush()
        os.fsync(file.fileno())
