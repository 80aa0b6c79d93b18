"""Small trainings on wrong labels, and the counts that they must come to, made by hand from what was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from en_bench.data.images import ImageEncoder
from en_bench.data.sources import Source
from en_bench.data.writer import write_split
from tests.images import coloured_png, make_split
from tests.resume.runs import arguments

SAMPLES = 200
CLASSES = ("dark", "grey", "bright")


def clean_label(i: int) -> int:
    """Of sample `i`: of every tenth it is not known."""
    return -1 if i % 10 == 9 else i % 3


def given_label(i: int) -> int:
    """Of sample `i`: every fourth one is wrong."""
    return (i + 1) % 3 if i % 4 == 0 else i % 3


def make_noisy_root(root: Path) -> Path:
    """A root with `a/train`, of 200 samples with given and clean labels, and `a/val`."""
    encoder = ImageEncoder(encoding="png")
    samples = [
        Source(
            f"s{i:03d}",
            {"given": given_label(i), "clean": clean_label(i)},
            partial(coloured_png, i % 3, i),
            f"s {i}",
        )
        for i in range(SAMPLES)
    ]
    write_split(
        root / "a" / "train",
        samples,
        dataset="noisy",
        split="train",
        classes=CLASSES,
        encode=encoder,
        image=encoder.describe(),
        source={},
        shards=5,
    )
    make_split(root / "a" / "val", 93, seed=2)
    return root


def noisy_arguments(root: Path, run: Path, *more: object, **cut: Any) -> list[str]:
    """Two epochs of six steps of ExemplarNorm, every sample of which is recorded."""
    norm = ("--model.norm", "ExemplarNorm", "--model.norm.reduction", "4", "--model.norm.hidden", "3")
    return arguments(root, run, *norm, "--dynamics.every_n_epochs", 1, *more, **cut)


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return found


def shares_by_hand(rows: Sequence[dict[str, Any]], clean: Sequence[int]) -> dict[str, float]:
    """The metrics of an epoch from what was recorded of it: counted one by one."""
    given = as_clean = neither = learnt = right = unknown = 0
    for row in rows:
        truth = clean[row["row"]]
        if truth < 0:
            unknown += 1
        elif row["target"] == truth:
            right += 1
            learnt += row["predicted"] == truth
        elif row["predicted"] == row["target"]:
            given += 1
        elif row["predicted"] == truth:
            as_clean += 1
        else:
            neither += 1
    wrong = given + as_clean + neither
    return {
        "memory/wrong_as_given": given / wrong,
        "memory/wrong_as_clean": as_clean / wrong,
        "memory/wrong_as_neither": neither / wrong,
        "memory/right_learnt": learnt / right,
        "memory/n_wrong": wrong,
        "memory/n_right": right,
        "memory/n_unknown": unknown,
    }
