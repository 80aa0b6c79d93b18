"""Making one shard, whole, in whichever process: the unit of work, and of resuming."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from en_bench.data.images import Encoded, UnreadableImage
from en_bench.data.manifest import GIVEN, PREPARING, Shard
from en_bench.data.masks import MaskEncoder
from en_bench.data.places import Place, is_remote, upload, write_file
from en_bench.data.shards import TarWriter
from en_bench.data.sources import Source
from en_bench.errors import InputError

_BUFFER = 2**20
_FEW = 20  # unreadable raw files in a shard that never end a run

Report = Callable[[int, int], None]  # called with (samples, bytes) done since the last call; may raise to stop


@dataclass(frozen=True)
class Encoders:
    """What makes the files of a sample. `mask` where the split has masks."""

    image: Callable[[bytes], Encoded]
    mask: MaskEncoder | None = None

    def files(self, sample: Source) -> tuple[list[tuple[str, bytes]], bool]:
        """(name, payload) of the files of a sample, those that are read first, and whether the image's bytes were kept.

        Raises UnreadableImage, with the reason, or OSError if a raw file cannot be read.
        """
        image = self.image(sample.load())
        read = [(f"{sample.key}.{image.extension}", image.payload)]
        about: dict[str, Any] = {"source": sample.origin}
        if self.mask is not None:
            assert sample.mask is not None
            read.append((f"{sample.key}.mask.png", self.mask(sample.mask(), image)))
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

    Raises OSError where the shard cannot be written, InputError where most of its raw files cannot be read.
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
    part = Part()
    unread = 0
    members = 1 if encoders.mask is None else 2
    for position, sample in zip(task.positions, task.samples, strict=True):
        before = tar.size
        try:
            files, kept = encoders.files(sample)
        except UnreadableImage as error:
            part.refused.append((position, str(error)))
        except OSError as error:  # of the raw file: the shard is not touched here
            reason = f"cannot be read: {error.strerror or error}"
            part.refused.append((position, reason))
            unread += 1
            if unread > max(_FEW, len(task.samples) // 2):
                raise InputError(
                    f"{sample.origin}: {reason}, as {unread:,} of {len(part.refused) + len(part.rows):,} files before "
                    "it: the raw data are out of reach; see to them and run again with --resume"
                ) from error
        else:
            offsets = tar.add(files)
            part.rows.append(position)
            part.places.append(
                [(offset, len(payload)) for offset, (_, payload) in zip(offsets[:members], files, strict=False)]
            )
            part.reencoded += not kept
        report(1, tar.size - before)
    return part, tar.close(), tar.size
