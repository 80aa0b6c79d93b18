"""The three accuracies of a training: of its last epoch, its best one, and the one selected on held-out labels.

One training has them all, and they differ by ten points where labels are wrong: cross entropy on CIFAR-10N "worst" ends
at 67.89 %, and has 77.69 % at its best epoch. So none is stated without its name. The headline is `last`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LABELS: Mapping[str, str] = {
    "last": "last epoch",
    "best": "best epoch (oracle)",
    "selected": "selected on held-out labels",
}
"""What each is called wherever it is shown. An oracle, since the set that scores it chose it."""


@dataclass(frozen=True)
class Scores:
    """Top-1 accuracies, shares in 0 .. 1, of one validation during a training; NaN where the network diverged.

    Attributes:
        top1: on the validation set.
        n: samples of it that were scored.
        whole_set: whether they are all of it.
        held_out: on the held-out part, on the labels that train; None where nothing is held out.
    """

    top1: float
    n: int
    whole_set: bool
    held_out: float | None = None


Accuracies = Mapping[str, Mapping[str, Any] | None]
"""`last`, `best` and `selected`, each with what `three_accuracies` says, or None."""


def three_accuracies(by_epoch: Mapping[int, Scores], epochs: int) -> Accuracies:
    """`last`, `best` and `selected` of a training of so many `epochs`, from its validations by epoch, counted from 1.

    Each has `top1` on the validation set, the `epoch` it is of and, in `of`, how many there were; the `n` samples
    behind it and whether they are the `whole_set`; `selected` also the accuracy `held_out` that chose it. Of equal
    epochs the earliest is best, or selected. `last` is the last epoch that was validated. None where no epoch has what
    it takes, such as a held-out part.
    """
    epochs = max(epochs, *by_epoch) if by_epoch else epochs  # an epoch that was cut short may have been validated

    def entry(epoch: int | None) -> dict[str, Any] | None:
        if epoch is None:
            return None
        scores = by_epoch[epoch]
        counted = {"n": scores.n, "whole_set": scores.whole_set}
        return {"top1": _finite(scores.top1), "epoch": epoch, "of": epochs, **counted}

    selected = _argmax({epoch: scores.held_out for epoch, scores in by_epoch.items()})
    chosen = entry(selected)
    if chosen is not None:
        chosen["held_out"] = by_epoch[selected].held_out if selected is not None else None
    return {
        "last": entry(max(by_epoch, default=None)),
        "best": entry(_argmax({epoch: scores.top1 for epoch, scores in by_epoch.items()})),
        "selected": chosen,
    }


def told(accuracies: Accuracies, held_out: Mapping[str, Any] | None) -> str:
    """What `three_accuracies` gave, as one line; `held_out` is what the outcome says of that part, None without one."""
    parts = []
    for name, label in LABELS.items():
        found = accuracies.get(name)
        if found is None:
            parts.append(f"{label}: none{f' ({_why_none(held_out)})' if name == 'selected' else ''}")
            continue
        score = "nan" if found["top1"] is None else f"{found['top1']:.4f}"
        of = f" of {found['of']}" if name == "last" else ""
        by = f", held out {found['held_out']:.4f}" if name == "selected" else ""
        part = "" if found["whole_set"] else ", a part of the set"
        parts.append(f"{label} {score} (epoch {found['epoch']}{of}{by}{part})")
    return "   ".join(parts)


def _why_none(held_out: Mapping[str, Any] | None) -> str:
    if held_out is None:
        return "nothing is held out: --data.held_out 0.1 does"
    if held_out.get("trained_before"):
        return "samples of the held-out part have trained before"
    return "no epoch has an accuracy on the held-out part"


def _argmax(scores: Mapping[int, float | None]) -> int | None:
    """The earliest epoch with the highest score; NaN and None are none."""
    found = {epoch: score for epoch, score in scores.items() if score is not None and not math.isnan(score)}
    return min(found, key=lambda epoch: (-found[epoch], epoch)) if found else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
