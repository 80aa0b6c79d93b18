"""Trainings killed with SIGKILL and started again by the same command end as if nothing had happened."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.resume.runs import Left, arguments, assert_same, what_is_left

POINTS = ["batch 0 2", "batch 1 3", "batch 0 5", "batch 1 5", "validation 0", "validation 1", "save 2", "save 3"]
WORKERS = [0, 1, 3]
PROCESSES = [1, 2]
GRID = list(itertools.product(POINTS, WORKERS, PROCESSES))
SAMPLE = [*random.Random(5).sample([cell for cell in GRID if cell[2] == 1], 3), ("batch 1 3", 1, 2), ("save 3", 0, 2)]


def processes(count: int) -> list[str]:
    """A global batch of 32, over so many processes."""
    alone = ["--data.batch_size", str(32 // count), "--trainer.devices", str(count)]
    return alone if count == 1 else [*alone, "--trainer.strategy", "ddp"]


def run(arguments: list[str], cwd: Path) -> int:
    """Exit code of the command; what a killed one leaves of its other processes is ended too."""
    child = subprocess.Popen(
        [sys.executable, "-m", "en_bench", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=180)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.returncode not in (0, -signal.SIGKILL):
        print(output)
    return child.returncode


@pytest.fixture(scope="session")
def undisturbed(shards, tmp_path_factory) -> dict[int, Left]:
    """By number of processes."""
    left = {}
    for count in PROCESSES:
        folder = tmp_path_factory.mktemp(f"undisturbed{count}")
        assert run(arguments(shards, folder / "run", *processes(count)), folder) == 0
        left[count] = what_is_left(folder / "run", count)
    return left


def killed_and_continued(shards: Path, folder: Path, point: str, first: list[str], then: list[str]) -> Path:
    target = folder / "run"
    assert run(arguments(shards, target, *first, kill=point), folder) != 0
    assert Path(f"{target}.killed").exists()
    assert not (target / "fit.json").exists()
    assert run(arguments(shards, target, *then, kill=point), folder) == 0
    return target


def check(shards: Path, folder: Path, undisturbed: dict[int, Left], point: str, workers: int, count: int) -> None:
    options = [*processes(count), "--data.workers", str(workers)]
    target = killed_and_continued(shards, folder, point, options, options)
    assert_same(what_is_left(target, count), undisturbed[count])


@pytest.mark.slow
@pytest.mark.parametrize(("point", "workers", "count"), SAMPLE)
def test_a_sample_of_kills(shards, tmp_path, undisturbed, point, workers, count):
    check(shards, tmp_path, undisturbed, point, workers, count)


@pytest.mark.full
@pytest.mark.parametrize(("point", "workers", "count"), [cell for cell in GRID if cell not in SAMPLE])
def test_the_whole_grid_of_kills(shards, tmp_path, undisturbed, point, workers, count):
    check(shards, tmp_path, undisturbed, point, workers, count)


@pytest.mark.slow
def test_other_workers_go_on_where_the_first_ones_stood(shards, tmp_path, undisturbed):
    target = killed_and_continued(shards, tmp_path, "batch 1 3", ["--data.workers", "0"], ["--data.workers", "3"])
    assert_same(what_is_left(target), undisturbed[1])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_other_processes_take_the_same_global_batches(shards, tmp_path, undisturbed, first, then):
    target = killed_and_continued(shards, tmp_path, "batch 1 3", processes(first), processes(then))
    reference = undisturbed[1].batches()
    for rank in range(max(first, then)):
        lines = [line for line in what_is_left(target, max(first, then)).trace[rank] if "batch" in line]
        assert lines
        for line in lines:
            whole = reference[line["epoch"], line["batch"]]
            of = 32 // len(line["rows"])
            part = (
                whole["rows"][rank * len(line["rows"]) : (rank + 1) * len(line["rows"])] if of == 2 else whole["rows"]
            )
            assert line["rows"] == part
            assert line["lr"] == whole["lr"]
    trained = [(line["epoch"], line["batch"]) for line in what_is_left(target, 1).trace[0] if "batch" in line]
    assert sorted(set(trained)) == [(epoch, batch) for epoch in range(2) for batch in range(6)]
