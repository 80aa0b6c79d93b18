"""The file that tells how far a command is."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback

from en_bench import training
from en_bench.cli import main
from en_bench.matrix import progress as files
from en_bench.matrix.progress import Progress, read_progress
from en_bench.telemetry import progress
from tests.resume.runs import arguments, assert_same, what_is_left


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    """All that is written, with no second in between."""
    found: list[Progress] = []

    def write(run: Path, what: Progress) -> bool:
        found.append(what)
        return files.write_progress(run, what) and read_progress(run) == what

    monkeypatch.setattr(progress, "write_progress", write)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN", 0.0)
    return found


def test_a_training_and_a_validation_tell_where_they_are(shards, tmp_path, told):
    run = tmp_path / "run"
    before = time.time()
    assert main(arguments(shards, run)) == 0
    assert read_progress(run) is None
    assert [path.name for path in run.glob(".progress*")] == []
    # Two epochs of six steps, each followed by a validation of 93 images in three batches.
    epochs = [(each.epoch, each.epochs, each.steps, each.command) for each in told]
    assert epochs == [(1, 2, 12, "fit")] * (len(told) // 2 + 1) + [(2, 2, 12, "fit")] * (len(told) // 2)
    trained = [each.step for each in told if each.phase == "fit"]
    assert sorted(set(trained)) == list(range(13)) and trained == sorted(trained)
    assert {each.step for each in told if each.phase == "validate"} == {6, 12}
    assert not told[0].scores
    scores = what_is_left(run).fit["metrics"]
    assert told[-1].scores == {name: scores[f"val/{name}"] for name in ("top1", "nll", "ece")}
    assert all(each.images_per_second is None or each.images_per_second > 0 for each in told)
    assert any(each.images_per_second for each in told)
    assert told[0].seconds_left is None and told[-1].seconds_left == 0.0
    assert all(before <= each.time <= time.time() for each in told)

    told.clear()
    config, checkpoint = run / "config.yaml", run / "checkpoints" / "last.ckpt"
    common = ["--config", str(config), "--ckpt_path", str(checkpoint), "--data.val", "b/val"]
    assert main(["validate", *common, "--trainer.default_root_dir", str(run), "--data.root", str(shards)]) == 0
    assert {(each.command, each.phase, each.epoch, each.epochs, each.steps) for each in told} == {
        ("validate", "validate", None, None, 2)
    }
    assert [each.step for each in told] == [0, 1, 2]
    assert read_progress(run) is None


def test_it_is_written_once_a_second_and_when_the_phase_changes(shards, tmp_path, told, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN", 1e9)
    assert main(arguments(shards, tmp_path / "run")) == 0
    assert [(each.phase, each.step) for each in told] == [
        ("fit", 0),
        ("validate", 6),
        ("fit", 6),
        ("validate", 12),
        ("fit", 12),
    ]


def test_without_it_all_numbers_are_the_same(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN", 0.0)
    with_it, without = tmp_path / "with", tmp_path / "without"
    assert main(arguments(shards, with_it)) == 0
    monkeypatch.setattr(training, "ProgressFile", lambda *_, **__: Callback())
    assert main(arguments(shards, without)) == 0
    assert_same(what_is_left(with_it), what_is_left(without))


def test_a_training_that_was_stopped_leaves_none_and_one_that_goes_on_counts_on(shards, tmp_path, told):
    run = tmp_path / "run"
    before: Any = signal.getsignal(signal.SIGINT)
    try:
        assert main(arguments(shards, run, kill="batch 0 3", by="interrupt")) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert read_progress(run) is None
    assert told[-1].step == 4
    told.clear()
    assert main(arguments(shards, run, kill="batch 0 3", by="interrupt")) == 0
    assert [told[0].step, told[-1].step] == [4, 12]


def test_a_folder_in_its_place_does_not_end_the_training(shards, tmp_path):
    run = tmp_path / "run"
    (run / "progress.json" / "inside").mkdir(parents=True)
    assert main(arguments(shards, run)) == 0
