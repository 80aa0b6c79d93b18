"""`en-bench matrix plan --probe`: a few real steps of one cell of each shape of which nothing is known."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from en_bench.duration import duration
from en_bench.errors import InputError
from en_bench.matrix.commands import checkpoint_path, fit_command
from en_bench.matrix.cost.amount import Amount, Sizes, Unknown, amount_of
from en_bench.matrix.cost.known import Measured, keep_probe
from en_bench.matrix.cost.shape import Shape, shape_of
from en_bench.matrix.opened import OpenedMatrix
from en_bench.matrix.overlays import shown
from en_bench.matrix.plan import Cell
from en_bench.matrix.process import one_line
from en_bench.matrix.records import Json, read_json

WARM_UP, VALIDATION_BATCHES = 5, 5
_CALLBACK = "en_bench.telemetry.step_times.StepTimes"
_MEASURED = "step_times.json"  # of that callback
_GIVE = "give --seconds-per-step"


def probe_shapes(
    matrix: OpenedMatrix, cells: Sequence[Cell], sizes: Sizes, steps: int, tell: Callable[[str], None]
) -> int:
    """Measure the shape of each of `cells`, and keep what was found in the matrix's `probe.json`.

    Each is trained for `steps` steps beyond its warm-up by the real command, in a folder that is thrown away. Returns
    how many shapes could not be measured; why is told, a line each.
    """
    failed = 0
    done: set[Shape] = set()
    for cell in cells:
        shape = shape_of(cell.config)
        if shape in done:
            continue
        done.add(shape)
        tell(f"probe: {cell}: {WARM_UP + steps} steps of {shape}")
        try:
            measured, conditions = _probe(matrix, cell, shape, sizes, steps)
        except InputError as error:
            failed += 1
            tell(f"probe: {cell}: FAILED: {error}")
            continue
        path = keep_probe(matrix.results, measured, conditions)
        tell(f"probe: {cell}: {measured.step:.4g} s per step, {duration(conditions['wall_seconds'])} with start-up")
        tell(f"probe: kept in {shown(path)}")
    return failed


def _probe(matrix: OpenedMatrix, cell: Cell, shape: Shape, sizes: Sizes, steps: int) -> tuple[Measured, Json]:
    amount = amount_of(cell, matrix.spec, shape.ranks or 1, sizes)
    if isinstance(amount, Unknown):
        raise InputError(amount.reason)
    if amount.epoch == 1:
        raise InputError("its epochs have one step, and the first of an epoch cannot be measured: " + _GIVE)
    with tempfile.TemporaryDirectory(prefix="en-bench-probe-") as folder:
        run, log = Path(folder) / "run", Path(folder) / "log.txt"
        argv = [*fit_command(cell, run, matrix.data_root), *_short(amount, steps)]
        began = time.monotonic()
        with log.open("wb") as stream:
            done = subprocess.run(
                [sys.executable, "-m", "en_bench", *argv],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        wall = time.monotonic() - began
        if done.returncode != 0:
            raise InputError(_why(log, done.returncode))
        try:
            fit, times = read_json(run / "fit.json"), read_json(run / _MEASURED)
        except InputError as error:
            raise InputError(f"the training ended well but left no measurement: {error}") from None
        if times["steps"] < 1:
            raise InputError(f"its epochs have too few steps to measure any after {WARM_UP} of warm-up: {_GIVE}")
        images = times["validation_images"]
        measured = Measured(
            shape,
            fit["device"],
            fit["ranks"],
            times["step_seconds"] / times["steps"],
            times["validation_seconds"] / images if images else None,
            fit["cost"]["parameters"],
            checkpoint_path(run).stat().st_size,
            fit["finished"],
        )
    conditions = {"cell": str(cell), "warm_up": WARM_UP, **times, "wall_seconds": round(wall, 3)}
    return measured, {**conditions, "versions": fit["versions"], "commit": fit["commit"]}


def _short(amount: Amount, steps: int) -> list[str]:
    """Flags that make a training a short one, in epochs as long as they can be."""
    epoch = min(amount.epoch, WARM_UP + steps)
    # One step more for every epoch, whose first is not measured.
    epochs = 1 if epoch == WARM_UP + steps else -(-(WARM_UP + steps) // max(1, epoch - 1))
    callback = {"class_path": _CALLBACK, "init_args": {"warm_up": WARM_UP}}
    settings = {
        "max_epochs": epochs,
        "max_steps": -1,
        "limit_train_batches": epoch,
        "limit_val_batches": 1 + VALIDATION_BATCHES,
        "check_val_every_n_epoch": epochs,
        "val_check_interval": 1.0,
        "logger": False,
        "callbacks+": [callback],
    }
    return [part for key, value in settings.items() for part in (f"--trainer.{key}", json.dumps(value))]


def _why(log: Path, code: int) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if "error:" in line.lower()] or lines
    return one_line(f"exit code {code}: {said[-1]}" if said else f"exit code {code}")
