"""Trainings that are cut off, and what is left of them when they have ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from en_bench.cli import main
from tests.conftest import REPO

EXPERIMENTS = REPO / "experiments"
SELDOM = ("--checkpoint.every_n_steps", 100)
_SMALL = '{"class_path": "ResizedCropFlip", "init_args": {"size": 16}}'  # of 32: a third of a training's time less
STEPS = [(epoch, batch) for epoch in range(2) for batch in range(6)]


def arguments(
    root: Path,
    run: Path,
    *more: object,
    kill: str | None = None,
    by: str = "kill",
    averaged: bool = False,
    rank: int = 0,
) -> list[str]:
    """A training of two epochs of six steps, with a checkpoint after every second one."""
    average = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
    callbacks: list[dict[str, Any]] = [
        *([average] if averaged else []),
        {"class_path": "tests.resume.watch.Memory"},
        {"class_path": "tests.resume.watch.Mean"},
        {"class_path": "tests.resume.watch.Trace", "init_args": {"file": str(run) + ".trace"}},
    ]
    if kill is not None:
        init_args = {"where": kill, "marker": str(run) + ".killed", "by": by, "rank": rank}
        callbacks.append({"class_path": "tests.resume.watch.KillAt", "init_args": init_args})
    return [
        *("fit", "--config", str(EXPERIMENTS / "base.yaml"), "--config", str(EXPERIMENTS / "recipe" / "digits.yaml")),
        *("--config", str(EXPERIMENTS / "norm" / "bn.yaml"), "--checkpoint.every_n_steps", "2"),
        *("--data.root", str(root), "--data.train", "a/train", "--data.val", "a/val", "--data.batch_size", "32"),
        *("--data.val_batch_size", "32", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"),
        *("--trainer.default_root_dir", str(run), "--trainer.log_every_n_steps", "1", "--ckpt_path", "last"),
        *("--data.train_transform", _SMALL, "--data.val_transform.init_args.size", "16"),
        *("--trainer.callbacks", json.dumps(callbacks)),
        *map(str, more),
    ]


@dataclass(frozen=True)
class Left:
    """What a training has left."""

    weights: dict[str, torch.Tensor]
    optimiser: Any
    metrics: list[dict[str, Any]]
    fit: dict[str, Any]
    trace: list[list[dict[str, Any]]]  # per rank
    others: Any  # average of the weights, tables of samples, accuracies by epoch

    def batches(self, rank: int = 0) -> dict[tuple[int, int], dict[str, Any]]:
        """By epoch and batch. A batch that was trained on twice, since a kill undid it, must be the same again."""
        found: dict[tuple[int, int], dict[str, Any]] = {}
        for line in self.trace[rank]:
            if "batch" in line:
                assert found.setdefault((line["epoch"], line["batch"]), line) == line
        return found

    def validations(self) -> dict[int, dict[str, Any]]:
        """By epoch."""
        found: dict[int, dict[str, Any]] = {}
        for line in self.trace[0]:
            if "scores" in line:
                assert found.setdefault(line["epoch"], line) == line
        return found


def what_is_left(run: Path, ranks: int = 1) -> Left:
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    traces = [Path(f"{run}.trace.{rank}").read_text().splitlines() for rank in range(ranks)]
    return Left(
        saved["state_dict"],
        saved["optimizer_states"],
        [json.loads(line) for line in lines],
        json.loads((run / "fit.json").read_text()),
        [[json.loads(line) for line in trace] for trace in traces],
        {
            **{key: saved.get(key) for key in ("current_model_state", "averaging_state")},
            "tables": saved.get("en_bench_sample_tables"),
            "scores": saved["callbacks"]["EpochScores"],
        },
    )


def steps_of(run: Path, rank: int = 0, ranks: int = 1) -> list[tuple[int, int]]:
    return [(line["epoch"], line["batch"]) for line in what_is_left(run, ranks).trace[rank] if "batch" in line]


def assert_a_group_stops_and_goes_on(
    shards: Path, folder: Path, signal_group: Callable[[int], None], code: int
) -> None:
    """A command with loading processes, all of which `signal_group` reaches, ends with `code` and continues."""
    run = folder / "run"
    command = arguments(shards, run, *SELDOM, "--data.workers", 1)
    with subprocess.Popen(
        [sys.executable, "-m", "en_bench", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        text=True,
    ) as fit:
        assert fit.stdout is not None
        lines = []
        for line in fit.stdout:
            lines.append(line)
            if line.startswith("epoch 1/2  step 2/"):
                signal_group(fit.pid)
        assert fit.wait(60) == code, lines
    assert not any("Traceback" in line for line in lines)
    assert any("the same command with --ckpt_path last continues" in line for line in lines)
    assert not (run / "fit.json").exists()
    assert main(command) == 0
    assert steps_of(run) == STEPS


def assert_same(interrupted: Left, undisturbed: Left) -> None:
    """All numbers of both to the last bit, except what tells of time and place."""
    assert interrupted.metrics == undisturbed.metrics
    for rank in range(len(undisturbed.trace)):
        assert interrupted.batches(rank) == undisturbed.batches(rank)
    assert interrupted.validations() == undisturbed.validations()
    assert interrupted.weights.keys() == undisturbed.weights.keys()
    for name, tensor in undisturbed.weights.items():
        assert torch.equal(interrupted.weights[name], tensor), name
    assert _plain(interrupted.optimiser) == _plain(undisturbed.optimiser)
    assert _plain(interrupted.others) == _plain(undisturbed.others)
    for key in ("train", "val", "epochs", "steps", "metrics", "accuracies", "held_out", "classes_digest", "seed"):
        assert interrupted.fit[key] == undisturbed.fit[key], key
    assert interrupted.fit["config"]["ckpt_path"] is undisturbed.fit["config"]["ckpt_path"] is None


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
