"""cleanlab's scores of label quality, computed by cleanlab itself."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from en_bench.audit.scores import Score, finite_rows, probabilities

NAMES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
MISSING = "cleanlab's scores need cleanlab: pip install 'en_bench[noise]'"


def is_installed() -> bool:
    return find_spec("cleanlab") is not None


def cleanlab_scores(logits_NC: NDArray[np.float32], given_N: NDArray[np.int32]) -> list[Score]:
    """`cleanlab.rank.get_label_quality_scores` of each row with logits and a label, by its three methods."""
    from cleanlab.rank import get_label_quality_scores

    rows = _usable(logits_NC, given_N)
    probability = probabilities(logits_NC[rows])
    scores = []
    for method in NAMES:
        values = np.full(len(given_N), np.nan)
        if len(rows):
            values[rows] = get_label_quality_scores(given_N[rows], probability, method=method)
        scores.append(Score(method, values))
    return scores


def label_issues(
    logits_NC: NDArray[np.float32], given_N: NDArray[np.int32], among_N: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Which of the rows `among_N` cleanlab takes for label errors (`cleanlab.filter.find_label_issues`).

    Its thresholds are estimated from these rows alone. None where their labels are all of one class: cleanlab compares
    classes.
    """
    from cleanlab.filter import find_label_issues

    rows = _usable(logits_NC, np.where(among_N, given_N, -1).astype(np.int32))
    found = np.zeros(len(given_N), np.bool_)
    if len(rows):
        if (given_N[rows] == given_N[rows[0]]).all():
            return None
        with warnings.catch_warnings():  # of classes with too few samples to estimate a threshold for
            warnings.simplefilter("ignore", UserWarning)
            found[rows] = find_label_issues(given_N[rows], probabilities(logits_NC[rows]), n_jobs=1)
    return found


def _usable(logits_NC: NDArray[np.float32], given_N: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.flatnonzero((given_N >= 0) & finite_rows(logits_NC))
