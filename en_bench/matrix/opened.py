"""A matrix as a command finds it: its specification, where its results lie, and which data are here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from en_bench.data.places import Place, is_remote, place
from en_bench.errors import InputError
from en_bench.matrix.overlays import shown
from en_bench.matrix.plan import Digests, PlannedCell, manifest_digests, plan
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec, load_spec
from en_bench.plural import counted

RESULTS = Path("results")
"""Where results lie by default."""

_MOST_NAMES = 3
_SHARDS = "EN_BENCH_SHARDS"


@dataclass(frozen=True)
class OpenedMatrix:
    """`data_root` is what the user gave, None if nothing: it is passed on as such. `shards` is where the data lie."""

    spec: Spec
    results: Results
    digests: Digests
    shards: Place
    data_root: Place | None = None

    def planned(self) -> list[PlannedCell]:
        """Every cell with its state; warns of files that are no records."""
        records, warnings = self.results.load()
        for warning in warnings:
            warn(warning)
        planned = plan(self.spec, records, self.digests)
        cells = {item.cell.id for item in planned}
        self._warn_of_others([record for cell_id, record in records.items() if cell_id not in cells])
        return planned

    def as_recorded(self) -> list[PlannedCell]:
        """As `planned`, to read records only: where a URL of data does not tell, they are taken for current."""
        if not is_remote(self.shards):
            return self.planned()
        from en_bench.data.fetch import Patience

        try:
            return replace(self, digests=manifest_digests(self.shards, Patience(tries=3))).planned()
        except InputError as error:
            warn(f"{error}; meanwhile results count as current")
            return replace(self, digests=lambda name: None).planned()

    def _warn_of_others(self, others: Sequence[Record]) -> None:
        """Of records that are of no cell."""
        if others:
            names = sorted({f"{record.norm}/{record.train}/{record.seed}" for record in others})
            more = ", ..." if len(names) > _MOST_NAMES else ""
            warn(
                f"{shown(self.results.records)}: {counted(len(others), 'record')} of cells that the specification no "
                f"longer has ({', '.join(names[:_MOST_NAMES])}{more}): changed settings? They count nowhere"
            )


def warn(text: str) -> None:
    """A line on stderr."""
    print(f"en-bench: warning: {text}", file=sys.stderr)


def results_of(args: argparse.Namespace) -> Path:
    """Where results lie: what --results says, else the place where they lie by default."""
    return args.results or RESULTS


def no_results(results: Results) -> str | None:
    """A line to say of results that are not there yet; None where they are."""
    return None if results.folder.is_dir() else f"no results at {shown(results.folder)} yet"


def require_results(results: Results, args: argparse.Namespace, by_default: bool = False) -> None:
    """For verbs that read. Raises InputError where --results was given, or even `by_default`, and there are none."""
    if results.folder.is_dir() or (args.results is None and not by_default):
        return
    if args.results is None:
        raise InputError(f"{no_results(results)}: en-bench matrix run makes them, or give --results")
    cure = f"--results {args.results.parent}" if (args.results / "records").is_dir() else "the folder that holds it"
    raise InputError(f"--results {args.results}: there is no {shown(results.folder)}: give {cure}")


def missing_data(matrix: OpenedMatrix) -> str | None:
    """A line to say where the folder of the data was given and is none; the default one may be missing."""
    given = "--data-root" if matrix.data_root is not None else _SHARDS if os.environ.get(_SHARDS) else None
    if given is None or is_remote(matrix.shards) or matrix.shards.is_dir():
        return None
    return f"{given} {matrix.shards}: there is no such folder: give the one that the prepared sets lie in, or a URL"


def require_data(matrix: OpenedMatrix) -> None:
    """Raises InputError where the folder of the data was given and is none."""
    if (missing := missing_data(matrix)) is not None:
        raise InputError(missing)


def open_matrix(args: argparse.Namespace) -> OpenedMatrix:
    """What the arguments SPEC, --results and --data-root name; InputError for what is none."""
    spec = load_spec(args.spec)
    root = results_of(args)
    results = Results(root / spec.name)
    for folder in (root, results.folder, results.runs, results.records, results.leases, results.tables):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--results {root}: {folder} is a file: give a folder, or remove the file")
    data_root = place(args.data_root) if args.data_root else None
    shards = data_root if data_root is not None else place(os.environ.get(_SHARDS) or "data")
    return OpenedMatrix(spec, results, manifest_digests(shards), shards, data_root)
