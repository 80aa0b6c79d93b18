"""`en-bench bench data`: that it measures what it says. Nobody's speed is tested."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from en_bench.benchmark import data_memory, data_process, data_scale
from en_bench.benchmark.data_recipe import Recipe
from en_bench.benchmark.data_settings import Settings
from en_bench.cli import main
from en_bench.data.manifest import load_manifest
from en_bench.data.samplers import TrainSampler
from en_bench.data.shuffle import Shuffle
from en_bench.data.transforms import PadCropFlip
from en_bench.errors import InputError
from tests.bench_data.made import LARGE, SMALL

# ---- Memory and large sets

LEAKING = """
import json, sys
import numpy as np
from en_bench.benchmark.data_memory import watch
from en_bench.benchmark.data_recipe import Recipe
from en_bench.data.transforms import PadCropFlip

kept = []

class Leaking(PadCropFlip):
    def retouch(self, image, draws):
        kept.append(np.ones(2**14))  # 128 kB in each sample

Recipe.ours = lambda self, stage: Leaking(32)
print(json.dumps(watch(sys.argv[1], 32, True, 10, 0, 6)))
"""


def test_growth_is_what_follows_the_first_epochs() -> None:
    assert data_memory.slope([0, 70, 90, 100, 102, 104, 106]) == pytest.approx(2.0)
    assert data_memory.slope([0, 50, 90, 100, 100, 100]) == pytest.approx(0.0)
    assert data_memory.slope([5]) == 0.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_leak_and_a_worker_are_seen(small: Path) -> None:
    """In processes of their own: this one has children of other tests that come and go."""
    plain = data_process.ask("watch", folder=str(small), size=32, padded=True, batch=10, workers=1, epochs=6)
    assert len(plain["own"]) == 6 and plain["processes"] == 2
    assert plain["files"][-1] <= plain["files"][1] + 2  # how many wait in a queue differs
    assert 0 < plain["own"][0] <= plain["rss"][0]
    done = subprocess.run(
        [sys.executable, "-c", LEAKING, str(small)], capture_output=True, text=True, check=True, timeout=120
    )
    assert data_memory.slope(json.loads(done.stdout)["own"]) == pytest.approx(60 * 2**17, rel=0.3)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in data_memory.children(data_memory.os.getpid())
    finally:
        child.communicate(b"\n", timeout=30)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_synthetic_set_is_a_set(tmp_path: Path) -> None:
    folder = data_scale.synthetic_split(tmp_path / "s", 25_000)
    manifest = load_manifest(folder)
    assert [shard.samples for shard in manifest.shards] == [10_000, 10_000, 5_000]
    index = manifest.load_index()
    assert len(set(index.keys.tolist())) == 25_000
    assert data_scale.load(str(folder))["samples"] == 25_000
    assert 0 < data_scale.start(str(folder))["order"] < 10


# ---- Training


def test_epochs_follow_each_other_without_a_break() -> None:
    from en_bench.benchmark.data_training import _Endless

    shuffle = Shuffle((30, 7), 5, 2)
    found = [(request.epoch, request.indices.tolist()) for request in _Endless(shuffle, 4, 20)]
    epochs = itertools.chain.from_iterable(TrainSampler(shuffle, 4, 0, 1, epoch) for epoch in range(3))
    assert found == [(request.epoch, request.indices.tolist()) for request in epochs][:20]
    assert {epoch for epoch, _ in found} == {0, 1, 2}


def test_a_training_is_timed_with_and_without_data(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that come slowly show as waiting."""
    from en_bench.benchmark import data_training

    monkeypatch.setattr(data_training, "_WARM_UPS", 1)
    monkeypatch.setattr(data_training, "_network", lambda model, norm, classes: torch.nn.Sequential(
        torch.nn.AvgPool2d(16), torch.nn.Flatten(), torch.nn.Linear(12, classes)
    ))  # fmt: skip

    class Slow(PadCropFlip):
        def retouch(self, image: Any, draws: Any) -> None:
            time.sleep(0.01)

    monkeypatch.setattr(Recipe, "ours", lambda self, stage: Slow(32))
    found = data_training.train(str(small), 32, True, 10, 0, "none", "bn", 4)
    assert found["device"] in ("cpu", "cuda")
    assert found["loader"] >= found["blocked"] >= 0.1
    assert found["resident"] < found["blocked"]


# ---- Processes of their own


def test_a_process_answers_and_its_errors_are_the_user_s(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        data_process.ask("start", folder=str(tmp_path / "nothing"))


def test_a_process_that_dies_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data_process._QUIET, "PYTHONHOME", str(tmp_path))
    with pytest.raises(RuntimeError, match="start ended with"):
        data_process.ask("start", folder="x")


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_process_that_hangs_is_ended_with_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, file=open('pid', 'w'));"
        "sys.stderr.write('waiting'); sys.stderr.flush(); time.sleep(60)"
    )
    script = tmp_path / "en_bench" / "benchmark" / "data_process.py"
    script.parent.mkdir(parents=True)
    for package in (script.parent, script.parents[1]):
        (package / "__init__.py").touch()
    script.write_text(code)
    monkeypatch.chdir(tmp_path)  # where `-m` looks first
    with pytest.raises(data_process.HungError, match=r"start had not ended after 4 s(.|\n)*waiting"):
        data_process.ask("start", limit=4, folder="x")
    worker = Path("/proc") / (tmp_path / "pid").read_text().strip() / "status"
    until = time.monotonic() + 10
    while not _ended(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert _ended(worker)


def _ended(status: Path) -> bool:
    try:
        return "Z (zombie)" in status.read_text()
    except OSError:
        return True


# ---- The command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name the folder of a prepared split, or use --sections scale"),
        (["nowhere"], "nowhere: no such folder"),
        (["{small}", "--original", "nowhere"], "nowhere: no such folder"),
        (["{small}", "--sections", "rates,speed"], "there is no 'speed', only rates, quality, shuffle, memory, scale"),
        (["{small}", "--samples", "0"], "--samples 0 is too small"),
        (["{small}", "--samples", "20", "--batch-size", "8"], "--samples 20 are less than four batches of 8"),
        (["{small}", "--repeats", "0"], "--repeats 0 is too small"),
        (["{small}", "--seconds", "nan"], "--seconds nan is no time"),
        (["{small}", "--size", "4"], "--size 4 is too small"),
        (["{small}", "--workers", "1,-2"], "--workers 1,-2: expected numbers of processes"),
        (["{small}", "--scratch", "pyproject.toml"], "--scratch pyproject.toml is no folder"),
        (["{small}", "--train", "resnet5"], "--train resnet5: timm has no such network: did you mean"),
        (["{small}", "--train", "resnet18", "--norm", "bn,en"], "--norm bn,en: give one normaliser"),
        (["{small}", "--norm", "en"], "--norm en is of a training: name its network with --train MODEL"),
        (
            ["{small}", "--train-workers", "1"],
            "--train-workers 1 is of a training: name its network",
        ),
        (["{small}", "--json", "."], "--json . is a folder"),
        (["{small}", "--from", "old.json"], "--from measures nothing: leave out"),
        (["--from", "tests/report/records/01d6ca485e3d110e.json"], "not what `en-bench bench data --json`"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    options: list[str], words: str, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert main(["bench", "data", "--quick", *(option.format(small=small) for option in options)]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert words in line and line.startswith("en-bench: error: ") and printed.out == ""


def test_small_images_are_told_from_large_ones(small: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from en_bench.benchmark import data

    found: list[Settings] = []

    def taken(settings: Settings) -> Any:
        found.append(settings)
        raise InputError("enough")

    monkeypatch.setattr(data, "_images", taken)
    for options in ([small], [photos], [small, "--size", 48], [photos, "--size", 64, "--workers", "0,3,3"]):
        assert main(["bench", "data", *map(str, options)]) == 1
    assert [one.recipe for one in found] == [SMALL, Recipe(224, False), LARGE, Recipe(64, False)]
    assert [one.samples for one in found] == [50_000, 3_000, 3_000, 3_000]
    assert found[3].workers == (0, 3)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is told on Linux only")
def test_the_command_measures_everything(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, markdown = tmp_path / "new" / "data.json", tmp_path / "data.md"
    flags = ("--quick", "--sections", "rates,scale", "--workers", "1", "--scratch", tmp_path)
    files = ("--json", out, "--markdown", markdown)
    assert main([*map(str, ("bench", "data", small, *flags, *files))]) == 0
    record = json.loads(out.read_text())
    assert record["complete"] and list(record["sections"]) == ["rates", "scale"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.md", "new"]  # nothing of the images stays
    assert set(record["versions"]) >= {"python", "pillow", "simplejpeg", "torch"}
    assert record["splits"]["shards"]["digest"] == load_manifest(small).digest
    for timing in record["sections"]["rates"]["timings"].values():
        assert timing["n"] == 1 and timing["median"] > 0
    rows = [row for rows in record["summary"].values() for row in rows]
    assert rows and {row["verdict"] for row in rows} <= {"", "none"}
    printed = capsys.readouterr().out
    again = tmp_path / "again.md"
    assert main(["bench", "data", "--from", str(out), "--markdown", str(again)]) == 0
    assert again.read_text() == markdown.read_text()
    assert all(title in printed for title in ("standard recipe", "Large sets before", "--quick"))
