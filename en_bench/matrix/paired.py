"""Paired differences over equal seeds, and p values adjusted for how many of them are looked at.

Equal seeds mean equal initial weights where the networks have them, equal order and equal augmentation, so values of
two normalisers are paired by seed and tested by Student's t on their differences. There is no bootstrap: three seeds
have only ten distinct resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEEDS = 3
"""Fewer equal seeds than these have no test and no interval."""

ROUNDING = 2.0**-22
"""Relative; metrics are computed in float32, and values that differ by no more than this are equal."""

FEW = f"fewer than {SEEDS} equal seeds"
PARTIAL = "a part of the validation set only"
MIXED = "results rest on different data"
DIVERGED = "a seed diverged"
CONSTANT = "the differences of all seeds are equal"


@dataclass(frozen=True)
class Paired:
    """Differences a - b over equal seeds, arrays of one shape.

    Attributes:
        n: seeds where both have a finite value.
        mean: of the differences; NaN without seeds.
        half_width: of the 95 % interval by Student's t, not adjusted; NaN where there is none.
        p: two-sided, not adjusted; NaN where there is no test.
        untested: why not, as text; empty where there is one.
    """

    n: NDArray[np.int64]
    mean: Floats
    half_width: Floats
    p: Floats
    untested: NDArray[np.str_]


def paired_t(a: Floats, b: Floats, barred: NDArray[np.str_]) -> Paired:
    """The paired t test of `a` and `b` (..., seeds) over the seeds where both have a number.

    They are -inf at a seed without a value, and NaN at one of a training that diverged: mean and interval are of the
    other seeds, and there is no test, as those are no sample of all trainings, whether or not the other side has that
    seed. `barred` (...) says why else values must not be tested (PARTIAL, MIXED), and is empty where they may. There is
    no test either where the differences of all seeds are equal up to ROUNDING, whose t has no meaning.
    """
    from scipy.special import stdtr, stdtrit

    diverged = (np.isnan(a) | np.isnan(b)).any(-1)
    both = np.isfinite(a) & np.isfinite(b)
    n = both.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.where(both, a - b, 0.0)
        mean = np.where(n > 0, difference.sum(-1) / n, np.nan)
        squares = np.where(both, difference - mean[..., None], 0.0) ** 2
        sd = np.sqrt(squares.sum(-1) / (n - 1))
        error = sd / np.sqrt(n)
        half_width = np.where(n >= SEEDS, stdtrit(np.maximum(n - 1, 1), 0.975) * error, np.nan)
        size = np.max(np.where(both, np.maximum(np.abs(a), np.abs(b)), 0.0), axis=-1, initial=0.0)
        constant = sd <= ROUNDING * size
        p = 2 * stdtr(np.maximum(n - 1, 1), -np.abs(mean / error))
    allowed = barred == ""
    causes = [np.asarray(DIVERGED), np.asarray(FEW), barred, np.asarray(CONSTANT)]
    untested = np.select([diverged, n < SEEDS, ~allowed, constant], causes, "")
    return Paired(n, mean, half_width, np.where(untested == "", p, np.nan), untested)


def holm(p: Floats) -> Floats:
    """p values adjusted for their number by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979).

    Any shape; NaN stands for no test, is not counted and stays NaN. The chance of any false rejection among all is at
    most the level, whatever their dependence.
    """
    flat = p.ravel()
    tested = np.flatnonzero(~np.isnan(flat))
    ascending = tested[np.argsort(flat[tested], kind="stable")]
    factors = np.arange(len(ascending), 0, -1)
    adjusted = np.full_like(flat, np.nan)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(flat[ascending] * factors), 1.0)
    return adjusted.reshape(p.shape)
