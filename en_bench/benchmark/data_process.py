"""Readings in processes of their own: what one of them measures has no past, and leaves nothing to the next.

`python -m en_bench.benchmark.data_process` reads a task and its arguments (JSON) from standard input, and prints what
it found (JSON) as its last line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

from en_bench.errors import InputError

# Functions that a process can be asked to call, and their modules, of which it imports no more than it needs.
_TASKS = {
    "read": "data_reading",
    "watch": "data_memory",
    "load": "data_scale",
    "start": "data_scale",
    "train": "data_training",
}
LONGEST_S = 3600.0
_QUIET = {
    "OMP_NUM_THREADS": "1",  # a process that loads has one core
    "MKL_NUM_THREADS": "1",
    "LITDATA_DISABLE_VERSION_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}


class HungError(RuntimeError):
    """A process that did not end in time."""


def ask(task: str, limit: float = LONGEST_S, **arguments: Any) -> dict[str, Any]:
    """What a fresh process finds out.

    Raises InputError with its error line, RuntimeError with its last words where it has none, and HungError.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "en_bench.benchmark.data_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **_QUIET},
        start_new_session=True,  # so that it and its workers can be ended together
    )
    try:
        asked = json.dumps({"task": task, "arguments": arguments}, default=str)
        output, errors = process.communicate(asked, timeout=limit)
    except subprocess.TimeoutExpired:
        _end(process)
        said = process.communicate()[1][-2000:]
        raise HungError(f"{task} had not ended after {limit:.0f} s ({arguments}), and said:\n{said}") from None
    finally:
        _end(process)
    lines = output.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else {}
    except ValueError:
        answer = {}
    if "error" in answer:
        raise InputError(answer["error"])
    if process.returncode != 0 or "found" not in answer:
        raise RuntimeError(f"{task} ended with {process.returncode} and said:\n{errors[-2000:]}")
    found: dict[str, Any] = answer["found"]
    return found


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> int:
    """Does what standard input asks for."""
    asked = json.load(sys.stdin)
    module = importlib.import_module(f"en_bench.benchmark.{_TASKS[asked['task']]}")
    try:
        answer = {"found": getattr(module, asked["task"])(**asked["arguments"])}
    except InputError as error:
        answer = {"error": str(error)}
    print("\n" + json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
