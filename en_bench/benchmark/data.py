"""`en-bench bench data`: how fast, how well mixed and at what cost a prepared split is read, section by section."""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from en_bench.benchmark import data_peers
from en_bench.benchmark.data_compared import measure_peers
from en_bench.benchmark.data_material import Material, material
from en_bench.benchmark.data_memory import measure_memory, require_proc
from en_bench.benchmark.data_mixing import measure_mixing
from en_bench.benchmark.data_quality import measure_quality
from en_bench.benchmark.data_rates import measure_rates
from en_bench.benchmark.data_scale import measure_scale
from en_bench.benchmark.data_settings import Settings, settings_of
from en_bench.benchmark.data_summary import summarise
from en_bench.benchmark.data_tables import tables
from en_bench.benchmark.data_training import measure_training
from en_bench.benchmark.records import Benchmark, Record, tell
from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import load_manifest
from en_bench.errors import InputError

DATA = Benchmark("en-bench bench data", "What streams deliver", "en_bench data benchmark 1", summarise, tables)
_MEASURES: dict[str, Callable[[Settings, Material, Callable[[str], None]], dict[str, Any]]] = {
    "rates": measure_rates,
    "quality": measure_quality,
    "shuffle": measure_mixing,
    "memory": measure_memory,
    "peers": measure_peers,
    "training": measure_training,
}


def bench_data(args: argparse.Namespace) -> int:
    """Returns the exit code. Raises InputError before anything is measured for what cannot be."""
    DATA.check_files(args)
    if args.source is not None:
        if args.shards is not None:
            raise InputError(f"--from measures nothing: leave out {args.shards}, or --from")
        record = DATA.show(args.source)
    else:
        settings = settings_of(args)
        if {"memory", "scale"} & set(settings.sections):
            require_proc()
        with _images(settings) as (images, scratch):
            record = _begin(settings)
            DATA.measure(record, dict(_measures(settings, images, scratch)), args)
    DATA.write_markdown(record, args.markdown)
    return 0


@contextmanager
def _images(settings: Settings) -> Iterator[tuple[Material | None, Path]]:
    """What is read, and a folder for what else is written meanwhile."""
    if settings.shards is None:
        with tempfile.TemporaryDirectory(prefix="en_bench_data_", dir=settings.scratch) as folder:
            yield None, Path(folder)
    else:
        tell(f"copying {settings.samples:,} images into each format")
        with material(settings) as images:
            yield images, images.scratch


def _measures(
    settings: Settings, images: Material | None, scratch: Path
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for section in settings.sections:
        if section == "scale":
            yield section, functools.partial(measure_scale, settings, scratch, tell)
        else:
            assert images is not None
            yield section, functools.partial(_MEASURES[section], settings, images, tell)


def _begin(settings: Settings) -> Record:
    record = DATA.begin(
        torch.device("cuda" if settings.model is not None and torch.cuda.is_available() else "cpu"),
        quick=settings.quick,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        splits={
            name: {"name": f"{found.dataset}/{found.split}", "samples": found.count, "digest": found.digest}
            for name, folder in (("shards", settings.shards), ("original", settings.original))
            if folder is not None
            for found in [load_manifest(folder)]
        },
        settings=settings.facts(),
    )
    record["versions"] |= ImageEncoder().versions() | {"torch": torch.__version__} | data_peers.versions()
    record["threads"] = 1  # of each process that reads
    return record
