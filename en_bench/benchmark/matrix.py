"""`en-bench bench matrix`: how long large matrices take to list and report, and what the runner adds to its cells."""

from __future__ import annotations

import argparse
import functools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from en_bench.benchmark.conditions import ratio
from en_bench.benchmark.matrix_material import Shape, large_matrix, small_matrix
from en_bench.benchmark.records import Benchmark, Measure, Record, tell
from en_bench.benchmark.table import Table
from en_bench.benchmark.timing import Call, WallClock, interleaved
from en_bench.errors import InputError

LISTED, RECORDED = 1120, 10_080  # the cells of a specification are a multiple of 70
WIDE = Shape(norms=32, trains=60, seeds=5)
START = "start of the command"
CONTROL = "plan, nothing done, again"
VERBS = {  # a row: verb, the matrix, the goal in seconds
    "plan, nothing done": (("matrix", "plan"), "missing", 1.0),
    "plan, all done": (("matrix", "plan"), "done", 1.0),
    "status, all done": (("matrix", "status"), "done", 1.0),
    "plan, many": (("matrix", "plan"), "many", None),
    "status, many": (("matrix", "status"), "many", 3.0),
    "report, many": (("matrix", "report"), "many", 3.0),
    "page, many": (("report",), "many", None),
    "report, many normalisers": (("matrix", "report"), "wide", None),
    "page, many normalisers": (("report",), "wide", None),
}
RUNNER_GOAL = 1.03
_ENOUGH_REPEATS, _ENOUGH_SECONDS = 7, 120.0
_QUIET = 0.1  # how far from 1 the same command measured twice may be


def bench_matrix(args: argparse.Namespace) -> int:
    """Returns the exit code. Raises InputError before anything is measured for what cannot be."""
    MATRIX.check_files(args)
    record = MATRIX.show(args.source) if args.source is not None else _measured(args)
    MATRIX.write_markdown(record, args.markdown)
    return 0


def _measured(args: argparse.Namespace) -> Record:
    for flag, value in (("--repeats", args.repeats), ("--cells", args.cells), ("--records", args.records)):
        if value is not None and value < 1:
            raise InputError(f"{flag} {value} is too few: use 1 or more")
    repeats = args.repeats or (2 if args.quick else _ENOUGH_REPEATS)
    record = MATRIX.begin(torch.device("cpu"), quick=args.quick, repeats=repeats)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        shapes = {
            "missing": _shape(args.cells or (140 if args.quick else LISTED)),
            "many": _shape(args.records or (280 if args.quick else RECORDED)),
            "wide": Shape(norms=9, trains=4, seeds=3) if args.quick else WIDE,
        }
        measures: dict[str, Measure] = {}
        if args.lists or not args.runner:
            measures["lists"] = functools.partial(measure_lists, folder, shapes, repeats)
        if args.runner:
            measures["runner"] = functools.partial(measure_runner, folder, args.quick)
        MATRIX.measure(record, measures, args)
    return record


def measure_lists(folder: Path, shapes: Mapping[str, Shape], repeats: int) -> dict[str, Any]:
    """The wall time of each verb in a process of its own, on matrices of these `shapes`, of which all but `missing`
    have records."""
    shapes = {**shapes, "done": shapes["missing"]}
    tell(f"lists: making {sum(shape.cells for name, shape in shapes.items() if name != 'missing'):,} records")
    specs = {name: large_matrix(folder / name, shape, name != "missing") for name, shape in shapes.items()}
    calls: dict[str, Call] = {START: _command(folder, "matrix", "plan", "--help", says="usage")}
    for row, (verb, matrix, _) in VERBS.items():
        spec, done = specs[matrix], 0 if matrix == "missing" else shapes[matrix].cells
        says = "report.html" if verb == ("report",) else f"done {done}, missing"
        calls[row] = _command(spec.parent, *verb, str(spec), says=says)
        if row == "plan, nothing done":
            calls[CONTROL] = _command(spec.parent, *verb, str(spec), says=says)
    tell(f"lists: {len(calls)} commands, {repeats} times")
    timings = interleaved(calls, WallClock(torch.device("cpu"), 0.0), repeats, warm_ups=1)
    size = next((specs["many"].parent / "results/large/records").iterdir()).stat().st_size
    wide = shapes["wide"]
    return {
        "listed": shapes["missing"].cells,
        "recorded": shapes["many"].cells,
        "wide": {"norms": wide.norms, "trains": wide.trains, "seeds": wide.seeds},
        "record_bytes": size,
        "timings": timings,
    }


def measure_runner(folder: Path, quick: bool) -> dict[str, Any]:
    """The wall time of a run, and of the `fit` and `validate` commands in it."""
    images, epochs, seeds = (64, 1, 1) if quick else (3_200, 4, 2)
    tell(f"runner: a ResNet-20, {4 * seeds} cells of {epochs} epochs of {images:,} images")
    spec = small_matrix(folder / "small", images, epochs, seeds)
    result = folder / "small" / "times.json"
    arguments = ["matrix", "run", str(spec), "--data-root", str(spec.parent / "data")]
    command = [sys.executable, "-m", "en_bench.benchmark.matrix_runner", str(result), *arguments]
    done = subprocess.run(command, cwd=spec.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InputError(f"the matrix of the benchmark failed: {' '.join((done.stdout + done.stderr)[-300:].split())}")
    return {"cells": 4 * seeds, "images": images, "epochs": epochs, **json.loads(result.read_text())}


def _shape(wanted: int) -> Shape:
    """Of so many cells or a few more: 7 normalisers on 10 training sets, with as many seeds as it takes."""
    return Shape(norms=7, trains=10, seeds=2 * -(-wanted // 140))


def _command(folder: Path, *argv: str, says: str) -> Call:
    """Runs `en-bench ARGV` in a process of its own, and looks whether it said what it has to."""

    def run() -> None:
        done = subprocess.run(
            [sys.executable, "-m", "en_bench", *argv], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or says not in done.stdout:
            raise InputError(
                f"en-bench {' '.join(argv)} did not say {says!r}: {done.stdout[-200:]}{done.stderr[-200:]}"
            )

    return run


def summarise(record: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Seconds of each verb, and in units of its commands what the runner took, with goals and verdicts."""
    made = {"lists": _list_rows, "runner": _runner_rows}
    return {section: list(made[section](record, found)) for section, found in record["sections"].items()}


def _list_rows(record: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    told = deviations(record, "lists")
    for row, timing in found["timings"].items():
        goal = VERBS[row][2] if row in VERBS else None
        seconds = timing["median"]
        verdict = "" if goal is None else "none" if told else _verdict(seconds, goal)
        yield {"command": row, "seconds": seconds, "goal": goal, "verdict": verdict}


def _runner_rows(record: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    commands = sum(command["seconds"] for command in found["commands"])
    value = found["seconds"] / commands
    verdict = "none" if deviations(record, "runner") else _verdict(value, RUNNER_GOAL)
    yield {
        "seconds": found["seconds"],
        "commands": commands,
        "per_cell": (found["seconds"] - commands) / found["cells"],
        "ratio": value,
        "goal": RUNNER_GOAL,
        "verdict": verdict,
    }


def _verdict(value: float, goal: float) -> str:
    return "met" if value <= goal else f"missed by {value / goal - 1:.1%}"


def deviations(record: Mapping[str, Any], section: str) -> list[str]:
    """In what a measurement differs from what the goals are set for: with any of these there is no verdict."""
    found = ["--quick"] if record["quick"] else []
    measured = record["sections"].get(section)
    if section == "lists" and measured is not None:
        if record["repeats"] < _ENOUGH_REPEATS:
            found.append(f"median of {record['repeats']}, not of {_ENOUGH_REPEATS} or more")
        if measured["listed"] < 1000 or measured["recorded"] < 10_000:
            found.append(f"{measured['listed']} cells and {measured['recorded']} records, not 1,000 and 10,000")
        noise = ratio(measured["timings"], CONTROL, "plan, nothing done")
        if noise is not None and abs(noise - 1) > _QUIET:
            found.append(f"{CONTROL} took {noise:.2f} of itself: the machine was not quiet")
    if section == "runner" and measured is not None:
        seconds = sum(command["seconds"] for command in measured["commands"])
        if seconds < _ENOUGH_SECONDS:
            found.append(f"fits and validations of {seconds:.0f} s, not of {_ENOUGH_SECONDS:.0f} s or more")
    return found


def tables(record: Mapping[str, Any]) -> dict[str, list[Table]]:
    made = {"lists": _list_table, "runner": _runner_table}
    found = {section: made[section](record, measured) for section, measured in record["sections"].items()}
    return {section: [table] for section, table in found.items()}


def _list_table(record: Mapping[str, Any], found: Mapping[str, Any]) -> Table:
    rows = []
    for row in _list_rows(record, found):
        cells = _cells(row["command"], found)
        goal = "" if row["goal"] is None else f"<= {row['goal']:.0f} s"
        rows.append([row["command"], cells, f"{row['seconds']:.2f} s", goal, row["verdict"]])
    title = f"Commands on large matrices: medians of {record['repeats']} interleaved processes"
    told = deviations(record, "lists")
    if "wide" in found:  # not in measurements of former versions
        wide = found["wide"]
        shape = f"{wide['norms']} normalisers, {wide['trains']} training sets and {wide['seeds']} seeds"
        notes = [f"many normalisers: {shape}; else 7 normalisers and 10 training sets"]
    else:
        notes = []
    notes += [f"records of {found['record_bytes'] / 1e3:.1f} kB, two validations each, in the page cache"]
    notes += [f"no verdicts, as the goals are for other conditions: {'; '.join(told)}"] if told else []
    return Table(title, "lrrll", ["command", "cells", "wall time", "the project's goal", "verdict"], rows, notes)


def _cells(row: str, found: Mapping[str, Any]) -> str:
    """Of how many cells the matrix of a row is."""
    matrix = VERBS[row][1] if row in VERBS else "missing"
    if row == START:
        return ""
    if matrix == "wide":
        cells = math.prod(found["wide"].values())
    else:
        cells = found["recorded" if matrix == "many" else "listed"]
    return f"{cells:,}"


def _runner_table(record: Mapping[str, Any], found: Mapping[str, Any]) -> Table:
    (row,) = _runner_rows(record, found)
    cells = [
        f"{found['cells']}",
        f"{row['seconds']:.1f} s",
        f"{row['commands']:.1f} s",
        f"{row['per_cell']:.2f} s",
        f"{row['ratio']:.3f}",
        f"<= {RUNNER_GOAL:.2f}",
        row["verdict"],
    ]
    header = ["cells", "matrix run", "its commands", "more per cell", "ratio", "the project's goal", "verdict"]
    told = deviations(record, "runner")
    notes = [
        f"a ResNet-20, {found['epochs']} epochs of {found['images']:,} images of 32, one slot",
        "matrix run: from the start of the process to its end, planning, leases, records, table and page included",
        "its commands: the wall time of each fit and validate within that process, its imports included",
    ]
    notes += [f"no verdict, as the goal is for other conditions: {'; '.join(told)}"] if told else []
    return Table("What the runner adds to its cells", "rrrrrll", header, [cells], notes)


MATRIX = Benchmark("en-bench bench matrix", "Large matrices", "en_bench matrix benchmark 1", summarise, tables)
