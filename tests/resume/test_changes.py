"""A checkpoint meets other data: what goes on, what is refused, and with which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from en_bench import folder_claim
from en_bench.cli import main
from en_bench.folder_claim import claim_folder
from tests.images import make_split
from tests.resume.runs import arguments, what_is_left
from tests.resume.watch import Killed


@pytest.fixture
def cut_off(shards, tmp_path) -> Path:
    """A run that was cut off in epoch 0, after four of six steps, with a checkpoint of them."""
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(shards, run, kill="batch 0 4", by="raise"))
    return run


def refusal(shards: Path, run: Path, capsys: pytest.CaptureFixture[str], *changes: object) -> str:
    capsys.readouterr()
    before = (run / "checkpoints" / "last.ckpt").read_bytes(), (run / "metrics.jsonl").read_bytes()
    assert main(arguments(shards, run, *changes)) == 1
    assert before == ((run / "checkpoints" / "last.ckpt").read_bytes(), (run / "metrics.jsonl").read_bytes())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "difference", "cure"),
    [
        (["--data.batch_size", "16"], "1 x batch 16 instead of 1 x batch 32", "use --data.batch_size 32"),
        (["--data.seed", "7"], "seed 7 instead of 0", "use --data.seed 0"),
        (["--data.span", "2"], "span 2 instead of 8", "use --data.span 8"),
        (["--data.held_out", "0.2"], "a share of 0.2 held out instead of 0.0: use", "use --data.held_out 0.0"),
        (["--data.train", "b/train"], "another manifest; 160 training samples instead of 200", "give the split"),
        (
            ["--data.seed", "7", "--data.batch_size", "8"],
            "seed 7 instead of 0; 1 x batch 8",
            "--data.batch_size 32, or",
        ),
    ],
)
def test_other_steps_are_refused_with_what_differs_and_the_cure(shards, cut_off, capsys, changes, difference, cure):
    told = refusal(shards, cut_off, capsys, *changes)
    assert difference in told
    assert cure in told and "--data.on_change next_epoch" in told


def test_a_split_that_was_prepared_again_is_another_one(tmp_path, capsys):
    root = tmp_path / "shards"
    make_split(root / "a" / "train", 200, seed=1)
    make_split(root / "a" / "val", 93, seed=2)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(root, run, kill="batch 0 4", by="raise"))
    shutil.rmtree(root / "a" / "train")
    make_split(root / "a" / "train", 200, seed=5)
    assert "the training split has another manifest: give the split it was trained on" in refusal(root, run, capsys)


def test_the_next_epoch_if_asked(shards, cut_off):
    assert main(arguments(shards, cut_off, "--data.batch_size", "16", "--data.on_change", "next_epoch")) == 0
    lines = what_is_left(cut_off).trace[0]
    resumed = [(line["epoch"], line["batch"]) for line in lines if "batch" in line and len(line["rows"]) == 16]
    assert resumed == [(1, batch) for batch in range(12)]
    assert {line["epoch"] for line in lines if "scores" in line} == {1}
    rates = [line["lr"] for line in lines if "batch" in line and line["epoch"] == 1]
    # Warm-up over the first of two epochs of twelve steps is done; a cosine over the other twelve begins.
    assert rates[0] == pytest.approx(0.1)
    assert json.loads((cut_off / "fit.json").read_text())["epochs"] == 2


def test_the_same_command_trains_first_and_goes_on_later_and_then_has_nothing_to_do(shards, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(arguments(shards, run)) == 0
    before = (run / "fit.json").read_bytes()
    capsys.readouterr()
    assert main(arguments(shards, run)) == 0
    assert "has ended already" in capsys.readouterr().out
    assert (run / "fit.json").read_bytes() == before


def test_a_run_without_a_checkpoint_begins(shards, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(shards, run, kill="batch 0 0", by="raise"))
    assert not (run / "checkpoints").exists()
    assert main(arguments(shards, run)) == 0
    assert [line["step"] for line in what_is_left(run).metrics] == [*range(6), 5, 5, *range(6, 12), 11, 11]


@pytest.mark.parametrize("option", ["every_n_steps", "every_minutes"])
def test_intervals_have_to_be_above_zero(shards, tmp_path, capsys, option):
    assert main(arguments(shards, tmp_path / "run", f"--checkpoint.{option}", "0")) == 1
    assert f"--checkpoint.{option} 0" in capsys.readouterr().err


def test_a_new_run_in_the_folder_of_one_that_was_cut_off_does_not_go_on_from_it(shards, cut_off):
    Path(f"{cut_off}.killed").unlink()
    with pytest.raises(Killed):
        main(arguments(shards, cut_off, "--ckpt_path", "null", kill="batch 0 0", by="raise"))
    assert not (cut_off / "checkpoints" / "last.ckpt").exists()
    assert (cut_off / "checkpoints" / "last.1.ckpt").exists() and (cut_off / "metrics.1.jsonl").exists()


def test_the_folder_of_a_run_without_a_name_is_the_same_for_all_that_goes_on(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.default_root_dir", "null", "--trainer.max_epochs", "1"]
    with pytest.raises(Killed):
        main(arguments(shards, tmp_path / "run", *options, "--ckpt_path", "null", kill="batch 0 4", by="raise"))
    more = ["--data.workers", "1", "--checkpoint.every_n_steps", "3"]
    assert main(arguments(shards, tmp_path / "run", *options, *more, kill="batch 0 4", by="raise")) == 0
    runs = [path for path in (tmp_path / "results" / "runs").iterdir() if path.is_dir()]
    assert len(runs) == 1 and (runs[0] / "fit.json").exists()


def test_another_runs_metrics_are_set_aside(shards, cut_off, tmp_path):
    target = tmp_path / "other"
    target.mkdir()
    (target / "metrics.jsonl").write_text('{"step": 0, "epoch": 0, "of": 1}\n')
    checkpoint = cut_off / "checkpoints" / "last.ckpt"
    assert main(arguments(shards, target, "--ckpt_path", checkpoint)) == 0
    assert "of" in (target / "metrics.1.jsonl").read_text()
    assert "of" not in (target / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (["--trainer.accumulate_grad_batches", "2"], "--trainer.accumulate_grad_batches 2 instead of 1"),
        (["--trainer.limit_train_batches", "3"], "epochs of 3 batches instead of 6"),
    ],
)
def test_other_steps_of_the_same_batches_are_refused_too(shards, cut_off, capsys, changes, difference):
    told = refusal(shards, cut_off, capsys, *changes)
    assert difference in told and "give the same options" in told


def test_a_checkpoint_without_a_position_is_refused(shards, cut_off, capsys):
    path = cut_off / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    del saved["loops"]["fit_loop"]["state_dict"]["en_bench_place"]
    torch.save(saved, path)
    assert "another program, or a former version" in refusal(shards, cut_off, capsys)
    assert main(arguments(shards, cut_off, "--data.on_change", "next_epoch")) == 0


def test_overfitting_on_purpose_has_another_option(shards, tmp_path, capsys):
    assert main(arguments(shards, tmp_path / "run", "--trainer.overfit_batches", "1")) == 1
    assert "use --trainer.limit_train_batches" in capsys.readouterr().err


def test_one_training_a_folder(shards, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(folder_claim, "_SECONDS_TO_CLAIM", 0.1)
    with claim_folder(run, "wait"):
        assert main(arguments(shards, run)) == 1
    assert f"another run is at work in {run}: wait for its end, or choose another folder" in capsys.readouterr().err
