"""One split while it is being written: what is there, what is missing, and the end."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from en_bench.data.images import UnreadableImage
from en_bench.data.index import Index, index_bytes
from en_bench.data.manifest import INDEX_NAME, SKIPPED_NAME, Manifest, save_manifest, to_fields
from en_bench.data.order import write_order
from en_bench.data.places import names_in, remove, shown, write_file
from en_bench.data.pool import fill_all
from en_bench.data.preparing import clear, read_parts, read_plan, sweep, write_plan
from en_bench.data.shard_task import Encoders, Loaded, Part, ShardTask, fill_shard
from en_bench.data.shards import size_in_tar
from en_bench.data.sources import Skipped, Source, skipped_bytes
from en_bench.errors import InputError

SHARD_BYTES = 256 * 2**20  # of a shard whose number is left to us
SHARD_SAMPLES = 10_000  # at most
SPREAD, SPREAD_SAMPLES = 16, 1_000  # shards that a smaller set is cut into, for its workers, if they hold so many
_COMPARED = 16  # raw files that must be the same when a run is resumed
_PROBED = 64  # samples that are encoded to estimate the size of the set

Progress = Callable[[int, int, int], None]  # called with (samples done, samples in all, bytes written)


class SplitJob:
    """One split that is being written."""

    def __init__(
        self, plan: Manifest, samples: Sequence[Source], encoders: Encoders, skipped: Sequence[Skipped]
    ) -> None:
        assert plan.seed is not None, "what is written here is permuted first"
        self.plan, self.samples, self.encoders, self.skipped = plan, samples, encoders, skipped
        self.order = write_order(len(samples), plan.seed)

    def run(
        self, shards: int | None, workers: int, resume: bool, progress: Progress, say: Callable[[str], None]
    ) -> Manifest:
        """Makes what is missing, then index and manifest."""
        folder = self.plan.folder
        try:
            number = self._begin(shards, resume)
        except BaseException:
            if read_plan(folder) is None:
                clear(folder)
            raise
        parts = read_parts(folder, number)
        if parts:
            say(f"{shown(folder)}: going on after {len(parts)} of {number} shards")
        done = sum(len(part.rows) + len(part.refused) for part in parts.values())
        written = sum(part.shard.bytes for part in parts.values() if part.shard)

        def advance(more_samples: int, more_bytes: int) -> None:
            nonlocal done, written
            done, written = done + more_samples, written + more_bytes
            progress(done, len(self.samples), written)

        fill = functools.partial(fill_shard, folder=folder, encoders=self.encoders)
        tasks = [self._task(n, number) for n in range(number) if n not in parts]
        try:
            parts |= dict(fill_all(tasks, fill, max(1, min(workers, len(tasks))), advance))
            return self._finish([parts[n] for n in range(number)])
        except BaseException:
            if not any(part.shard for part in read_parts(folder, number).values()):
                self._remove_shards()
                clear(folder)  # nothing was achieved, so nothing stays
            raise

    def _begin(self, shards: int | None, resume: bool) -> int:
        """The number of shards, after a look at what an interrupted run left."""
        folder = self.plan.folder
        wanted: dict[str, Any] = {
            "split": to_fields(self.plan),
            "--shards": shards,
            "versions": getattr(self.encoders.image, "versions", dict)(),
            "raw files": self._raw_files(),
        }
        left = read_plan(folder)
        if left is None and (others := [name for name in names_in(folder) if not name.startswith(".")]):
            raise InputError(
                f"{shown(folder)}: holds something that is not a prepared split ({others[0]}): "
                "remove it, or choose another output folder"
            )
        if left is not None:
            number = int(left.get("shards", 0))
            finished = len(read_parts(folder, number))
            if finished and not resume:
                raise InputError(
                    f"{shown(folder)}: an interrupted run left {finished} of {number} shards: add --resume to go on, "
                    "or remove the folder to begin again"
                )
            if finished and wanted != {key: left.get(key) for key in wanted}:
                differing = plain_names(differing_fields({key: left.get(key) for key in wanted}, wanted))
                raise InputError(
                    f"{shown(folder)}: an interrupted run with other {', '.join(differing)} left {finished} of "
                    f"{number} shards: give the options it had, or remove the folder to begin again"
                )
            if finished:
                sweep(folder)
                return number
            self._remove_shards()
        sweep(folder)
        number = min(shards or self._estimated_shards(), len(self.samples))
        write_plan(folder, {**wanted, "shards": number})
        return number

    def _remove_shards(self) -> None:
        """Removes tars of ours of which no part tells: the run was cut off before it could write that down."""
        for name in names_in(self.plan.folder):
            if name.startswith(self._stem) and name.endswith(".tar"):
                remove(self.plan.folder / name)

    def _raw_files(self) -> str:
        """sha256 (hex) over the raw files of a few samples: whether it is the same set, wherever it lies by now."""
        digest = hashlib.sha256()
        for position in self.order[:_COMPARED].tolist():
            loaded = Loaded.of(self.samples[position])
            for content in (loaded.image, loaded.mask or b""):
                digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    @property
    def _stem(self) -> str:
        return f"{self.plan.dataset.replace('/', '-')}-{self.plan.split}-"

    def _estimated_shards(self) -> int:
        """Shards of about SHARD_BYTES and at most SHARD_SAMPLES, from the size of the first samples to be written.

        Of a set that needs fewer than SPREAD of them, up to SPREAD shards of SPREAD_SAMPLES or more.
        """
        sizes = []
        for position in self.order[:_PROBED].tolist():
            try:
                files, _ = self.encoders.files(self.samples[position], Loaded.of(self.samples[position]))
            except UnreadableImage:
                continue
            sizes.append(size_in_tar(files))
        count = len(self.samples)
        total = count * (sum(sizes) / len(sizes) if sizes else 0)
        spread = min(SPREAD, count // SPREAD_SAMPLES)
        return max(1, spread, math.ceil(total / SHARD_BYTES), math.ceil(count / SHARD_SAMPLES))

    def _task(self, number: int, shards: int) -> ShardTask:
        count = len(self.samples)
        positions = self.order[number * count // shards : (number + 1) * count // shards].tolist()
        name = f"{self._stem}{number:06d}.tar"
        return ShardTask(number, name, positions, [self.samples[position] for position in positions])

    def _finish(self, parts: Sequence[Part]) -> Manifest:
        """Writes skipped.csv, index and manifest."""
        plan = self.plan
        refused = sorted(entry for part in parts for entry in part.refused)
        listed = [*self.skipped, *(Skipped(self.samples[p].key, self.samples[p].origin, why) for p, why in refused)]
        full = [part for part in parts if part.shard is not None]
        if not full:
            raise nothing_readable(plan.split, listed)
        rows = [row for part in full for row in part.rows]
        shards = tuple(part.shard for part in full if part.shard is not None)
        places = np.array([place for part in full for place in part.places], dtype=np.int64)
        labels = {c: np.array([self.samples[row].labels[c] for row in rows], dtype=np.int32) for c in plan.columns}
        index = index_bytes(
            Index(
                keys=np.array([self.samples[row].key.encode() for row in rows]),
                shard=np.repeat(np.arange(len(shards), dtype=np.int32), [shard.samples for shard in shards]),
                offset=places[:, :, 0],
                size=places[:, :, 1],
                labels=labels,
            )
        )
        write_file(plan.folder / SKIPPED_NAME, skipped_bytes(listed))
        write_file(plan.folder / INDEX_NAME, index)
        return save_manifest(
            dataclasses.replace(
                plan,
                count=len(rows),
                skipped=len(listed),
                shards=shards,
                index_sha256=hashlib.sha256(index).hexdigest(),
                image={**plan.image, "reencoded": sum(part.reencoded for part in full)},
                noise={c: {**what, "realised": realised_noise(labels, c, what)} for c, what in plan.noise.items()},
            )
        )


def nothing_readable(split: str, listed: Sequence[Skipped]) -> InputError:
    """The error of a split none of whose samples can be used."""
    first = f", first {listed[0].origin}: {listed[0].reason}" if listed else ""
    return InputError(f"none of {len(listed)} samples for split {split!r} can be read{first}: check the raw data")


def realised_noise(labels: Mapping[str, NDArray[np.int32]], column: str, noise: Mapping[str, Any]) -> float | None:
    """Share of the samples whose label in `column` is not the clean one, of those that have both; None of none.

    Where a set has no column "clean", that which the noise was made from takes its place.
    """
    clean = labels.get("clean", labels.get(noise.get("from", "")))
    if clean is None or column not in labels:
        return None
    known = (clean >= 0) & (labels[column] >= 0)
    return float((labels[column] != clean)[known].mean()) if known.any() else None


def differing_fields(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names of what two manifests' fields differ in, dotted where they nest."""
    found = []
    for name in [*a, *(name for name in b if name not in a)]:
        x, y = a.get(name), b.get(name)
        if x == y:
            continue
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            found += [f"{name}.{inner}" for inner in differing_fields(x, y)]
        else:
            found.append(name)
    return found


def plain_names(fields: Sequence[str]) -> list[str]:
    """Names of fields that differ as a user may know them: of another data set that one is enough."""
    names = [name.removeprefix("split.").removeprefix("source.") for name in fields]
    if "dataset" in names:
        return ["dataset"]
    if len(names) > 1 and "inputs.sha256" in names:
        names.remove("inputs.sha256")  # the samples differ because the options do
    return ["samples" if name == "inputs.sha256" else name for name in names]
