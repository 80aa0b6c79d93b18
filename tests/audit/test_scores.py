"""Scores of hand-made records and logits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cleanlab.filter import find_label_issues

from en_bench.audit.cleanlab_scores import cleanlab_scores, label_issues
from en_bench.audit.scores import (
    MEANINGS,
    Score,
    by_name,
    most_often_predicted,
    pass_scores,
    probabilities,
    ranking,
    recorded_scores,
)

# Four rows over three epochs: row 1 misses epoch 0, row 3 was never trained on.
ROW = np.array([0, 2, 0, 1, 2, 0, 1, 2])
LOSS = np.array([1.0, 4.0, 2.0, 0.5, 4.0, 6.0, 1.5, 1.0])
MARGIN = np.array([2.0, -3.0, 1.0, 5.0, -1.0, -3.0, 3.0, 1.0])
PREDICTED = np.array([0, 1, 1, 2, 2, 1, 0, 2])


def test_scores_of_a_record_by_hand():
    scores = by_name(recorded_scores(ROW, LOSS, MARGIN, 4))
    expected = {
        "aum": [0.0, 4.0, -1.0, np.nan],
        "loss": [3.0, 1.0, 3.0, np.nan],
        "margin": [-3.0, 3.0, 1.0, np.nan],
        "loss_last": [6.0, 1.5, 1.0, np.nan],
    }
    assert scores.keys() == expected.keys()
    for name, values in expected.items():
        assert scores[name].values.tolist() == pytest.approx(values, nan_ok=True), name


def test_the_most_suspect_come_first_and_ties_keep_their_order():
    scores = by_name(recorded_scores(ROW, LOSS, MARGIN, 4))
    assert ranking(scores["aum"]).tolist() == [2, 0, 1]
    assert ranking(scores["loss"]).tolist() == [0, 2, 1]  # 0 and 2 are equal
    assert ranking(scores["margin"]).tolist() == [0, 2, 1]
    assert ranking(scores["loss_last"]).tolist() == [0, 1, 2]


def test_what_was_predicted_most_often():
    # Row 0: 0, 1, 1; row 1: 2, then 0, a tie that the later wins; row 2: 1, 2, 2.
    assert most_often_predicted(ROW, PREDICTED, 4, 3).tolist() == [1, 0, 2, -1]
    assert most_often_predicted(ROW, np.full(8, -1), 4, 3).tolist() == [-1] * 4


def test_scores_of_logits_equal_torchs():
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32) * 30
    given = np.array([0, 1, 2, 3, -1, 2], np.int32)
    logits[5] = np.nan
    margin, loss = (score.values for score in pass_scores(logits, given))
    reference = F.cross_entropy(torch.tensor(logits[:4]).double(), torch.arange(4), reduction="none")
    np.testing.assert_allclose(loss[:4], reference.numpy(), rtol=1e-12)
    by_hand = [logits[i, i] - max(logits[i, j] for j in range(4) if j != i) for i in range(4)]
    np.testing.assert_allclose(margin[:4], by_hand, rtol=1e-6)
    assert np.isnan(margin[4:]).all() and np.isnan(loss[4:]).all()
    assert not np.isnan(logits[:4]).any()


def test_cleanlabs_scores_are_cleanlabs():
    random = np.random.default_rng(1)
    given = random.integers(0, 3, 60).astype(np.int32)
    logits = (4 * np.eye(3)[np.where(np.arange(60) < 6, (given + 1) % 3, given)]).astype(np.float32)
    logits += random.normal(size=logits.shape).astype(np.float32) / 4
    given[-1], logits[-2] = -1, np.nan
    rows = np.arange(58)
    softmax = torch.tensor(logits).double().softmax(1).numpy()
    np.testing.assert_allclose(probabilities(logits)[rows], softmax[rows], rtol=1e-5)
    scores = by_name(cleanlab_scores(logits, given))
    own = softmax[rows, given[rows]]
    np.testing.assert_allclose(scores["self_confidence"].values[rows], own, rtol=1e-5)
    others = np.where(np.eye(3, dtype=bool)[given[rows]], -1, softmax[rows]).max(1)
    np.testing.assert_allclose(scores["normalized_margin"].values[rows], (own - others + 1) / 2, rtol=1e-5)
    assert all(np.isnan(score.values[-2:]).all() for score in scores.values())
    issues = label_issues(logits, given, np.arange(60) >= 3)
    expected = find_label_issues(given[3:58], softmax[3:58], n_jobs=1)
    assert expected.any() and np.flatnonzero(issues).tolist() == (3 + np.flatnonzero(expected)).tolist()


def test_suspicion_turns_what_is_suspect_when_low():
    for name, (high, meaning) in MEANINGS.items():
        score = Score(name, np.array([1.0, 2.0]))
        assert meaning == score.meaning
        assert ranking(score).tolist() == ([1, 0] if high else [0, 1])
