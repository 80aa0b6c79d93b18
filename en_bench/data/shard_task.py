"""Making one shard, whole, in whichever process: the unit of work, and of resuming."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from en_bench.data.images import Encoded, UnreadableImage
from en_bench.data.manifest import GIVEN, PREPARING, Shard
from en_bench.data.masks import MaskEncoder
from en_bench.data.places import Place, is_remote, upload, write_file
from en_bench.data.raw_bytes import DamagedFile
from en_bench.data.shards import TarWriter
from en_bench.data.sources import Source
from en_bench.errors import InputError

_BUFFER = 2**20
_CHUNK = 16  # samples that are read, and written, at a time
_CHUNK_BYTES = 2**26
_SECONDS_TO_RETRY = 1.0

Report = Callable[[int, int], None]  # called with (samples, bytes) done since the last call; may raise to stop


@dataclass(frozen=True, slots=True)
class Loaded:
    """The raw files of a sample, or why they cannot be used."""

    image: bytes = b""
    mask: bytes | None = None
    refusal: str = ""

    @classmethod
    def of(cls, sample: Source) -> Loaded:
        """Reads them. Raises InputError if they are out of reach, also at a second try."""
        for last in (False, True):
            try:
                return cls(sample.load(), None if sample.mask is None else sample.mask())
            except UnreadableImage as error:
                return cls(refusal=str(error))
            except DamagedFile as error:
                return cls(refusal=f"cannot be read: {error}")
            except OSError as error:
                if last:
                    # To list it as broken would leave out whatever an unmounted disk or a lost bucket holds.
                    raise InputError(
                        f"{sample.origin}: cannot be read: {error.strerror or error}: see to the raw data (an empty "
                        "file in place of a lost one is left out) and run again with --resume"
                    ) from error
                time.sleep(_SECONDS_TO_RETRY)
        raise AssertionError  # not reached


@dataclass(frozen=True)
class Encoders:
    """What makes the files of a sample. `mask` where the split has masks."""

    image: Callable[[bytes], Encoded]
    mask: MaskEncoder | None = None

    def files(self, sample: Source, loaded: Loaded) -> tuple[list[tuple[str, bytes]], bool]:
        """(name, payload) of the files of a sample, those that are read first, and whether the image's bytes were kept.

        Raises UnreadableImage, with the reason.
        """
        if loaded.refusal:
            raise UnreadableImage(loaded.refusal)
        image = self.image(loaded.image)
        read = [(f"{sample.key}.{image.extension}", image.payload)]
        about: dict[str, Any] = {"source": sample.origin}
        if self.mask is not None:
            assert loaded.mask is not None
            read.append((f"{sample.key}.mask.png", self.mask(loaded.mask, image)))
        else:
            about["labels"] = dict(sample.labels)
            read.append((f"{sample.key}.cls", str(sample.labels[GIVEN]).encode()))
        return [*read, (f"{sample.key}.json", json.dumps(about, sort_keys=True).encode())], image.kept


@dataclass(frozen=True)
class ShardTask:
    """The samples of one shard, with their positions in the source."""

    number: int
    name: str
    positions: Sequence[int]
    samples: Sequence[Source]


@dataclass
class Part:
    """What became of a ShardTask.

    Attributes:
        shard: the tar, None if no sample was readable.
        rows: positions of the samples in it, in their order.
        places: per sample and member (offset, size) in the tar.
        refused: (position, reason) of the others.
        reencoded: images that do not have the bytes of their raw files.
    """

    shard: Shard | None = None
    rows: list[int] = field(default_factory=list)
    places: list[list[tuple[int, int]]] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    reencoded: int = 0

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Part:
        """Raises ValueError, KeyError or TypeError for what `to_json` did not write."""
        fields = json.loads(content)
        shard = fields["shard"]
        return cls(
            shard=None if shard is None else Shard(**shard),
            rows=fields["rows"],
            places=[[(offset, size) for offset, size in members] for members in fields["places"]],
            refused=[(position, reason) for position, reason in fields["refused"]],
            reencoded=fields["reencoded"],
        )


def part_name(number: int) -> str:
    return f"part-{number:06d}.json"


def fill_shard(task: ShardTask, report: Report, *, folder: Place, encoders: Encoders) -> Part:
    """Writes the shard of a task into the split folder, then its part into the folder of the preparation.

    Both appear in one step each and are durable, so that a part that can be read stands for a whole shard.

    Raises OSError where the shard cannot be written, InputError where a raw file is out of reach.
    """
    scratch = None if not is_remote(folder) else tempfile.TemporaryDirectory(prefix="en_bench-")
    unfinished = Path(scratch.name if scratch else folder / PREPARING) / f"{task.name}.{os.getpid()}"
    try:
        with unfinished.open("xb", buffering=_BUFFER) as file:
            part, digest, size = _fill(task, TarWriter(file), encoders, report)
        if part.rows:
            part.shard = Shard(task.name, len(part.rows), size, digest)
            if scratch:
                upload(unfinished, folder / task.name)
            else:
                os.replace(unfinished, folder / task.name)
        write_file(folder / PREPARING / part_name(task.number), part.to_json())
    finally:
        unfinished.unlink(missing_ok=True)
        if scratch:
            scratch.cleanup()
    return part


def _fill(task: ShardTask, tar: TarWriter, encoders: Encoders, report: Report) -> tuple[Part, str, int]:
    """Encodes the samples in their order, while threads read those that come next and write those that are done."""
    part = Part()
    chunks = list(_chunks(task.samples))
    with ThreadPoolExecutor(max_workers=2) as threads:
        ahead = threads.submit(_load, task.samples[chunks[0]])
        behind: Future[None] | None = None
        for number, chunk in enumerate(chunks):
            loaded = ahead.result()
            if number + 1 < len(chunks):
                ahead = threads.submit(_load, task.samples[chunks[number + 1]])
            for position, sample, raw in zip(task.positions[chunk], task.samples[chunk], loaded, strict=True):
                before = tar.size
                _add(part, position, sample, raw, tar, encoders)
                report(1, tar.size - before)
            if behind is not None:
                behind.result()
            behind = threads.submit(tar.write, tar.take())
        if behind is not None:
            behind.result()
    return part, tar.close(), tar.size


def _chunks(samples: Sequence[Source]) -> Iterator[slice]:
    """Neighbouring samples that are read at a time: at most _CHUNK, and _CHUNK_BYTES as far as sizes are known."""
    start = size = 0
    for position, sample in enumerate(samples):
        more = getattr(sample.load, "size", 0)
        if position - start == _CHUNK or (position > start and size + more > _CHUNK_BYTES):
            yield slice(start, position)
            start, size = position, 0
        size += more
    yield slice(start, len(samples))


def _load(samples: Sequence[Source]) -> list[Loaded]:
    return [Loaded.of(sample) for sample in samples]


def _add(part: Part, position: int, sample: Source, raw: Loaded, tar: TarWriter, encoders: Encoders) -> None:
    """Adds a sample to tar and part, or its refusal to the part."""
    try:
        files, kept = encoders.files(sample, raw)
    except UnreadableImage as error:
        part.refused.append((position, str(error)))
    else:
        members = 1 if encoders.mask is None else 2
        places = zip(tar.add(files)[:members], files, strict=False)
        part.places.append([(offset, len(payload)) for offset, (_, payload) in places])
        part.rows.append(position)
        part.reencoded += not kept
