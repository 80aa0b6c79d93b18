"""Scores of how likely a label is wrong: pure functions of numbers, one value per row of the training split.

Shape suffixes: N row of the training split, C class, R record (one sample in one epoch).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_CHUNK = 2**18  # logits that are worked on at a time: of a million samples of a thousand classes a copy is gigabytes

MEANINGS = {  # by score: whether high values are suspect, and what it is
    "aum": (False, "mean over the epochs recorded of the margin in training (area under the margin)"),
    "loss": (True, "mean over the epochs recorded of the cross entropy in training"),
    "margin": (False, "margin in training, in the last epoch that has one of the sample"),
    "loss_last": (True, "cross entropy in training, in the last epoch that has one of the sample"),
    "pass_margin": (False, "margin of the checkpoint's logits"),
    "pass_loss": (True, "cross entropy of the checkpoint's logits"),
    "self_confidence": (False, "cleanlab's, of the checkpoint's probabilities"),
    "normalized_margin": (False, "cleanlab's, of the checkpoint's probabilities"),
    "confidence_weighted_entropy": (False, "cleanlab's, of the checkpoint's probabilities"),
}

RECORDED = ("aum", "loss", "margin", "loss_last")  # those of a training's record


@dataclass(frozen=True, eq=False)
class Score:
    """A number per row, NaN where there is none."""

    name: str
    values: Floats

    @property
    def meaning(self) -> str:
        return MEANINGS[self.name][1]

    @property
    def suspicion(self) -> Floats:
        """The values, turned so that higher is more suspect."""
        return self.values if MEANINGS[self.name][0] else -self.values


def recorded_scores(row_R: Ints, loss_R: Floats, margin_R: Floats, rows: int) -> list[Score]:
    """Scores of a training's record, whose records are sorted by epoch.

    `margin_R` is the logit of the label that trained less the largest other logit. Its mean over the epochs is the area
    under the margin. Source: Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking",
    NeurIPS 2020, equation 2. Their threshold samples, which need a training of their own, are left out. Values that are
    not finite are left out, too.
    """
    return [
        Score("aum", mean_by_row(row_R, margin_R, rows)),
        Score("loss", mean_by_row(row_R, loss_R, rows)),
        Score("margin", last_by_row(row_R, margin_R, rows)),
        Score("loss_last", last_by_row(row_R, loss_R, rows)),
    ]


def mean_by_row(row_R: Ints, value_R: Floats, rows: int) -> Floats:
    """The mean (N,) of each row's finite values, NaN for rows without any."""
    finite = np.isfinite(value_R)
    row_R, value_R = row_R[finite], value_R[finite]
    counts = np.bincount(row_R, minlength=rows)
    sums = np.bincount(row_R, weights=value_R, minlength=rows)
    means: Floats = np.divide(sums, counts, out=np.full(rows, np.nan), where=counts > 0)
    return means


def last_by_row(row_R: Ints, value_R: Floats, rows: int) -> Floats:
    """The last finite value (N,) of each row, NaN for rows without any."""
    finite = np.isfinite(value_R)
    row_R, value_R = row_R[finite], value_R[finite]
    found, place = np.unique(row_R[::-1], return_index=True)
    last = np.full(rows, np.nan)
    last[found] = value_R[::-1][place]
    return last


def most_often_predicted(row_R: Ints, predicted_R: Ints, rows: int, classes: int) -> Ints:
    """The class (N,) that each row was predicted as most often, -1 for rows without a record. Ties: the last of them.

    The records have to be sorted by epoch.
    """
    row_R, predicted_R = row_R[predicted_R >= 0], predicted_R[predicted_R >= 0]  # without those that were not finite
    pairs, inverse, counts = np.unique(row_R * classes + predicted_R, return_inverse=True, return_counts=True)
    last_seen = np.zeros(len(pairs), np.int64)
    np.maximum.at(last_seen, inverse, np.arange(len(row_R)))
    order = np.lexsort((last_seen, counts, pairs // classes))  # the best of a row comes last
    best = np.full(rows, -1, np.int64)
    row_of, class_of = pairs[order] // classes, pairs[order] % classes
    is_last = np.append(row_of[1:] != row_of[:-1], True)[: len(row_of)]
    best[row_of[is_last]] = class_of[is_last]
    return best


def not_finite(row_R: Ints, *values_R: Floats) -> int:
    """Samples with a record that has a value which is not finite."""
    return len(np.unique(row_R[~np.isfinite(values_R).all(0)]))


def chunks(rows: int, classes: int) -> Iterator[slice]:
    """Of the rows of a table of logits, such that what is made of one is small."""
    size = max(1, _CHUNK // max(1, classes))
    return (slice(start, start + size) for start in range(0, rows, size))


def finite_rows(logits_NC: NDArray[np.float32]) -> Bools:
    """Rows (N,) whose logits are all finite."""
    finite = np.empty(len(logits_NC), np.bool_)
    for part in chunks(*logits_NC.shape):
        finite[part] = np.isfinite(logits_NC[part]).all(1)
    return finite


def pass_scores(logits_NC: NDArray[np.float32], given_N: NDArray[np.int32]) -> list[Score]:
    """Margin and cross entropy of logits against labels, NaN where a logit is not finite or the label is negative."""
    rows = np.flatnonzero((given_N >= 0) & finite_rows(logits_NC))
    margin, loss = np.full(len(given_N), np.nan), np.full(len(given_N), np.nan)
    for part in chunks(len(rows), logits_NC.shape[1]):
        chosen = rows[part]
        logits, own_label = logits_NC[chosen].astype(np.float64), (np.arange(len(chosen)), given_N[chosen])
        own = logits[own_label]
        loss[chosen] = logsumexp(logits, axis=1) - own
        logits[own_label] = -np.inf
        margin[chosen] = own - logits.max(1)
    return [Score("pass_margin", margin), Score("pass_loss", loss)]


def probabilities(logits_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over classes."""
    softmax: NDArray[np.float32] = logits_NC - logits_NC.max(1, keepdims=True)
    np.exp(softmax, out=softmax)  # in place: a copy of N x C numbers may be gigabytes
    softmax /= softmax.sum(1, keepdims=True)
    return softmax


def ranking(score: Score) -> Ints:
    """Rows that have the score, the most suspect first; equal ones in the order of the split."""
    suspicion = score.suspicion
    rows = np.flatnonzero(~np.isnan(suspicion))
    order: Ints = rows[np.argsort(-suspicion[rows], kind="stable")]
    return order


def by_name(scores: list[Score]) -> Mapping[str, Score]:
    return {score.name: score for score in scores}
