"""Memory and open files of a process that loads, and of its workers, over many epochs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from en_bench.benchmark.data_material import MANY_SHARDS, Material, copy_split
from en_bench.benchmark.data_process import ask
from en_bench.benchmark.data_reading import open_stream, training_order
from en_bench.benchmark.data_recipe import Recipe
from en_bench.benchmark.data_settings import Settings
from en_bench.data.loader import make_loader
from en_bench.data.samplers import TrainSampler
from en_bench.errors import InputError

SETTLED = 3  # epochs after which caches are full and allocators have what they need
_SAMPLES = {False: 1_024, True: 20_000}  # by whether images are small
_PROC = Path("/proc")


def measure_memory(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """In `cases`, without workers and with most, memory and open files after each epoch, from many shards."""
    samples = settings.samples if settings.quick else min(settings.samples, _SAMPLES[settings.recipe.padded])
    folder = material.scratch / "many"
    copy_split(material.shards.ours, folder, samples, min(MANY_SHARDS, samples))
    cases = []
    for workers in sorted({0, max(settings.workers)}):
        tell(f"memory: {settings.epochs} epochs of {samples:,} images, {workers} workers")
        found = ask(
            "watch",
            folder=str(folder),
            size=settings.recipe.size,
            padded=settings.recipe.padded,
            batch=settings.batch,
            workers=workers,
            epochs=settings.epochs,
        )
        cases.append({"workers": workers, "samples": samples, "shards": min(MANY_SHARDS, samples), **found})
    return {"epochs": settings.epochs, "settled": SETTLED, "cases": cases}


def watch(folder: str, size: int, padded: bool, batch: int, workers: int, epochs: int) -> dict[str, Any]:
    """Memory and open files after each epoch, of this process and its workers.

    Returns:
        rss: bytes in all, where what they share counts once for each.
        own: bytes in all, where it counts once (PSS), without mapped files: of those the share that falls to a process
            depends on who else on the machine runs the same libraries.
        files: the most that one of them has open.
        processes: their number.
    """
    dataset = open_stream(Path(folder), Recipe(size, padded), "train")
    sampler = TrainSampler(training_order(dataset), batch, 0, 1)
    loader = make_loader(dataset, sampler, workers, pin_memory=False)
    found: dict[str, list[int]] = {"rss": [], "own": [], "files": []}
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for _ in loader:
            pass
        told = [_told(pid) for pid in (os.getpid(), *children(os.getpid()))]
        found["rss"].append(sum(one["rss"] for one in told))
        found["own"].append(sum(one["own"] for one in told))
        found["files"].append(max(one["files"] for one in told))
    return {**found, "processes": len(told)}


def slope(values: list[int]) -> float:
    """Growth per step of what is left after the first `SETTLED` values: the least squares line through it."""
    settled = values[SETTLED:] if len(values) > SETTLED + 1 else values
    if len(settled) < 2:
        return 0.0
    return float(np.polyfit(np.arange(len(settled)), settled, 1)[0])


def children(process: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    found = []
    for task in (_PROC / str(process) / "task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def resident() -> int:
    """Bytes of this process in memory."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes of this process that were in memory at a time, since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Lets the peak begin anew."""
    (_PROC / "self" / "clear_refs").write_text("5")


def require_proc() -> None:
    """Raises InputError on systems that do not tell the memory of a process."""
    if not (_PROC / "self" / "smaps_rollup").exists():
        raise InputError("memory can be watched on Linux only: leave memory and scale out with --sections")


def _status(field: str) -> int:
    for line in (_PROC / "self" / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def _told(process: int) -> dict[str, int]:
    lines = (_PROC / str(process) / "smaps_rollup").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    files = len(os.listdir(_PROC / str(process) / "fd"))
    own = kilobytes["Pss"] - kilobytes.get("Pss_File", 0)  # kernels before 5.9 do not tell the latter
    return {"rss": 1024 * kilobytes["Rss"], "own": 1024 * own, "files": files}
