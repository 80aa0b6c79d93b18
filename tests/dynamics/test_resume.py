"""Trainings that are cut off, and go on, leave the record and the counts of one that was never stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from en_bench.cli import main
from en_bench.dynamics import read_dynamics
from en_bench.dynamics.files import files_of
from tests.dynamics.runs import noisy_arguments, weights
from tests.resume.runs import assert_same, what_is_left
from tests.resume.test_kills import processes
from tests.resume.test_kills import run as run_in_a_process
from tests.resume.watch import Killed

POINTS = [
    "batch 0 3",
    "save 3",  # its files are there, and it is not
    "batch 1 4",
]
MORE_POINTS = [
    "batch 0 0",  # before there is any checkpoint
    "batch 0 5",  # recorded by nobody yet: an epoch's last batch
    "validation 0",
    "save 1",
    "save 4",  # after an epoch
    "end",
]
SLOW = [pytest.param(point, marks=pytest.mark.slow) for point in MORE_POINTS]


def assert_same_record(run: Path, undisturbed: Path) -> None:
    found, expected = read_dynamics(run), read_dynamics(undisturbed)
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        assert found[name].to_pylist() == expected[name].to_pylist(), name


@pytest.mark.parametrize("point", [*POINTS, *SLOW])
def test_the_record_of_a_training_that_was_cut_off(noisy, tmp_path, undisturbed, point):
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(noisy_arguments(noisy, run, kill=point, by="raise"))
    assert main(noisy_arguments(noisy, run, kill=point, by="raise")) == 0
    assert_same_record(run, undisturbed)
    assert_same(what_is_left(run), what_is_left(undisturbed))


def test_a_file_of_a_later_step_is_gone_before_training_goes_on(noisy, tmp_path, undisturbed):
    """As a rank leaves it that was ahead of the one that was killed, or a process killed while it wrote."""
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(noisy_arguments(noisy, run, kill="batch 0 4", by="raise"))
    folder = run / "dynamics" / "epoch=00000"
    first = folder / "rank=00000-step=00000002.parquet"
    (folder / "rank=00001-step=00000005.parquet").write_bytes(first.read_bytes())
    (folder / ".rank=00000-step=00000006.parquet.x1y2").write_bytes(b"half")
    assert main(noisy_arguments(noisy, run, kill="batch 0 4", by="raise")) == 0
    assert_same_record(run, undisturbed)
    assert {path.name for path in folder.iterdir()} == {f"rank=00000-step={step:08d}.parquet" for step in (2, 4, 6)}


def test_epochs_that_max_steps_cut_short_are_counted_as_a_whole_when_continued(noisy, tmp_path, undisturbed):
    few = tmp_path / "few"
    assert main(noisy_arguments(noisy, few, "--trainer.max_steps", 8)) == 0
    (few / "fit.json").unlink()
    changed = ("--trainer.max_steps", 12)
    assert main(noisy_arguments(noisy, few, *changed)) == 0
    last = [json.loads(line) for line in (few / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["memory/n_wrong"] + last["memory/n_right"] + last["memory/n_unknown"] == 192
    table = read_dynamics(few, ["row", "step"])
    assert len(table) == 384 and sorted(set(table["step"].to_pylist())) == list(range(12))


def test_another_normaliser_of_ratios_later(noisy, tmp_path):
    """What is recorded may change when a training goes on: a column that a part lacks is null there."""
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(noisy_arguments(noisy, run, "--dynamics.ratios", "false", kill="batch 0 4", by="raise"))
    assert main(noisy_arguments(noisy, run, "--trainer.max_steps", 8)) == 0
    table = read_dynamics(run, ["step", "ratio:bn1:bn"])
    assert table.column_names == ["epoch", "step", "ratio:bn1:bn"] and len(table) == 8 * 32
    for row in table.to_pylist():
        assert (row["ratio:bn1:bn"] is None) == (row["step"] < 4)


@pytest.mark.slow
def test_a_real_kill_within_an_epoch(noisy, tmp_path, undisturbed):
    run = tmp_path / "run"
    for left in (False, True):
        code = run_in_a_process(noisy_arguments(noisy, run, kill="batch 1 3"), tmp_path)
        assert (code == 0) == left
    assert_same_record(run, undisturbed)
    assert what_is_left(run).metrics == what_is_left(undisturbed).metrics
    assert all(torch.equal(a, b) for a, b in zip(weights(run).values(), weights(undisturbed).values(), strict=True))


@pytest.mark.slow
def test_two_processes_record_and_count_as_one(noisy, tmp_path):
    """At the same global batch, with moments of single samples; one is killed and continues as one process."""
    group = ("--model.norm", "GroupNorm", "--model.norm.groups", 8)
    runs = {name: tmp_path / name for name in ("one", "two", "both")}
    # The trace disturbs images by random numbers of its rank; large steps amplify what rounding leaves.
    plain = ("--trainer.callbacks", "null", "--model.lr", 1e-4)
    for name, count in (("one", 1), ("two", 2)):
        line = noisy_arguments(noisy, runs[name], *processes(count), *plain)
        assert run_in_a_process([*line, *map(str, group)], tmp_path) == 0
    marker = {"where": "batch 1 3", "marker": str(tmp_path / "killed")}
    killer = json.dumps([{"class_path": "tests.resume.watch.KillAt", "init_args": marker}])
    for count, callbacks, ends in ((2, killer, False), (1, "null", True)):
        line = noisy_arguments(noisy, runs["both"], *processes(count), *plain, "--trainer.callbacks", callbacks)
        assert (run_in_a_process([*line, *map(str, group)], tmp_path) == 0) == ends
    one = read_dynamics(runs["one"])
    assert {name.split("/")[1][:10] for name in files_of(runs["two"])} == {"rank=00000", "rank=00001"}
    for name in ("two", "both"):
        other = read_dynamics(runs[name])
        for column in ("epoch", "row", "step", "target", "predicted"):
            assert other[column].to_pylist() == one[column].to_pylist(), column
        for column in ("loss", "margin"):
            assert other[column].to_pylist() == pytest.approx(one[column].to_pylist(), rel=0, abs=1e-6)
    counted = []
    for run in runs.values():
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found = [{k: v for k, v in line.items() if k.startswith("memory/")} for line in lines]
        counted.append(next(values for values in reversed(found) if values))
    assert counted[0] == counted[1] == counted[2]
