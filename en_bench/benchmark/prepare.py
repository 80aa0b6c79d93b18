"""`en-bench bench prepare`: how fast raw images become shards, and how good they are, section by section."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from en_bench.benchmark.prepare_images import Material, material
from en_bench.benchmark.prepare_quality import measure_quality
from en_bench.benchmark.prepare_rates import measure_copy, measure_rates
from en_bench.benchmark.prepare_settings import Settings, settings_of
from en_bench.benchmark.prepare_summary import summarise
from en_bench.benchmark.prepare_tables import tables
from en_bench.benchmark.prepare_workers import measure_workers
from en_bench.benchmark.records import Benchmark, Record, tell
from en_bench.errors import InputError

PREPARE = Benchmark("en-bench bench prepare", "What preparing costs", "en_bench prepare benchmark 1", summarise, tables)
_MEASURES = {"rates": measure_rates, "copy": measure_copy, "workers": measure_workers, "quality": measure_quality}


def bench_prepare(args: argparse.Namespace) -> int:
    """Returns the exit code. Raises InputError before anything is measured for what cannot be."""
    PREPARE.check_files(args)
    if args.source is not None:
        if args.archive is not None:
            raise InputError(f"--from measures nothing: leave out {args.archive}, or --from")
        record = PREPARE.show(args.source)
    else:
        settings = settings_of(args)
        with _one_thread(), material(settings) as images:
            record = _begin(settings, images)
            measures = {name: functools.partial(measure, settings, images, tell) for name, measure in _MEASURES.items()}
            PREPARE.measure(record, measures, args)
    PREPARE.write_markdown(record, args.markdown)
    return 0


def _begin(settings: Settings, images: Material) -> Record:
    record = PREPARE.begin(
        torch.device("cpu"),
        quick=settings.quick,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        images={
            "archive": settings.archive.name,
            "distinct": len(images.images),
            "left_out": images.left_out,
            "mean_bytes": sum(map(len, images.images)) / len(images.images),
            "copies": len(images.samples),
            "parts": len(images.parts),
        },
        settings={
            "gigabytes": settings.gigabytes,
            "short_side": settings.short_side,
            "quality": settings.quality,
            "workers": settings.workers,
            "repeats": dict(settings.repeats),
        },
    )
    record["versions"] |= settings.resized().versions() | {"torch": torch.__version__}
    return record


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within it torch uses one thread, since what is measured is what one process does with one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
