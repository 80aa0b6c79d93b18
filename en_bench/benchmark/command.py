"""`en-bench bench norms`: measures section by section, prints tables, keeps a record."""

import argparse
import functools

import torch

from en_bench.benchmark import first_use, layers, memory, steps
from en_bench.benchmark.fallbacks import noted
from en_bench.benchmark.records import Benchmark, Record, tell
from en_bench.benchmark.settings import Settings, settings_of
from en_bench.benchmark.summary import summarise
from en_bench.benchmark.tabulate import tables
from en_bench.errors import InputError
from en_bench.norms.mode import mode

NORMS = Benchmark("en-bench bench norms", "What normalisers cost", "en_bench norms benchmark 1", summarise, tables)
_MEASURES = {"layers": layers.measure, "steps": steps.measure, "memory": memory.measure, "first_use": first_use.measure}


def bench_norms(args: argparse.Namespace) -> int:
    """Returns the exit code. Raises InputError before anything is measured for what cannot be."""
    NORMS.check_files(args)
    record = NORMS.show(args.source) if args.source is not None else _measured(settings_of(args), args)
    NORMS.write_markdown(record, args.markdown)
    return 0


def _measured(settings: Settings, args: argparse.Namespace) -> Record:
    if args.threads is not None:
        if args.threads < 1:
            raise InputError(f"--threads {args.threads} is too few: use 1 or more")
        torch.set_num_threads(args.threads)
    record = NORMS.begin(
        settings.device,
        quick=settings.quick,
        kind=settings.device.type,
        peak_gbs=settings.peak_gbs,
        mode=mode(),
        settings={
            "norms": settings.norms,
            "shapes": settings.shapes,
            "formats": settings.formats,
            "dtypes": settings.dtypes,
            "repeats": settings.repeats,
        },
    )
    measures = {name: functools.partial(_MEASURES[name], settings, tell) for name in settings.sections}
    with noted() as record["warnings"]:
        NORMS.measure(record, measures, args)
    return record
