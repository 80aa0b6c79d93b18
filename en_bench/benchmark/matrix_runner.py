"""A matrix run in this process, with its commands timed: `python -m en_bench.benchmark.matrix_runner RESULT ARGUMENTS`.

RESULT becomes a JSON file with the seconds of `en-bench ARGUMENTS` as a whole, from the start of the process, and those
of each `fit` and `validate` in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from en_bench import cli


def main(result: Path, arguments: list[str]) -> int:
    """Returns the exit code of the command."""
    commands: list[dict[str, object]] = []

    def timed(argv: list[str]) -> None:
        began = time.perf_counter()
        try:
            cli._execute(argv)
        finally:
            commands.append({"command": argv[0], "seconds": time.perf_counter() - began})

    parsed: argparse.Namespace = cli._parser().parse_args(arguments)
    code = int(parsed.handler(parsed, timed))
    result.write_text(json.dumps({"seconds": _age(), "commands": commands}))
    return code


def _age() -> float:
    """Seconds since this process was started."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
