"""Ranks of normalisers over sets, after Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets",
Journal of Machine Learning Research 7, 2006."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from en_bench.matrix.paired import ROUNDING, Floats

SETS = 11
"""From so many independent data sets on there is a test. Demsar's rule of thumb (section 3.2.2) for the chi-square
approximation of Friedman's statistic is more than 10 data sets and more than 5 classifiers."""

NORMALISERS = 6
"""With fewer there is a test, which says that it is approximate, by the same rule."""


def rank(values: Floats, higher_is_better: bool) -> Floats:
    """Ranks within each row of `values` (sets, normalisers), 1 for the best; equals share the mean of their ranks.

    NaN, of a training that diverged, is worse than any number.
    """
    worst = np.where(np.isnan(values), np.inf, -values if higher_is_better else values)
    one, other = worst[:, :, None], worst[:, None, :]
    with np.errstate(invalid="ignore"):  # inf - inf, and infinity is not within a share of itself
        close = np.abs(one - other) <= ROUNDING * np.maximum(np.abs(one), np.abs(other))
        equal = (one == other) | (close & np.isfinite(one) & np.isfinite(other))
    better = (other < one) & ~equal
    ranks: Floats = better.sum(-1) + (equal.sum(-1) + 1) / 2
    return ranks


@dataclass(frozen=True)
class Friedman:
    """Whether normalisers differ at all over sets: Iman and Davenport's F of Friedman's statistic (section 3.2.2).

    `critical_difference` is Nemenyi's at the level 0.05: average ranks that differ by less do not differ significantly.
    `sets` is the number of rows that were ranked.
    """

    sets: int
    f: float
    p: float
    critical_difference: float


def friedman(ranks: Floats) -> Friedman:
    """The test of ranks (sets, normalisers), at least two of each; corrected for ties."""
    from scipy.special import fdtrc

    sets, norms = ranks.shape
    counts = [np.unique(row, return_counts=True)[1] for row in ranks]
    untied = 1 - sum(float((count**3 - count).sum()) for count in counts) / (sets * norms * (norms**2 - 1))
    spread = float(((ranks.mean(0) - (norms + 1) / 2) ** 2).sum())
    statistic = 0.0 if untied == 0 else 12 * sets / (norms * (norms + 1)) * spread / untied
    rest = sets * (norms - 1) - statistic
    f = math.inf if rest <= 1e-9 * sets else (sets - 1) * statistic / rest
    p = 0.0 if math.isinf(f) else float(fdtrc(norms - 1, (norms - 1) * (sets - 1), f))
    return Friedman(sets, f, p, critical_difference(sets, norms))


def critical_difference(sets: int, norms: int) -> float:
    """Nemenyi's critical difference of average ranks at the level 0.05 (Demsar, section 3.2.2)."""
    from scipy.stats import studentized_range  # half a second to import: only for matrices of many sets

    q = float(studentized_range.ppf(0.95, norms, np.inf)) / math.sqrt(2)
    return q * math.sqrt(norms * (norms + 1) / (6 * sets))
