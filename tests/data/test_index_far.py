"""`en-bench data index` over a network that fails, on full disks, and killed."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from en_bench.data.manifest import load_manifest
from en_bench.data.places import place, write_file
from tests.conftest import REPO
from tests.data.flaky_http import Fault, FlakyServer, serving
from tests.data.foreign import Verb, labels_of, read_all, sample, tar, tars
from tests.scripts.raw import fit_and_validate


@pytest.fixture
def index(capsys: pytest.CaptureFixture[str]) -> Verb:
    return Verb(capsys)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FlakyServer]:
    """Serves tmp_path/tars, tars of 7, 4 and 9 samples."""
    tars(tmp_path / "tars")
    with serving(tmp_path / "tars") as flaky:
        yield flaky


def same_index(a: Path, b: Path) -> bool:
    return (a / "index.npz").read_bytes() == (b / "index.npz").read_bytes()


def test_a_pattern_of_urls_gives_the_index_of_a_folder(tmp_path, index, server):
    pattern = f"{server.url}/x-{{0..2}}.tar"
    assert "cannot be written: give the manifest a folder, --out FOLDER" in index(pattern).error
    told = index(pattern, "--out", tmp_path / "far")
    assert "indexed 20 samples of 3 classes in 3 shards" in told.lines[-1]
    assert index(tmp_path / "tars", "--out", tmp_path / "near").code == 0
    assert same_index(tmp_path / "far", tmp_path / "near")
    manifest = load_manifest(tmp_path / "far")
    assert manifest.shards == load_manifest(tmp_path / "near").shards
    assert manifest.location == f"{server.url}/"
    assert index.verified(tmp_path / "far") == []
    assert f"  shards in     {server.url}/" in index(tmp_path / "far", verb="info").lines
    assert index(tmp_path / "far", "--out", tmp_path / "a.png", verb="show").code == 0
    assert (tmp_path / "a.png").exists()


def test_a_shard_that_is_not_there_is_told_before_the_others_are_read(tmp_path, index, server):
    error = index(f"{server.url}/x-{{0..7}}.tar", "--out", tmp_path / "far").error
    assert error == f"{server.url}/x-7.tar: it is not there: correct the URL or the pattern"
    assert server.requests["x-0.tar"] == 0
    server.always["x-1.tar"] = Fault(status=403)
    error = index(f"{server.url}/x-{{0..2}}.tar", "--out", tmp_path / "far").error
    assert error.startswith(f"{server.url}/x-1.tar: ") and "check your access" in error
    assert not (tmp_path / "far").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_drops_is_taken_up_again(tmp_path, index, server, ranges):
    """With ranges where it broke off; without them the shard is begun anew, and no sample counts twice."""
    server.ranges = ranges
    cut = (tmp_path / "tars" / "x-2.tar").stat().st_size // 2
    server.faults["x-2.tar"] = [Fault(), Fault(cut=cut)]  # the first answer is to the look whether it is there
    assert index(f"{server.url}/x-{{0..2}}.tar", "--out", tmp_path / "far").code == 0
    assert index(tmp_path / "tars").code == 0
    assert same_index(tmp_path / "far", tmp_path / "tars")
    assert load_manifest(tmp_path / "far").shards == load_manifest(tmp_path / "tars").shards
    assert [first > 0 for name, first in server.asked if name == "x-2.tar"] == [False, False, ranges]


@pytest.mark.slow
def test_a_network_trains_on_far_tars(tmp_path, index, server, monkeypatch):
    monkeypatch.setenv("EN_BENCH_CACHE", str(tmp_path / "cache"))
    for split in ("train", "val"):
        assert index(f"{server.url}/x-{{0..2}}.tar", "--out", tmp_path / "set" / split, "--split", split).code == 0
    assert fit_and_validate(tmp_path / "set", "train", "val", tmp_path / "run").count == 20


def test_urls_that_can_be_listed_and_written(tmp_path, index):
    """fsspec's memory:// stands for buckets, which test_buckets.py asks a real server about."""
    tars(tmp_path)
    for path in tmp_path.glob("*.tar"):
        write_file(place(f"memory://index/set/val/{path.name}"), path.read_bytes())
    told = index("memory://index/set/val")
    assert told.lines[-1].startswith("memory://index/set/val: indexed 20 samples of 3 classes in 3 shards")
    manifest = load_manifest("memory://index/set/val")
    assert (manifest.dataset, manifest.split, manifest.location) == ("set", "val", None)
    assert index("memory://index/set/val", verb="verify").lines == [
        "memory://index/set/val: verified 20 samples in 3 shards: no problem"
    ]
    error = index("memory://index/set/val/x-[0-1].tar").error
    assert "is not there" in error
    assert "not all of this split" in index("memory://index/set/val/x-{0..1}.tar").error
    assert index("memory://index/set/val/x-*.tar").code == 0
    assert index("memory://index/set/val/x-1.tar", "--out", tmp_path / "one").code == 0
    assert load_manifest(tmp_path / "one").location == "memory://index/set/val"
    assert load_manifest(tmp_path / "one").count == 4


def run(*arguments: object, file_limit: int | None = None) -> subprocess.Popen[str]:
    """`en-bench data index ARGUMENTS` in a process of its own, in which no file may grow beyond a limit."""

    def limit() -> None:
        if file_limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    command = [sys.executable, "-m", "en_bench", "data", "index", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit
    )


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, index):
    folder = tars(tmp_path / "tars")
    index(folder)
    tar(folder / "x-3.tar", sample("new", 1, 1))
    process = run(folder, "--workers", 1, file_limit=1000)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert [line for line in errors.splitlines() if line.startswith("en-bench: error")] == [
        f"en-bench: error: {folder}: File too large: make room, or choose another folder with --out, and run again"
    ]
    assert len(read_all(folder)) == 20
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_kills_leave_the_old_index_or_the_new(tmp_path, index):
    folder = tars(tmp_path / "tars", counts=(200,) * 20)
    index(folder)
    tar(folder / "x-20.tar", sample("new", 1, 1))
    began = time.monotonic()
    process = run(folder, "--workers", 2)
    process.communicate(timeout=60)
    whole = time.monotonic() - began
    (folder / "x-20.tar").unlink()
    index(folder)
    tar(folder / "x-20.tar", sample("new", 1, 1))
    killed = 0
    for share in (0.4, 0.7, 0.85, 0.95):
        process = run(folder, "--workers", 2)
        time.sleep(share * whole)
        process.kill()
        process.communicate(timeout=60)
        killed += process.returncode == -signal.SIGKILL
        found = labels_of(folder)
        assert len(found) == 4000 + ("new" in found)
    assert killed >= 2
    assert run(folder, "--workers", 2).wait(timeout=60) == 0
    assert "new" in labels_of(folder)
