"""Several processes: the whole set by `write_split`, beside encoders that run side by side and write nothing."""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from en_bench.benchmark.prepare_images import Material
from en_bench.benchmark.prepare_settings import Settings
from en_bench.benchmark.prepare_writing import seconds_to_write
from en_bench.benchmark.timing import OwnClock, interleaved
from en_bench.data.images import ImageEncoder
from en_bench.data.sources import Source


def writing(workers: int) -> str:
    """Name of the timing of `write_split`."""
    return f"write_split, {workers}"


def alone(workers: int) -> str:
    """Name of the timing of the encoders alone."""
    return f"ImageEncoder, {workers}"


def measure_workers(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """In `cases`, for images that are kept and that are resized, seconds for the whole set with each number of workers.

    Of encoders alone each process works off one part in its memory; that pace is told for the whole set.
    """
    samples = material.samples
    shards = math.lcm(*settings.workers) * math.ceil(len(material.parts) / math.lcm(*settings.workers))
    cases = []
    with _side_by_side(material, settings.workers) as seconds_alone:
        for work, encoder in (("kept", settings.kept()), ("resized", settings.resized())):
            tell(f"workers: all {len(samples):,} images, {work}, {settings.repeats['workers']} rounds")
            write = functools.partial(seconds_to_write, material, samples, encoder, shards=shards)
            calls: dict[str, Callable[[], float]] = {}
            for workers in settings.workers:
                calls[alone(workers)] = functools.partial(seconds_alone, encoder, workers)
                calls[writing(workers)] = functools.partial(
                    _on_cores, workers, functools.partial(write, workers=workers)
                )
            timings = interleaved(calls, OwnClock(), settings.repeats["workers"], warm_ups=0)
            cases.append({"work": work, "images": len(samples), "workers": settings.workers, "timings": timings})
    return {"shards": shards, "cases": cases}


def _on_cores(cores: int, work: Callable[[], float]) -> float:
    """What `work` returns, done by this process and those it starts on so many cores, where the system can see to it.

    One process alone would read and write its files on a second core, which several have not.
    """
    if not hasattr(os, "sched_setaffinity"):
        return work()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(allowed)[:cores]))
    try:
        return work()
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def _side_by_side(material: Material, counts: Sequence[int]) -> Iterator[Callable[[ImageEncoder, int], float]]:
    """Lets one of `counts` of processes encode, and tells in how many seconds they would have encoded the whole set."""
    context = multiprocessing.get_context("spawn")
    barriers = {workers: context.Barrier(workers) for workers in counts}
    with ProcessPoolExecutor(max(counts), mp_context=context, initializer=_begin, initargs=(barriers,)) as pool:

        def seconds(encoder: ImageEncoder, workers: int) -> float:
            parts = [material.parts[number % len(material.parts)] for number in range(workers)]
            futures = [pool.submit(_encode, part, encoder, workers, material.largest) for part in parts]
            times = [future.result() for future in futures]
            elapsed = max(end for _, end in times) - min(start for start, _ in times)
            return elapsed * len(material.parts) / workers

        yield seconds


_barriers: Mapping[int, Any] = {}  # what the initializer leaves in a process: for each number of processes one


def _begin(barriers: Mapping[int, Any]) -> None:
    global _barriers
    _barriers = barriers
    torch.set_num_threads(1)  # the processes are the parallelism


def _encode(
    part: Sequence[Source], encoder: ImageEncoder, processes: int, warm_up: Callable[[], bytes]
) -> tuple[float, float]:
    """Start and end on the system's monotonic clock, all processes starting together."""
    contents = [sample.load() for sample in part]
    encoder(warm_up())
    _barriers[processes].wait(timeout=600)
    start = time.monotonic()
    for content in contents:
        encoder(content)
    return start, time.monotonic()
