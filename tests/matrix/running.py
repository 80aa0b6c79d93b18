"""Matrices of commands that only look like trainings, run in the test's own process or in one of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from en_bench.matrix.cell_run import CellRun
from en_bench.matrix.lease import Leases
from en_bench.matrix.plan import Digests, plan
from en_bench.matrix.process import Execute
from en_bench.matrix.results import Results
from en_bench.matrix.run import Runner
from en_bench.matrix.spec import load_spec
from tests.matrix import fake_execute

RESULTS = Path("results/digits")


def nowhere(name: str) -> str | None:
    return None


def runner(
    spec_file: Path, execute: Execute = fake_execute.execute, digests: Digests = nowhere, isolate: bool = False
) -> Runner:
    results = Results(RESULTS)
    return Runner(CellRun(load_spec(spec_file), execute, results, digests, isolate=isolate), Leases(results.leases))


def run(spec_file: Path, digests: Digests = nowhere, only: str = "*", isolate: bool = False) -> int:
    return runner(spec_file, fake_execute.execute, digests, isolate).run(only)


def verbs(trace: Path) -> list[str]:
    """The verbs of all commands since the last call."""
    found = [json.loads(line)[0] for line in trace.read_text().splitlines()] if trace.exists() else []
    trace.unlink(missing_ok=True)
    return found


def states(spec_file: Path, digests: Digests = nowhere) -> list[str]:
    return [item.state.value for item in plan(load_spec(spec_file), Results(RESULTS).load()[0], digests)]


def start(spec_file: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, fake_execute.__file__, "matrix", "run", str(spec_file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
