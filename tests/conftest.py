"""Small sets made for real by the writer that makes the large ones, and the commands run as users run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.images import make_split
from tests.scheduling import pytest_xdist_make_scheduler  # noqa: F401

REPO = Path(__file__).resolve().parents[1]

# For a command in a process of its own whose numbers are compared, to the bit, with those of one in this process.
SAME_THREADS = {"OMP_NUM_THREADS": str(torch.get_num_threads())}

# Compiling the tables of each kind of normaliser takes seconds: the tests that are about it ask for it.
os.environ.setdefault("EN_BENCH_NORMS", "eager")

# A shell that starts the suite in the background lets it, and all that it starts, ignore interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def sigint() -> Iterator[None]:
    """Its handler is back after the test."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with `a/{train,val}` and `b/{train,val}` of the same three classes, in several uneven shards."""
    root = tmp_path_factory.mktemp("shards")
    make_split(root / "a" / "train", 200, seed=1)
    make_split(root / "a" / "val", 93, seed=2)
    make_split(root / "b" / "train", 160, seed=3)
    make_split(root / "b" / "val", 61, seed=4)
    return root


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m en_bench ARGS` in a process of its own, in a folder, with one thread, bounded in time."""

    def run(
        *arguments: object, cwd: Path, timeout: float = 200, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "en_bench", *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            check=False,
        )

    return run
