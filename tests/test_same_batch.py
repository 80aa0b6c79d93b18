"""The paper's recipes trained by the real command, on one process that accumulates and on two that do not (or less).

Cut are the images (16 px), the network and its normaliser (GroupNorm: the same whatever is in the batch), workers and
validations; the batch, the epochs and the schedule are the recipe's own.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from en_bench.cli import main
from tests.conftest import REPO
from tests.images import make_split

EXPERIMENTS = REPO / "experiments"

pytestmark = pytest.mark.slow

Run = Callable[..., CompletedProcess[str]]


@dataclass(frozen=True)
class Combination:
    """Ranks, images per rank, accumulated passes."""

    ranks: int
    per_rank: int
    accumulated: int


@dataclass(frozen=True)
class Case:
    recipe: tuple[str, ...]
    alike: tuple[Combination, Combination]
    refused: Combination
    told: str  # of the refusal
    lr: tuple[float, float, float, float]  # in epochs 0 to 29, 30 to 59, 60 to 89 and 90 to 99
    steps: int  # to an epoch


CASES = {
    "imagenet": Case(
        ("imagenet",),
        (Combination(1, 32, 8), Combination(2, 32, 4)),
        Combination(2, 32, 1),
        "the learning rate 0.1 is for a batch of 256, and a step of this run has 64 = 2 ranks x 32: "
        "give --trainer.accumulate_grad_batches 4",
        (0.1, 0.01, 0.001, 0.0001),
        steps=1,
    ),
    "fine_grained": Case(
        ("imagenet", "fine_grained"),
        (Combination(1, 32, 2), Combination(2, 32, 1)),
        Combination(2, 64, 1),
        "the learning rate 0.025 is for a batch of 64, and a step of this run has 128 = 2 ranks x 64: "
        "give --data.batch_size 32",
        (0.025, 0.0025, 0.00025, 0.000025),
        steps=2,
    ),
}


def arguments(case: Case, combination: Combination, root: Path, run: Path) -> list[Any]:
    files = ["base.yaml", *(f"recipe/{name}.yaml" for name in case.recipe), "norm/gn.yaml"]
    small = {
        "model.backbone": "cifar/resnet8",
        "data.root": root,
        "data.train": "a/train",
        "data.val": "a/val",
        "data.workers": 0,
        "data.train_transform.init_args.size": 16,
        "data.val_transform.init_args": '{"size": 16, "short_side": 16}',
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "trainer.log_every_n_steps": 1,
        "trainer.check_val_every_n_epoch": 100,
        "trainer.default_root_dir": run,
    }
    chosen = {
        "trainer.devices": combination.ranks,
        "trainer.strategy": "ddp" if combination.ranks > 1 else "auto",
        "trainer.accumulate_grad_batches": combination.accumulated,
        "data.batch_size": combination.per_rank,
    }
    configs = [part for name in files for part in ("--config", EXPERIMENTS / name)]
    flags = [part for key, value in {**small, **chosen}.items() for part in (f"--{key}", value)]
    return ["fit", *map(str, configs + flags)]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_same_batch_makes_the_same_training(
    case: Case, tmp_path: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = case.alike[0].ranks * case.alike[0].per_rank * case.alike[0].accumulated
    make_split(tmp_path / "a" / "train", case.steps * batch, seed=1, size=16)
    make_split(tmp_path / "a" / "val", 30, seed=2, size=16)
    outcomes = []
    for combination in case.alike:
        run = tmp_path / f"{combination.ranks}"
        if combination.ranks == 1:
            assert main(arguments(case, combination, tmp_path, run)) == 0
        else:
            done = run_command(*arguments(case, combination, tmp_path, run), cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        outcome = json.loads((run / "fit.json").read_text())
        outcomes.append(outcome)
        assert outcome["steps"] == 100 * case.steps
        assert outcome["batch"] == {
            "effective": batch,
            "per_rank": combination.per_rank,
            "ranks": combination.ranks,
            "accumulated": combination.accumulated,
        }
        meant = [
            rate for rate, epochs in zip(case.lr, (30, 30, 30, 10), strict=True) for _ in range(epochs * case.steps)
        ]
        assert learning_rates(run) == pytest.approx(meant, rel=1e-6), "of every optimiser step"
    # Not the loss at each step, which is told of the first rank's images.
    one, two = (outcome["metrics"] for outcome in outcomes)
    assert one["val/nll"] == pytest.approx(two["val/nll"], rel=1e-3)
    capsys.readouterr()
    assert main(arguments(case, case.refused, tmp_path, tmp_path / "refused")) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert case.told in line
    assert not (tmp_path / "refused" / "checkpoints").exists()


def learning_rates(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/lr"] for line in lines if "train/lr" in line]
