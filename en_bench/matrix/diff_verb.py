"""`en-bench matrix diff A B`: two result folders cell by cell."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from en_bench.errors import InputError
from en_bench.matrix.collection import collection_paused
from en_bench.matrix.diff import Verdict, compare, counted, same
from en_bench.matrix.diff_lines import aligned, cell_lines
from en_bench.matrix.opened import RESULTS, require_results, results_of
from en_bench.matrix.plan import plan_cells
from en_bench.matrix.process import Execute
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.spec import load_spec
from en_bench.plural import counted as counted_as

_ORIGINS = ("device", "versions", "commit")


def add_diff_arguments(parser: argparse.ArgumentParser) -> None:
    for side in ("a", "b"):
        parser.add_argument(
            side, type=Path, metavar=side.upper(), help="a matrix's folder, which holds records/, or its YAML file"
        )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="measured numbers that differ by no more are equal; accuracies are fractions, counts always exact "
        "(default: 0)",
    )
    parser.add_argument("--results", type=Path, help=f"where the folder of a YAML file lies (default: {RESULTS})")


@collection_paused()
def diff_verb(args: argparse.Namespace, execute: Execute) -> int:
    """Prints every cell's verdict and what differs. Returns 0 if cells were done and nothing differs, else 1."""
    if not 0 <= args.tolerance < math.inf:
        raise InputError(f"--tolerance {args.tolerance} is none: give a number of 0 or more")
    sides = [_open(path, args) for path in (args.a, args.b)]
    specified = [cells for _, cells in sides if cells is not None]
    loaded = [_load(results) for results, _ in sides]
    wanted = {cell_id: name for cells in specified for cell_id, name in cells.items()}
    records = [
        {cell_id: record for cell_id, record in side.items() if cell_id in wanted or not specified} for side in loaded
    ]
    for letter, (results, _), before, kept in zip("AB", sides, loaded, records, strict=True):
        apart = f", and {len(before) - len(kept)} of no cell of the specification" if len(before) > len(kept) else ""
        print(f"{letter}: {results.folder}, {counted_as(len(kept), 'record')}{apart}")
    origins = [(fact, *(_origins(side, fact) for side in records)) for fact in _ORIGINS]
    for line in aligned([(f"{fact}:", a or "none", b or "none", "") for fact, a, b in origins if a != b]):
        print(line)
    found = compare(records[0], records[1], args.tolerance)
    for line in cell_lines(found):
        print(line)
    missing = [name for cell_id, name in wanted.items() if not any(cell_id in side for side in records)]
    for name in missing:
        print(f"{'missing':<{max(map(len, Verdict))}}  {name}")
    print(counted(found) + (f", missing in both {len(missing)}" if wanted else ""))
    if not found:
        print("nothing was compared: neither side has a record of these cells")
    elif all(compared.verdict is Verdict.FAILED for compared in found):
        print("no numbers were compared: all cells failed on both sides")
    return 0 if same(found) else 1


def _open(path: Path, args: argparse.Namespace) -> tuple[Results, Mapping[str, str] | None]:
    """The results that `path` names, and, if it is a specification, the names of its cells by id."""
    if path.is_file():
        spec = load_spec(path)
        results = Results(results_of(args) / spec.name)
        require_results(results, args)
        return results, {cell.id: str(cell) for cell in plan_cells(spec)}
    folder = path.parent if path.name == "records" else path
    if not (folder / "records").is_dir():
        raise InputError(
            f"{path}: no folder records/ in it: give a matrix's folder such as results/digits, or its YAML"
        )
    return Results(folder), None


def _load(results: Results) -> Mapping[str, Record]:
    records, warnings = results.load()
    for warning in warnings:
        print(f"en-bench: warning: {warning}", file=sys.stderr)
    return records


def _origins(records: Mapping[str, Record], fact: str) -> str:
    from en_bench.report.origin import told_origin

    return "; ".join(sorted({told_origin(fact, record.fit.get(fact)) for record in records.values() if record.fit}))
