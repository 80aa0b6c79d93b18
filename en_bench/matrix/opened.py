"""A matrix as a command finds it: its specification, where its results lie, and which data are here."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from en_bench.errors import InputError
from en_bench.matrix.plan import Digests, PlannedCell, manifest_digests, plan
from en_bench.matrix.records import Results
from en_bench.matrix.spec import Spec, load_spec


@dataclass(frozen=True)
class OpenedMatrix:
    """`data_root` is what the user gave, None if nothing: it is passed on as such. `shards` is where the data lie."""

    spec: Spec
    results: Results
    digests: Digests
    shards: Path
    data_root: Path | None = None

    def planned(self) -> list[PlannedCell]:
        """Every cell with its state; warns of files that are no records."""
        records, warnings = self.results.load()
        for warning in warnings:
            print(f"en-bench: warning: {warning}", file=sys.stderr)
        return plan(self.spec, records, self.digests)


def open_matrix(args: argparse.Namespace) -> OpenedMatrix:
    """What the arguments SPEC, --results and --data-root name; InputError for what is none."""
    spec = load_spec(args.spec)
    results = Results(args.results / spec.name)
    for folder in (args.results, results.folder, results.runs, results.records, results.leases, results.tables):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--results {args.results}: {folder} is a file: give a folder, or remove the file")
    shards = args.data_root or Path(os.environ.get("EN_BENCH_SHARDS") or "data")
    return OpenedMatrix(spec, results, manifest_digests(shards), shards, args.data_root)
