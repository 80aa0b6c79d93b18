"""Preparations that are cut off, at any moment and in any way, and run again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from en_bench.data import shard_task
from en_bench.data.manifest import PREPARING, load_manifest
from en_bench.errors import InputError
from tests.data.preparing import SAMPLES, SHARDS, contents, prepare
from tests.images import coloured_png

REPO = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tests.data.preparing"]


def start(folder: Path, workers: int, *flags: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, str(folder), str(workers), *map(str, flags)],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, workers: int, *flags: object) -> tuple[int, str]:
    process = start(folder, workers, *flags)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "train"
    prepare(str(folder), workers=1)
    assert load_manifest(folder).count == SAMPLES - 7
    return contents(folder)


def test_several_workers_write_the_same_bytes(whole, tmp_path):
    prepare(str(tmp_path / "train"), workers=2)
    assert contents(tmp_path / "train") == whole


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 2), (2, 1)])
def test_killed_and_resumed(whole, tmp_path, first, second):
    folder = tmp_path / "train"
    assert finish(folder, first, "--die-at", 70)[0] == -signal.SIGKILL
    left = os.listdir(folder)
    assert "manifest.json" not in left
    finished = [name for name in left if name.endswith(".tar")]
    # One worker dies in its fifth shard; of two, the other may have made all the rest by then.
    assert len(finished) == 4 if first == 1 else 0 < len(finished) <= SHARDS
    times = {name: (folder / name).stat().st_mtime_ns for name in finished if _part(folder, name).exists()}
    with pytest.raises(InputError, match=r"its preparation has not ended: run the script .* with --resume"):
        load_manifest(folder)
    with pytest.raises(InputError, match=r"left \d of 8 shards: add --resume to go on, or remove the folder"):
        prepare(str(folder), workers=1)
    prepare(str(folder), workers=second, resume=True)
    assert contents(folder) == whole
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}, "finished shards were made again"


def _part(folder: Path, shard: str) -> Path:
    return folder / PREPARING / f"part-{shard[-10:-4]}.json"


def test_resuming_with_other_options_says_which(tmp_path, monkeypatch):
    folder = tmp_path / "train"
    assert finish(folder, 1, "--die-at", 70)[0] == -signal.SIGKILL
    before = contents(folder)
    monkeypatch.setattr("tests.data.preparing.SHARDS", 9)
    with pytest.raises(InputError, match=r"an interrupted run with other --shards left \d of 8 shards: give the opt"):
        prepare(str(folder), workers=1, resume=True)
    assert contents(folder) == before


def test_killed_before_the_first_shard_begins_again(whole, tmp_path):
    folder = tmp_path / "train"
    assert finish(folder, 1, "--die-at", 5)[0] == -signal.SIGKILL
    prepare(str(folder), workers=1)
    assert contents(folder) == whole


def test_resume_with_nothing_there_begins(whole, tmp_path):
    prepare(str(tmp_path / "train"), workers=1, resume=True)
    assert contents(tmp_path / "train") == whole


@pytest.mark.parametrize("damage", ["shard cut", "shard gone", "part cut", "part of others", "plan cut"])
def test_what_was_damaged_since_is_made_again(whole, tmp_path, damage):
    folder = tmp_path / "train"
    assert finish(folder, 1, "--die-at", 70)[0] == -signal.SIGKILL
    parts = sorted((folder / PREPARING).glob("part-*.json"))
    shard = folder / json.loads(parts[0].read_text())["shard"]["name"]
    if damage == "shard cut":
        os.truncate(shard, 1000)
    elif damage == "shard gone":
        shard.unlink()
    elif damage == "part cut":
        os.truncate(parts[0], 30)
    elif damage == "part of others":
        parts[0].write_text('{"shard": null, "strange": 1}')
    else:
        os.truncate(folder / PREPARING / "plan.json", 30)
    prepare(str(folder), workers=1, resume=True)
    assert contents(folder) == whole


def test_killed_between_manifest_and_clearing_up(whole, tmp_path, capsys):
    folder = tmp_path / "train"
    prepare(str(folder), workers=1)
    (folder / PREPARING).mkdir()
    (folder / PREPARING / "plan.json").write_text("{}")
    prepare(str(folder), workers=1)
    assert "already there" in capsys.readouterr().out
    assert contents(folder) == whole


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_and_can_be_resumed(whole, tmp_path, workers):
    folder = tmp_path / "train"
    assert finish(folder, 1, "--die-at", 70)[0] == -signal.SIGKILL
    code, said = finish(folder, workers, "--resume", "--file-limit", 20_000)
    assert code == 1
    assert said == (
        f"{folder}: going on after 4 of 8 shards\n"
        f"{folder}: File too large: finished shards are kept; make room, or see to the connection, and run again "
        "with --resume\n"
    )
    prepare(str(folder), workers=1, resume=True)
    assert contents(folder) == whole


def test_a_full_disk_at_once_leaves_nothing(tmp_path):
    code, said = finish(tmp_path / "train", 1, "--file-limit", 20_000)
    assert (code, said.count("\n")) == (1, 1)
    assert os.listdir(tmp_path) == []


def test_two_writers_do_not_meet(tmp_path):
    folder = tmp_path / "train"
    slow = start(folder, 1, "--seconds", 0.05)
    try:
        deadline = time.monotonic() + 30
        while not (folder / PREPARING / "plan.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(InputError, match="another process is writing it: wait for it, or stop it"):
            prepare(str(folder), workers=1, resume=True)
    finally:
        slow.kill()
        slow.communicate()


def test_a_worker_that_is_killed_ends_the_run_with_one_line(whole, tmp_path):
    folder = tmp_path / "train"
    process = start(folder, 2, "--seconds", 0.02)
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 30
    while not list(folder.glob("*.tar")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for child in psutil.Process(process.pid).children():
        if "spawn_main" in " ".join(child.cmdline()):
            workers.append(child)
    workers[0].kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("a worker process was killed") and said.count("\n") == 1
    prepare(str(folder), workers=1, resume=True)
    assert contents(folder) == whole


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_interrupted_by_the_keyboard(whole, tmp_path, workers):
    folder = tmp_path / "train"
    process = start(folder, workers, "--seconds", 0.02)
    deadline = time.monotonic() + 30
    while len(list(folder.glob("*.tar"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers alike
    process.communicate(timeout=20)
    assert process.returncode == 130
    prepare(str(folder), workers=1, resume=True)
    assert contents(folder) == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_killed_at_random_again_and_again(whole, tmp_path, workers):
    # 12 kills spread over a run of several seconds, those inside start-up and inside the end among them.
    chance = random.Random(workers)
    folder = tmp_path / "train"
    for _ in range(12):
        process = start(folder, workers, "--resume", "--seconds", 0.03)
        time.sleep(chance.uniform(0.3, 3.0))
        if chance.random() < 0.5:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        _wait_for_orphans(process.pid)
    code, said = finish(folder, workers, "--resume")
    assert code == 0, said
    assert contents(folder) == whole


def _wait_for_orphans(session: int) -> None:
    """The workers of a killed parent end by themselves, and soon."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        alive = [p for p in psutil.process_iter() if _session(p.pid) == session and p.status() != "zombie"]
        if not alive:
            return
        time.sleep(0.05)
    raise AssertionError(f"workers outlive their parent: {alive}")


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_raw_data_that_go_out_of_reach_end_the_run_and_come_back(whole, tmp_path, workers):
    # A disk that is unmounted must not turn the rest of the set into skipped files.
    folder, gone = tmp_path / "train", tmp_path / "gone"
    code, said = finish(folder, workers, "--raw-lost-after", 70, "--lost-mark", gone)
    assert (code, said.count("\n")) == (1, 1)
    assert "cannot be read: Input/output error: see to the raw data" in said and "run again with --resume" in said
    prepare(str(folder), workers=1, resume=True)
    assert contents(folder) == whole


def test_raw_files_with_other_content_are_not_taken_for_the_same(tmp_path, monkeypatch):
    folder = tmp_path / "train"
    assert finish(folder, 1, "--die-at", 70)[0] == -signal.SIGKILL
    monkeypatch.setattr("tests.data.preparing.coloured_png", lambda label, seed: coloured_png(label, seed + 1))
    with pytest.raises(InputError, match=r"an interrupted run with other raw files left \d of 8 shards"):
        prepare(str(folder), workers=1, resume=True)


def test_a_disk_that_fills_before_the_first_shard_is_written_down(whole, tmp_path, monkeypatch):
    folder = tmp_path / "train"
    write = shard_task.write_file

    def full(where: Path, content: bytes) -> None:
        if where.name.startswith("part-"):
            raise OSError(28, "No space left on device")
        write(where, content)

    with monkeypatch.context() as patch:
        patch.setattr(shard_task, "write_file", full)
        with pytest.raises(InputError, match=r"No space left on device: .* run again with --resume"):
            prepare(str(folder), workers=1)
    assert os.listdir(tmp_path) == []
    prepare(str(folder), workers=1, resume=True)
    assert contents(folder) == whole
