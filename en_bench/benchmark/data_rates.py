"""Our stream beside the standard recipe, and beside decoding and cropping alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from en_bench.benchmark import data_peers
from en_bench.benchmark.data_material import Material, Split, samples_of
from en_bench.benchmark.data_settings import Settings
from en_bench.benchmark.data_turns import Contender, take_turns, warm
from en_bench.data.manifest import load_manifest

Images = Literal["shards", "original"]
Stage = Literal["train", "eval"]
BYTES, PEER_BYTES = "bytes only", "bytes only, webdataset"
GPU = "bytes, decoded and cropped on the GPU"


def stream(stage: Stage, images: Images, workers: int) -> str:
    """Name of our stream's timing."""
    return f"stream, {_where(stage, images)}, {_workers(workers)}"


def standard(stage: Stage, images: Images, workers: int) -> str:
    """Name of the standard recipe's timing."""
    return f"standard recipe, {_where(stage, images)}, {_workers(workers)}"


def alone(stage: Stage, images: Images) -> str:
    """Name of the timing of decoding and cropping from memory."""
    return f"decode and crop alone, {_where(stage, images)}"


def control(stage: Stage, images: Images) -> str:
    """Name of its timing, once more."""
    return f"{alone(stage, images)}, again"


def measure_rates(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds per image of each contender."""
    splits = {"shards": material.shards, "original": material.original}
    warm(list(splits.values()))
    contenders = list(_contenders(settings))
    if torch.cuda.is_available() and _all_jpeg(material.shards):
        contenders.append(Contender(GPU, "gpu"))
    timings = take_turns(settings, contenders, splits, tell)
    images: list[Images] = ["shards", *(["original"] if settings.original is not None else [])]  # type: ignore[list-item]
    about = {
        name: {"mean_bytes": splits[name].bytes / settings.samples, "distinct": splits[name].distinct}
        for name in images
    }
    return {"images": about, "workers": settings.workers, "timings": timings}


def _contenders(settings: Settings) -> Iterator[Contender]:
    stages: tuple[Stage, ...] = ("train", "eval")
    for stage in stages:
        for kind in _kinds(settings):
            few = stage == "eval" or kind == "original"
            for workers in [1] if few else sorted({1, *settings.workers}):
                yield Contender(stream(stage, kind, workers), "stream", kind, stage, workers, epochs="each")
            for workers in [0, 1] if stage == "eval" else sorted({0, 1, *settings.workers}):
                name = standard(stage, kind, workers)
                yield Contender(name, "standard", kind, stage, workers, data_peers.WEBDATASET, epochs="first")
            yield Contender(alone(stage, kind), "alone", kind, stage, epochs="first")
    yield Contender(control("train", "shards"), "alone", epochs="first")
    yield Contender(BYTES, "bytes")
    yield Contender(PEER_BYTES, f"{data_peers.WEBDATASET} bytes", format=data_peers.WEBDATASET)


def _all_jpeg(split: Split) -> bool:
    return all(sample.payload.startswith(b"\xff\xd8") for sample in samples_of(load_manifest(split.ours)))


def _kinds(settings: Settings) -> tuple[Images, ...]:
    return ("shards",) if settings.original is None else ("shards", "original")


def _where(stage: Stage, images: Images) -> str:
    return f"{'training' if stage == 'train' else 'evaluation'}, {images}"


def _workers(workers: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)}"
