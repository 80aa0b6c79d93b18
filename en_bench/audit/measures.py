"""How well a score finds wrong labels, where it is known which are wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_Z95 = float(norm.ppf(0.975))


class Auroc(NamedTuple):
    """Area under the ROC curve with its 95 % interval, which is NaN where it cannot be estimated."""

    value: float
    low: float
    high: float


def auroc(suspicion: Floats, wrong: Bools) -> Auroc:
    """The probability that a wrong label is more suspect than a right one, equal ones counted half.

    The interval has DeLong's variance (DeLong, DeLong and Clarke-Pearson, Biometrics 1988), from midranks (Sun and Xu,
    IEEE Signal Processing Letters 2014), on the scale of the logit, so that it stays within 0 .. 1. It cannot be
    estimated from fewer than two samples on either side, nor for an area of exactly 0 or 1.

    Raises ValueError where all labels are wrong, or none, and for a suspicion that is NaN.
    """
    m, n = int(wrong.sum()), int((~wrong).sum())
    if m == 0 or n == 0:
        raise ValueError(f"an area under the ROC curve needs wrong and right labels, got {m} and {n}")
    if np.isnan(suspicion).any():
        raise ValueError("a sample without a score cannot be ranked")
    rank = rankdata(suspicion)
    of_wrong = (rank[wrong] - rankdata(suspicion[wrong])) / n  # share of right ones below each wrong one
    of_right = 1 - (rank[~wrong] - rankdata(suspicion[~wrong])) / m
    value = float(of_wrong.mean())
    if min(m, n) < 2 or not 0 < value < 1:
        return Auroc(value, np.nan, np.nan)
    error = np.sqrt(of_wrong.var(ddof=1) / m + of_right.var(ddof=1) / n)
    half = _Z95 * error / (value * (1 - value))
    return Auroc(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))


def precision_at(suspicion: Floats, wrong: Bools, k: int) -> float:
    """The share of wrong labels among the `k` most suspect samples.

    Where the k-th and the next are equally suspect, the expectation over all orders of the equal ones. Raises
    ValueError for k below 1 or above the number of samples.
    """
    if not 1 <= k <= len(suspicion):
        raise ValueError(f"the {k} most suspect of {len(suspicion)} samples")
    least = -np.partition(-suspicion, k - 1)[k - 1]
    above, tied = suspicion > least, suspicion == least
    return float((wrong[above].sum() + (k - above.sum()) * wrong[tied].mean()) / k)
