"""What a training does once its cell was taken over, and what its successor does meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from en_bench.cli import main
from en_bench.files import replacing
from en_bench.lease_guard import LEASE, LeaseLost
from en_bench.matrix import progress as files
from en_bench.matrix.lease import Lease, Leases
from en_bench.matrix.progress import Progress, read_progress, remove_progress, write_progress
from en_bench.matrix.training import make_room
from en_bench.resume.checkpoint import AtomicCheckpointIO, last_checkpoint
from en_bench.telemetry import progress
from tests.resume.runs import arguments

CELL = "0123456789abcdef"
OURS = Progress("fit", "fit", 1, 2, 3, 4, None, {}, None, "here", 1, 0.0)


@pytest.fixture
def lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lease:
    """The lease under which this process works."""
    lease = Leases(tmp_path / "leases").take(CELL)
    assert lease is not None
    monkeypatch.setenv(LEASE, f"{lease.token}:{lease.path}")
    return lease


def take_over(lease: Lease) -> None:
    os.utime(lease.path, (0, 0))
    assert lease.leases.take(CELL) is not None


def test_the_progress_of_the_successor_stays(lease: Lease, tmp_path: Path) -> None:
    assert write_progress(tmp_path, OURS)
    take_over(lease)
    with pytest.raises(LeaseLost):
        write_progress(tmp_path, Progress("fit", "fit", 1, 2, 1, 4, None, {}, None, "there", 1, 0.0))
    remove_progress(tmp_path)
    assert read_progress(tmp_path) == OURS


def test_the_checkpoint_that_the_successor_writes_stays(
    lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_over(lease)
    last = last_checkpoint(tmp_path)
    ours = os.environ[LEASE]
    monkeypatch.delenv(LEASE)
    with replacing(last) as file:
        file.write(b"of the successor")
        monkeypatch.setenv(LEASE, ours)
        with pytest.raises(LeaseLost):
            AtomicCheckpointIO().save_checkpoint({}, last)
        monkeypatch.delenv(LEASE)
    assert last.read_bytes() == b"of the successor"


def test_the_first_checkpoint_of_a_process_sweeps(tmp_path: Path) -> None:
    last = last_checkpoint(tmp_path)
    last.parent.mkdir()
    remains = last.with_name(".last.ckpt.killed")
    checkpoints = AtomicCheckpointIO()
    remains.touch()
    checkpoints.save_checkpoint({}, last)
    assert last.exists() and not remains.exists()
    remains.touch()  # of another process, which has been at work since
    checkpoints.save_checkpoint({}, last)
    assert remains.exists()


def test_room_is_made_while_somebody_still_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / CELL
    run.mkdir()
    (run / "log.txt").write_text("")

    def in_use(folder: Path, ignore_errors: bool = False) -> None:
        assert not run.exists()  # whoever still writes by name finds nothing to write to
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", in_use)
        assert make_room(run) is None
    assert list(run.iterdir()) == [] and len(list(tmp_path.iterdir())) == 2
    (run / "log.txt").write_text("")
    assert make_room(run) is None
    assert list(tmp_path.iterdir()) == [run]


@pytest.mark.slow
def test_a_training_ends_with_the_step_after(
    shards: Path, lease: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    steps = []

    def write(folder: Path, what: Progress) -> bool:
        steps.append(what.step)
        if what.step == 3:
            take_over(lease)
        return files.write_progress(folder, what)

    monkeypatch.setattr(progress, "write_progress", write)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN", 0.0)
    seldom = ("--trainer.log_every_n_steps", "1000", "--checkpoint.every_n_steps", "1000")
    with pytest.raises(LeaseLost):
        main(arguments(shards, run, *seldom))
    assert max(steps) == 3 and not last_checkpoint(run).exists()
