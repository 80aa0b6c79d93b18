"""What large sets cost before the first sample: an index that is loaded, an epoch that begins. Nothing is read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from en_bench.benchmark.data_memory import forget_peak, peak, resident
from en_bench.benchmark.data_process import ask
from en_bench.benchmark.data_reading import open_stream, training_order
from en_bench.benchmark.data_recipe import Recipe
from en_bench.benchmark.data_settings import Settings
from en_bench.benchmark.timing import Reading, summarised
from en_bench.data.index import Index, index_bytes
from en_bench.data.manifest import GIVEN, INDEX_NAME, Manifest, Shard, load_manifest, save_manifest
from en_bench.data.samplers import TrainSampler

LOADED, STARTED = 2_400_000, 1_300_000  # samples of which the index is loaded, of which an epoch is started
_QUICK = 100  # by which --quick divides them
_PER_SHARD = 10_000  # samples
_CLASSES = 1000
_KEY = "q0001/3/xM2gU5jXbT9AHM-{:08d}"  # as long as WebVision's are
_BATCH = 256


def measure_scale(settings: Settings, scratch: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds and bytes of loading a synthetic manifest and index, and seconds until an epoch's first request."""
    divisor = _QUICK if settings.quick else 1
    loaded, started = LOADED // divisor, STARTED // divisor
    folders = {}
    for name, samples in (("load", loaded), ("start", started)):
        tell(f"scale: a manifest of {samples:,} samples")
        folders[name] = synthetic_split(scratch / name, samples)
    readings: dict[str, list[Reading]] = {"load": [], "order": [], "dataset": []}
    grown, peak = [], []
    for turn in range(settings.repeats):
        tell(f"scale: round {turn + 1} of {settings.repeats}")
        load = ask("load", folder=str(folders["load"]))
        start = ask("start", folder=str(folders["start"]))
        grown.append(load["grown"])
        peak.append(load["peak"])
        for name, seconds in (("load", load["seconds"]), ("order", start["order"]), ("dataset", start["dataset"])):
            readings[name].append(Reading(seconds, None))
    return {
        "loaded": loaded,
        "started": started,
        "index_bytes": (folders["load"] / INDEX_NAME).stat().st_size,
        "grown": sorted(grown)[len(grown) // 2],
        "peak": sorted(peak)[len(peak) // 2],
        "timings": {name: summarised(found) for name, found in readings.items()},
    }


def synthetic_split(folder: Path, samples: int) -> Path:
    """Writes manifest and index of a split whose shards do not exist."""
    folder.mkdir(parents=True)
    number = np.arange(samples)
    shard = (number // _PER_SHARD).astype(np.int32)
    place = 512 + (number % _PER_SHARD) * 65_536
    index = Index(
        keys=np.array([_KEY.format(row) for row in range(samples)], dtype=np.bytes_),
        shard=shard,
        offset=place.astype(np.int64)[:, None],
        size=np.full((samples, 1), 60_000, dtype=np.int64),
        labels={GIVEN: (number % _CLASSES).astype(np.int32)},
    )
    content = index_bytes(index)
    (folder / INDEX_NAME).write_bytes(content)
    counts = np.bincount(shard).tolist()
    manifest = Manifest(
        folder=folder,
        dataset="synthetic",
        split="train",
        classes=tuple(f"n{number:08d}" for number in range(_CLASSES)),
        columns=(GIVEN,),
        members=("image",),
        count=samples,
        skipped=0,
        shards=tuple(Shard(f"s-{i:06d}.tar", count, count * 65_536, "0" * 64) for i, count in enumerate(counts)),
        index_sha256=hashlib.sha256(content).hexdigest(),
        inputs_sha256="0" * 64,
        seed=0,
        ignore_index=None,
        source={},
        image={},
        noise={},
    )
    save_manifest(manifest)
    return folder


def load(folder: str) -> dict[str, Any]:
    """Seconds of loading a manifest and its index; bytes by which the process has grown then, and at most meanwhile."""
    load_manifest(folder)  # for what it imports
    before = resident()
    forget_peak()
    begin = time.perf_counter()
    index = load_manifest(folder).load_index()
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "grown": resident() - before, "peak": peak() - before, "samples": len(index)}


def start(folder: str) -> dict[str, Any]:
    """Seconds from a new epoch to its first request, and of making the data set."""
    begin = time.perf_counter()
    dataset = open_stream(Path(folder), Recipe(224, padded=False), "train")
    opened = time.perf_counter()
    sampler = TrainSampler(training_order(dataset), _BATCH, 0, 1)
    seconds = []
    for epoch in range(3):
        before = time.perf_counter()
        sampler.set_epoch(epoch)
        request = next(iter(sampler))
        seconds.append(time.perf_counter() - before)
        assert len(request.indices) == _BATCH
    return {"order": sorted(seconds)[1], "dataset": opened - begin}
