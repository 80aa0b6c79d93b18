"""The three accuracies: which epochs they are of, counted by hand, and what a training says of itself."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor

from en_bench.accuracies import Scores, three_accuracies, told
from en_bench.cli import main
from en_bench.data.held_out import is_held_out
from en_bench.data.manifest import load_manifest
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop
from en_bench.tasks.classification import ClassificationTask
from en_bench.telemetry.console import ConsoleLines
from en_bench.telemetry.epoch_scores import EpochScores
from en_bench.telemetry.unreadable import NAME
from tests.images import make_split
from tests.test_cli import EXPERIMENTS, fit_arguments, validate_arguments
from tests.test_exact_ranks import DDP
from tests.test_unreadable import spoil


def scores(top1: float, held_out: float | None = None) -> Scores:
    return Scores(top1, 50, True, held_out)


def test_last_best_and_selected_by_hand():
    found = three_accuracies({1: scores(0.5, 0.3), 2: scores(0.7, 0.2), 3: scores(0.6, 0.4), 4: scores(0.4, 0.1)}, 4)
    counted = {"of": 4, "n": 50, "whole_set": True}
    assert found == {
        "last": {"top1": 0.4, "epoch": 4, **counted},
        "best": {"top1": 0.7, "epoch": 2, **counted},
        "selected": {"top1": 0.6, "epoch": 3, **counted, "held_out": 0.4},
    }
    assert told(found, {"share": 0.1}) == (
        "last epoch 0.4000 (epoch 4 of 4)   best epoch (oracle) 0.7000 (epoch 2)   "
        "selected on held-out labels 0.6000 (epoch 3, held out 0.4000)"
    )


def test_of_equal_epochs_the_earliest():
    found = three_accuracies({3: scores(0.5, 0.4), 1: scores(0.4, 0.3), 2: scores(0.5, 0.4)}, 3)
    assert found["best"] is not None and found["selected"] is not None and found["last"] is not None
    assert (found["best"]["epoch"], found["selected"]["epoch"], found["last"]["epoch"]) == (2, 2, 3)


def test_no_held_out_part_no_validation_and_no_number():
    assert three_accuracies({}, 2) == {"last": None, "best": None, "selected": None}
    found = three_accuracies({1: scores(0.5), 2: scores(math.nan)}, 2)
    assert found["selected"] is None and found["best"] is not None and found["best"]["epoch"] == 1
    assert found["last"] is not None and found["last"]["top1"] is None
    line = "last epoch nan (epoch 2 of 2)   best epoch (oracle) 0.5000 (epoch 1)   selected on held-out labels: none"
    for held_out, why in (
        (None, "nothing is held out: --data.held_out 0.1 does"),
        ({"share": 0.2, "trained_before": True}, "samples of the held-out part have trained before"),
        ({"share": 0.2}, "no epoch has an accuracy on the held-out part"),
    ):
        assert told(found, held_out) == f"{line} ({why})"
    diverged = three_accuracies({1: scores(math.nan, math.nan), 2: scores(0.2, 0.1)}, 2)
    assert diverged["selected"] is not None and diverged["selected"]["epoch"] == 2
    json.dumps(diverged, allow_nan=False)


def test_the_last_epoch_need_not_be_validated_and_one_cut_short_may_be():
    skipped = three_accuracies({2: scores(0.5)}, 3)["last"]
    short = three_accuracies({1: scores(0.5), 2: scores(0.6)}, 1)["last"]
    assert skipped is not None and short is not None
    assert (skipped["epoch"], skipped["of"]) == (2, 3) and (short["epoch"], short["of"]) == (2, 2)


class SaysOneClass(ClassificationTask):
    """Predicts class ORDER[epoch] for all images."""

    ORDER = (1, 2, 0, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.zeros(3)
        logits[self.ORDER[self.current_epoch]] = 1.0
        return 0 * super().forward(image) + logits


def test_a_training_with_known_curves(tmp_path, capsys):
    """The shares of the classes in both sets are the accuracies of the epochs."""
    make_split(tmp_path / "a" / "train", 90, seed=5)
    make_split(tmp_path / "a" / "val", 19, seed=2)
    index = load_manifest(tmp_path / "a" / "train").load_index()
    of_classes = np.bincount(index.labels["given"][is_held_out(index.keys, 0.3)], minlength=3)
    n = int(of_classes.sum())
    assert len(set(of_classes.tolist())) == 3, "no ties that hide an error"

    data = ShardDataModule(
        *("a/train", "a/val", CenterCrop(32), CenterCrop(32)), root=str(tmp_path), held_out=0.3, batch_size=8, seed=0
    )
    kept = EpochScores()
    run = Trainer(
        default_root_dir=tmp_path / "run",
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=2,
        callbacks=[kept, ConsoleLines(steps=False)],
    )
    run.fit(SaysOneClass(backbone="cifar/resnet8", lr=1e-6), data)
    val = [6, 6, 7, 6]  # 19 samples of classes 0, 1, 2 in turn: 7, 6, 6, predicted in the order 1, 2, 0, 1
    held_out = [of_classes[label] / n for label in SaysOneClass.ORDER]
    assert [kept.by_epoch[e].top1 for e in (1, 2, 3, 4)] == pytest.approx([k / 19 for k in val])
    assert [kept.by_epoch[e].held_out for e in (1, 2, 3, 4)] == pytest.approx(held_out)
    found = kept.accuracies(4)
    selected = int(np.argmax(held_out)) + 1
    assert found["last"] is not None and found["best"] is not None and found["selected"] is not None
    assert (found["last"]["epoch"], found["best"]["epoch"], found["selected"]["epoch"]) == (4, 3, selected)
    assert found["selected"]["top1"] == pytest.approx(val[selected - 1] / 19)
    out = capsys.readouterr().out.splitlines()
    assert len([line for line in out if "held out of a/train (labels given)  top1" in line]) == 4
    assert all(line.endswith(f"  n {n} of {n}") for line in out if "held out of" in line)
    assert len([line for line in out if "  val a/val (labels given)  top1" in line and "n 19 of 19" in line]) == 4


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> tuple[Path, str]:
    """A finished run with a held-out part, and what it printed."""
    run = tmp_path_factory.mktemp("held_out") / "run"
    best = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"monitor": "held_out/top1", "mode": "max", "dirpath": str(run / "selected")},
    }
    options = ("--data.held_out", 0.2, "--trainer.max_epochs", 2, "--trainer.callbacks", json.dumps([best]))
    assert main(fit_arguments(shards, run, *options)) == 0
    return run


def test_the_outcome_names_all_three_with_the_held_out_part(trained, shards):
    fit = json.loads((trained / "fit.json").read_text())
    index = load_manifest(shards / "a" / "train").load_index()
    n = int(is_held_out(index.keys, 0.2).sum())
    assert fit["held_out"] == {"share": 0.2, "n": n}
    assert fit["train"]["n"] == 200 - n and fit["steps"] == 2 * ((200 - n) // 32)
    assert fit["metrics"]["held_out/n"] == n and fit["metrics"]["val/n"] == 93
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    curve = [(line["val/top1"], line["held_out/top1"]) for line in lines if "held_out/top1" in line]
    assert len(curve) == 2
    last, best, selected = (fit["accuracies"][name] for name in ("last", "best", "selected"))
    assert (last["top1"], last["epoch"], last["of"]) == (curve[1][0], 2, 2)
    assert best["top1"] == max(val for val, _ in curve)
    assert selected["held_out"] == max(held_out for _, held_out in curve)
    assert selected["top1"] == curve[selected["epoch"] - 1][0]


def test_a_checkpoint_of_the_selected_epoch_and_a_validation_without_the_training_split(trained, shards, tmp_path):
    fit = json.loads((trained / "fit.json").read_text())
    (checkpoint,) = (trained / "selected").glob("*.ckpt")
    result = tmp_path / "result.json"
    absent = ("--data.train", "nowhere/train", "--ckpt_path", checkpoint, "--result", result)
    assert main(validate_arguments(trained, *absent)) == 0
    found = json.loads(result.read_text())
    assert found["metrics"]["top1"] == fit["accuracies"]["selected"]["top1"]
    assert set(found["metrics"]) == {"top1", "nll", "ece"} and found["n"] == 93


def test_held_out_samples_that_cannot_be_decoded(tmp_path, capsys):
    train = make_split(tmp_path / "a" / "train", 60, seed=1)
    make_split(tmp_path / "a" / "val", 19, seed=2)
    index = load_manifest(train).load_index()
    held_out = np.flatnonzero(is_held_out(index.keys, 0.3)).tolist()
    bad = spoil(train, held_out[:2])
    options: tuple[Any, ...] = ("--data.held_out", 0.3, "--data.batch_size", 8, "--data.on_error", "skip")
    assert main(fit_arguments(tmp_path, tmp_path / "run", *options)) == 0
    n = len(held_out)
    assert f"n {n - 2} of {n} (2 unreadable, skipped)" in capsys.readouterr().out
    fit = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert fit["train"] | {"n": 60 - n, "unreadable": 0} == fit["train"]
    assert (fit["metrics"]["held_out/n"], fit["metrics"]["held_out/unreadable"]) == (n - 2, 2)
    with (tmp_path / "run" / NAME).open(newline="") as file:
        listed = {(row["split"], row["shard"], row["key"]) for row in csv.DictReader(file)}
    assert listed == {("held_out", shard, key) for shard, key in bad}


SPEC = """
name: toy
title: One training set with a held-out part and one without
base: [{experiments}/base.yaml, {experiments}/recipe/digits.yaml, {{trainer: {{max_epochs: 2, accelerator: cpu}},
  data: {{batch_size: 32}}}}]
norms: {{BatchNorm: {experiments}/norm/bn.yaml}}
train:
  a: {{data: {{train: a/train, val: a/val, held_out: 0.2}}}}
  b: {{data: {{train: b/train, val: b/val}}}}
seeds: [0]
"""


@pytest.mark.slow
def test_a_matrix_reports_them_from_the_records_alone(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "toy.yaml"
    spec.write_text(SPEC.format(experiments=EXPERIMENTS))
    assert main(["matrix", "run", str(spec), "--data-root", str(shards)]) == 0
    by_set = {}
    for path in Path("results/toy/records").glob("*.json"):
        record = json.loads(path.read_text())
        by_set[record["cell"]["train"]] = record["fit"]["accuracies"]
        assert record["validate"][record["cell"]["train"]]["metrics"]["top1"] == record["fit"]["metrics"]["val/top1"]
    assert by_set["b"]["selected"] is None
    shutil.rmtree("results/toy/runs")
    capsys.readouterr()
    assert main(["matrix", "report", str(spec), "--data-root", str(shards)]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.partition("Three accuracies")[2].splitlines()]
    for train, found in by_set.items():
        shown = [f"{100 * of['top1']:.1f}" if of else "–" for of in found.values()]
        assert [train, "BatchNorm", *shown] in [[word for word in line if word != "(1)"] for line in lines]


@pytest.mark.slow
def test_two_processes_score_the_held_out_part_as_one_does(shards, tmp_path, run_command, capsys):
    """Equal global batches and no moments over them: the same network, whose scores count each sample once."""
    found = []
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        options = ("--data.held_out", 0.2, "--data.val_batch_size", 7, "--model.norm.groups", 4, "--model.lr", 0.01)
        batch = ("--data.batch_size", 32 // ranks, *(DDP if ranks == 2 else ()))
        arguments = fit_arguments(shards, run, *options, *batch, norm="gn")
        if ranks == 1:
            assert main(arguments) == 0
            out = capsys.readouterr().out
        else:
            done = run_command(*arguments, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            out = done.stdout
        found.append(json.loads((run / "fit.json").read_text()))
        n = found[0]["held_out"]["n"]
        assert out.count("  held out of a/train (labels given)  ") == 1
        assert out.count(f"  n {n} of {n}\n") == 1
    one, two = found
    assert one["held_out"] == two["held_out"] and one["train"] == two["train"] and one["steps"] == two["steps"]
    for name in ("held_out/nll", "val/nll"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-4)
    for name in ("held_out/n", "val/n", "held_out/top1", "val/top1"):
        assert two["metrics"][name] == one["metrics"][name]
    assert two["accuracies"] == one["accuracies"]
