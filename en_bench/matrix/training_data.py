"""Which data a training rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from en_bench.noise.in_words import labels_told

FACTS = ("digest", "labels", "n held out", "class map")


def training_data(fit: Mapping[str, Any]) -> tuple[object, ...]:
    """The FACTS of what a training wrote; None where it does not say, as those of former versions."""
    train = fit.get("train") or {}
    held_out = fit.get("held_out", {"n": None})
    n_held_out = held_out.get("n") if held_out else 0  # null is that nothing is held out
    labels = _labels(train.get("labels"), (fit.get("noise") or {}).get("made"))
    return train.get("digest"), labels, n_held_out, fit.get("classes_digest")


def _labels(column: str | None, made: Mapping[str, Any] | None) -> str | None:
    """The labels that train; of a file that noise is made by what it holds, as its name says nothing."""
    if not column or not made:
        return column
    held = {
        name: {"sha256": value["sha256"]} if isinstance(value, dict) and "sha256" in value else value
        for name, value in made.items()
    }
    return labels_told(column, held)
