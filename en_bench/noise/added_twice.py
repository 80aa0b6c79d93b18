"""Noise on labels that were made wrong before: with the same seed the two are not independent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from en_bench.noise.base import Noise
from en_bench.noise.in_words import told

_NOT_OF_THE_NOISE = ("from", "realised")  # what a manifest says beside what `Noise.describe` gave

Known = Mapping[str, Mapping[str, Any]]  # per label column what is known of its noise, as manifests have it


@dataclass(frozen=True)
class SameSeed:
    """Noise of the seed that is asked for, and that a column has already.

    Attributes:
        made: that noise, in words.
        origin: the column without any made noise that it goes back to.
        free_seed: one that no noise of the column has.
    """

    made: str
    origin: str
    free_seed: int

    def __str__(self) -> str:
        return f"{self.made} made these labels, and noise of the same seed would hit the same samples again"


def same_seed(noise: Noise, column: str, known: Known) -> SameSeed | None:
    """What made `column`, or one that it was made from, with the seed of `noise`; None if nothing did.

    All kinds draw from the same numbers, a function of seed and key. So a second noise of the same seed makes labels
    wrong that are wrong already: of ten classes symmetric 40 % on top of symmetric 40 % would make less than 40 % wrong
    in place of 62 %.
    """
    before = list(_made(column, known))
    origin = str(before[-1].get("from")) if before else column
    seeds = {entry["seed"] for entry in before}
    for entry in before:
        if entry["seed"] == noise.seed:
            made = told({name: value for name, value in entry.items() if name not in _NOT_OF_THE_NOISE})
            return SameSeed(made, origin, next(seed for seed in itertools.count() if seed not in seeds))
    return None


def _made(column: str, known: Known) -> Iterator[Mapping[str, Any]]:
    """What is known of made noise of the column, of the column that it was made from, and so on."""
    seen = set()
    while column not in seen and {"kind", "seed"} <= known.get(column, {}).keys():
        seen.add(column)
        yield known[column]
        column = str(known[column].get("from"))
