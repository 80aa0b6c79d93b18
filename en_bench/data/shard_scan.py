"""One shard of other makers, scanned once: its samples, where their images lie, and what their labels say."""

from __future__ import annotations

import contextlib
import itertools
import struct
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from en_bench.data.foreign_images import HEAD, fault_of_head, fault_of_image
from en_bench.data.label_rules import LARGEST_LABEL_FILE, LabelRule, NoLabel
from en_bench.data.manifest import GIVEN, Shard
from en_bench.data.names import fault_of_name
from en_bench.data.places import Place, shown
from en_bench.data.raw_bytes import MAX_FILE
from en_bench.data.shard_stream import Restarted, ShardStream, as_file, opened_shard
from en_bench.data.shard_task import Report
from en_bench.data.sources import Skipped
from en_bench.data.tar_members import tar_members
from en_bench.data.tar_names import LONGEST_LEAD, key_and_suffix
from en_bench.errors import InputError

LONGEST_KEY = 1000  # bytes; the index holds all keys at the width of the longest
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


@dataclass(frozen=True)
class ScanOptions:
    """What is looked for.

    Attributes:
        images: extensions of images, the preferred first.
        rules: per label column where its labels stand, "given" among them.
        decode: also decode every image.
    """

    images: tuple[str, ...]
    rules: Mapping[str, LabelRule]
    decode: bool = False


@dataclass(frozen=True)
class ScanTask:
    """One shard to be scanned."""

    number: int
    name: str


@dataclass
class Group:
    """The files of one sample, neighbours in the tar, by extension.

    Attributes:
        offset: bytes from the start of the tar to its first file.
        places: (offset, size) of each payload.
        contents: those of the files that were asked for.
        faults: why a file cannot be used.
    """

    key: str
    offset: int
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scanned:
    """What a shard holds. N samples with an image and a given label.

    Attributes:
        shard: its name, N, size and hash.
        keys: (N,) fixed-width bytes, UTF-8.
        places: (N, 2) int64, offset and size of the image.
        texts: per label column the different labels, in the order in which they occur.
        codes: per label column (N,) int32, positions in `texts`, -1 without a label.
        skipped: the other samples.
    """

    shard: Shard
    keys: NDArray[np.bytes_]
    places: NDArray[np.int64]
    texts: Mapping[str, Sequence[str]]
    codes: Mapping[str, NDArray[np.int32]]
    skipped: Sequence[Skipped]


def scan_shard(task: ScanTask, report: Report, *, folder: Place, options: ScanOptions) -> Scanned:
    """Reads a shard once and returns what it holds. `report` is told of its samples and bytes.

    Raises InputError where it cannot be read or is no whole plain tar, where a sample has two files of one kind, and
    where two have one key.
    """
    where = folder / task.name
    with opened_shard(where) as begin:
        while True:
            rows = _Rows(where, options)
            try:
                stream = ShardStream(begin(), lambda size: report(0, size))
                for group in groups(where, stream, options):
                    rows.add(group)
                    report(1, 0)
                return rows.scanned(stream)
            except Restarted:
                report(-rows.offered, -stream.end)


def first_groups(where: Place, options: ScanOptions, count: int) -> list[Group]:
    """The first samples of a shard, read as far as needed. Raises InputError as `scan_shard` does."""
    with opened_shard(where) as begin:
        while True:
            with contextlib.suppress(Restarted):
                return list(itertools.islice(groups(where, ShardStream(begin()), options), count))


def groups(where: Place, stream: ShardStream, options: ScanOptions) -> Iterator[Group]:
    """The samples of a shard in its order, as WebDataset groups files: neighbours of one key.

    Reads the stream to its end. Raises InputError for what is no whole plain tar, and for two files of one kind.
    """
    wanted = frozenset(itertools.chain.from_iterable(rule.extensions for rule in options.rules.values()))
    _check_magic(where, stream)
    group: Group | None = None
    try:
        for _, member in tar_members(as_file(stream)):
            split = None if member.isdir() else key_and_suffix(member.name)
            if split is None:
                continue
            key, suffix = split
            if group is None or group.key != key:
                if group is not None:
                    yield group
                group = Group(key, member.offset)
            if suffix in group.places or suffix in group.faults:
                raise InputError(
                    f"{shown(where)}, sample {key!r}: has two files .{suffix}, the second at byte {member.offset:,}: "
                    "write the tar again with one"
                )
            if suffix in options.images or suffix in wanted:
                _take(group, suffix, member, stream, options, whole=suffix in wanted)
        if group is not None:
            yield group
        end = stream.tell()
        if not stream.only_zeros_follow():
            raise InputError(
                f"{shown(where)}: more follows after its end mark before byte {end:,}, which readers of tars pass over"
                ": several tars were joined; unpack them with `tar --ignore-zeros` and write one"
            )
    except tarfile.TarError as error:
        stream.only_zeros_follow()
        raise InputError(
            f"{shown(where)}: not a whole tar of {stream.end:,} bytes: {error}: copy or download it again"
        ) from error
    except (RecursionError, struct.error, IndexError) as error:  # headers of somebody's own making
        raise InputError(f"{shown(where)}: no tar that can be trusted ({type(error).__name__}: {error})") from error


def _check_magic(where: Place, stream: ShardStream) -> None:
    head = stream.read(tarfile.BLOCKSIZE)
    stream.seek(0)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            raise InputError(
                f"{shown(where)}: compressed ({kind}), so that no sample can be read at its place: unpack it to a "
                "plain .tar"
            )


def _take(
    group: Group, suffix: str, member: tarfile.TarInfo, stream: ShardStream, options: ScanOptions, whole: bool
) -> None:
    """Notes a file of a sample, after a look into it."""
    is_image = suffix in options.images
    if not member.isreg() or member.issparse():
        group.faults[suffix] = "is a link or no plain file"
    elif member.offset_data - member.offset > LONGEST_LEAD:
        group.faults[suffix] = f"has headers of {member.offset_data - member.offset:,} bytes"
    elif member.size > (LARGEST_LABEL_FILE if whole else MAX_FILE):
        group.faults[suffix] = f"has {member.size:,} bytes, too many to be read"
    else:
        stream.seek(member.offset_data)
        content = stream.read(member.size if whole or options.decode else min(member.size, HEAD))
        fault = fault_of_head(content[:HEAD]) if is_image else ""
        if is_image and options.decode and not fault:
            fault = fault_of_image(content)
        if fault:
            group.faults[suffix] = fault
            return
        group.places[suffix] = (member.offset_data, member.size)
        if whole:
            group.contents[suffix] = content


class _Rows:
    """The samples of a shard while it is scanned."""

    def __init__(self, where: Place, options: ScanOptions) -> None:
        self._where, self._name, self._options = where, where.name, options
        self._keys: list[bytes] = []
        self._places: list[tuple[int, int]] = []
        self._codes: dict[str, list[int]] = {column: [] for column in options.rules}
        self._texts: dict[str, dict[str, int]] = {column: {} for column in options.rules}
        self._skipped: list[Skipped] = []
        self._offsets: dict[str, int] = {}  # of all samples, by key

    @property
    def offered(self) -> int:
        return len(self._offsets)

    def add(self, group: Group) -> None:
        before = self._offsets.setdefault(group.key, group.offset)
        if before != group.offset:
            raise InputError(
                f"{shown(self._where)}: key {group.key!r} lies at byte {before:,} and again at byte {group.offset:,}: "
                "the files of a sample must be neighbours (`tar --sort=name` makes them so) and its key its own: write "
                "the tar again"
            )
        try:
            place, labels = self._usable(group)
        except NoLabel as reason:
            self._skipped.append(Skipped(group.key, f"{self._name}/{group.key}", str(reason)))
            return
        self._keys.append(group.key.encode())
        self._places.append(place)
        for column, text in labels.items():
            texts = self._texts[column]
            self._codes[column].append(-1 if text is None else texts.setdefault(text, len(texts)))

    def _usable(self, group: Group) -> tuple[tuple[int, int], dict[str, str | None]]:
        """Place of the image, and labels; None for one that is unknown. Raises NoLabel, with the reason, if none."""
        fault = fault_of_name(group.key)
        if fault:
            raise NoLabel(fault)
        if len(group.key.encode()) > LONGEST_KEY:
            raise NoLabel(f"its key has more than {LONGEST_KEY:,} bytes")
        place = group.places[self._image_of(group)]
        labels: dict[str, str | None] = {}
        for column, rule in self._options.rules.items():
            try:
                labels[column] = rule.label(group.key, group.contents)
            except NoLabel as reason:
                if column == GIVEN:
                    told = (f"its .{name} {group.faults[name]}" for name in rule.extensions if name in group.faults)
                    raise NoLabel(next(told, str(reason))) from None
                labels[column] = None
        return place, labels

    def _image_of(self, group: Group) -> str:
        images = self._options.images
        for extension in images:
            if extension in group.faults:
                raise NoLabel(f"its .{extension} {group.faults[extension]}")
            if extension in group.places:
                return extension
        raise NoLabel(f"has no image (.{', .'.join(images)})")

    def scanned(self, stream: ShardStream) -> Scanned:
        """All of it, after the end of the stream."""
        return Scanned(
            shard=Shard(self._name, len(self._keys), stream.end, stream.sha256),
            keys=np.array(self._keys, dtype=np.bytes_) if self._keys else np.empty(0, "S1"),
            places=np.array(self._places, dtype=np.int64).reshape(-1, 2),
            texts={column: list(texts) for column, texts in self._texts.items()},
            codes={column: np.array(codes, dtype=np.int32) for column, codes in self._codes.items()},
            skipped=self._skipped,
        )
