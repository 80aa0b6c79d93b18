"""How far apart two groups of samples are: Cliff's delta, over all pairs or over those within a class.

A pair is a wrongly and a rightly labelled sample. Cliff's delta is the share of pairs in which the wrong one has the
larger value less the share in which it has the smaller: -1 .. 1, and 0 where neither tends to be larger. It is twice
the area under the ROC curve less one. Source: Cliff, "Dominance statistics", Psychological Bulletin 1993.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, norm

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Weights:
    """How often each wrong (W,) and each right sample (R,) is counted."""

    wrong: Ints
    right: Ints


class Pairs:
    """All pairs of a wrong and a right sample of the same stratum, compared by a value.

    Args:
        values: (N,) without NaN.
        wrong: (N,) which samples are labelled wrongly.
        strata: (N,) number from 0 of the stratum, for example the class, that a sample is compared within; None
            compares all with all.
    """

    def __init__(self, values: NDArray[np.floating], wrong: Bools, strata: Ints | None = None) -> None:
        stratum = np.zeros(len(values), np.int64) if strata is None else strata.astype(np.int64)
        count = int(stratum.max()) + 1 if len(stratum) else 1
        # Dense ranks that rise with the stratum first: a search among all right samples stays within the stratum.
        level = np.unique(values, return_inverse=True)[1].astype(np.int64)
        key = stratum * (int(level.max()) + 1 if len(level) else 1) + level
        self._wrong_stratum, self._right_stratum = stratum[wrong], stratum[~wrong]
        self._order = np.argsort(key[~wrong], kind="stable")
        right = key[~wrong][self._order]
        self._below = np.searchsorted(right, key[wrong], "left")  # right samples before each wrong one, in that order
        self._not_above = np.searchsorted(right, key[wrong], "right")
        self._starts = np.searchsorted(self._right_stratum[self._order], np.arange(count), "left")
        self._ends = np.searchsorted(self._right_stratum[self._order], np.arange(count), "right")
        self._key, self._strata, self._is_wrong = key, stratum, wrong
        self.count = int(self._pairs(Weights(*(np.ones(n, np.int64) for n in (wrong.sum(), (~wrong).sum())))).sum())

    def delta(self, weights: Weights | None = None) -> float:
        """Cliff's delta, NaN where no pair is counted."""
        if weights is None:
            weights = Weights(np.ones(len(self._below), np.int64), np.ones(len(self._order), np.int64))
        counted = np.concatenate(([0], np.cumsum(weights.right[self._order])))
        bounds = counted[self._starts] + counted[self._ends]
        in_stratum = np.bincount(self._wrong_stratum, weights.wrong, len(self._starts))
        dominance = float(weights.wrong @ (counted[self._below] + counted[self._not_above]) - in_stratum @ bounds)
        pairs = float(in_stratum @ (counted[self._ends] - counted[self._starts]))
        return dominance / pairs if pairs else np.nan

    def p_value(self) -> float:
        """Two-sided, that wrong and right samples of each stratum have one distribution; NaN where no value differs.

        The normal approximation of Wilcoxon's rank sum test with its correction for ties, with the sums over strata of
        U, of its mean and of its variance.
        """
        variance = 0.0
        for stratum in range(len(self._starts)):
            here = self._strata == stratum
            n, wrong = int(here.sum()), int((here & self._is_wrong).sum())
            if n < 2:
                continue
            ties = np.unique(self._key[here], return_counts=True)[1].astype(np.float64)
            variance += wrong * (n - wrong) / 12 * (n + 1 - float((ties**3 - ties).sum()) / (n * (n - 1)))
        if variance <= 0:
            return np.nan
        return float(2 * norm.sf(abs(self.delta()) * self.count / 2 / np.sqrt(variance)))

    def _pairs(self, weights: Weights) -> Floats:
        """Pairs of each stratum."""
        wrong, right = (
            np.bincount(stratum, weight, len(self._starts))
            for stratum, weight in ((self._wrong_stratum, weights.wrong), (self._right_stratum, weights.right))
        )
        return (wrong * right).astype(np.float64)


def resamples(wrong: int, right: int, times: int, seed: int) -> Iterator[Weights]:
    """Bootstrap samples: as many wrong and as many right samples as there are, drawn with replacement, each group."""
    random = np.random.default_rng(seed)
    for _ in range(times):
        yield Weights(
            np.bincount(random.integers(0, wrong, wrong), minlength=wrong),
            np.bincount(random.integers(0, right, right), minlength=right),
        )


def intervals(comparisons: Sequence[Pairs], times: int, seed: int) -> list[tuple[float, float]]:
    """95 % percentile intervals of the deltas of comparisons over the same samples, by `times` resamples of these.

    NaN where no resample has a pair, and for `times` 0.
    """
    if not comparisons or times == 0:
        return [(np.nan, np.nan)] * len(comparisons)
    first = comparisons[0]
    drawn = [
        [pairs.delta(weights) for pairs in comparisons]
        for weights in resamples(len(first._below), len(first._order), times, seed)
    ]
    return [
        (float("nan"), float("nan"))
        if np.isnan(deltas).all()
        else tuple(np.nanquantile(deltas, (0.025, 0.975)).tolist())
        for deltas in np.asarray(drawn).T
    ]


def adjusted(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Benjamini and Yekutieli (2001), which allows any dependence.

    The ratios of a layer sum to 1 and those of neighbouring layers go together, so the comparisons depend on each other
    in both directions. NaN, of comparisons that could not be made, stay out of it.
    """
    values = np.asarray(p_values, np.float64)
    known = ~np.isnan(values)
    if known.any():
        values[known] = false_discovery_control(values[known], method="by")
    return [float(value) for value in values]
