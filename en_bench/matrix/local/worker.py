"""A process that runs cells for a launcher: it reads their ids, one a line, and answers each with a line of JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.process import CutShort
from en_bench.matrix.run import INTERRUPTED, Runner

READY: Mapping[str, Any] = {"ready": True}
CUT_SHORT: Mapping[str, Any] = {"cut_short": True}
"""Says so before the end, whose exit code is that of a process which has saved."""


def serve(runner: Runner, planned: Iterable[PlannedCell]) -> int:
    """Runs cells until its input ends; returns the exit code: 0, 130 if interrupted.

    Answers go where standard output went; all that is printed goes to standard error, also by libraries in C++.
    """
    sys.stdout.flush()
    with open(os.dup(1), "w", encoding="utf-8", buffering=1) as answers:
        os.dup2(2, 1)
        cells = {item.cell.id: item for item in planned}
        answers.write(json.dumps(READY) + "\n")
        try:
            for line in sys.stdin:
                answers.write(json.dumps(_answer(runner, cells.get(line.strip()))) + "\n")
        except CutShort:
            answers.write(json.dumps(CUT_SHORT) + "\n")
            return INTERRUPTED
        except KeyboardInterrupt:  # the launcher has said so
            return INTERRUPTED
    return 0


def _answer(runner: Runner, item: PlannedCell | None) -> dict[str, Any]:
    """Whether a cell has its record, from so many seconds of work; else, if that is known, why it will have none."""
    if item is None:
        spec = runner.cells.spec.path
        return {"failed": f"{spec}, or one of its overlays, changed since this run was planned: start it again"}
    settled = runner.settle(item)
    sys.stdout.flush()
    if settled is not None and not settled.saved:
        return {"failed": settled.record.reason}
    return {"settled": settled is not None, "seconds": None if settled is None else settled.seconds}
