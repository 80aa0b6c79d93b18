"""Scores of hand-made records and logits."""

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cleanlab.filter import find_label_issues

from en_bench.audit import scores as scores_module
from en_bench.audit.checkpoint_pass import CheckpointPass
from en_bench.audit.cleanlab_scores import cleanlab_scores, label_issues
from en_bench.audit.gather import issues_of, scores_of
from en_bench.audit.labels import Labels
from en_bench.audit.record import Record
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


def test_records_that_are_not_finite_are_left_out_and_told():
    loss, margin = LOSS.copy(), MARGIN.copy()
    loss[2], margin[2], margin[7], margin[3] = np.nan, np.nan, -np.inf, np.nan  # of rows 0, 0, 2 and 1
    scores = by_name(recorded_scores(ROW, loss, margin, 4))
    assert scores["aum"].values.tolist() == pytest.approx([-0.5, 3.0, -2.0, np.nan], nan_ok=True)
    assert scores["loss"].values.tolist() == pytest.approx([3.5, 1.0, 3.0, np.nan], nan_ok=True)
    assert scores["margin"].values.tolist() == pytest.approx([-3.0, 3.0, -1.0, np.nan], nan_ok=True)
    record = Record(Path("run"), 4, (1, 2, 3), ROW, PREDICTED, loss, margin, {})
    passed, labels = a_pass(np.zeros((4, 3), np.float32)), a_set([0, 1, 2, 0], [])
    assert (
        "3 samples have records that are not finite: their scores are of the others"
        in scores_of(record, passed, labels)[1]
    )
    assert scores_of(dataclasses.replace(record, loss=LOSS, margin=MARGIN), passed, labels)[1] == []


def a_pass(logits: np.ndarray) -> CheckpointPass:
    return CheckpointPass(logits, (), 0)


def a_set(given: list[int], held_out: list[int]) -> Labels:
    return Labels(np.array(given, np.int32), np.isin(np.arange(len(given)), held_out), None, None)


@pytest.mark.parametrize("only", [0, 2])
def test_a_part_with_one_class_has_no_issues(only):
    random = np.random.default_rng(3)
    given = [*random.integers(0, 3, 40).tolist(), only, only]
    logits = random.normal(size=(42, 3)).astype(np.float32) * 3
    assert label_issues(logits, np.array(given, np.int32), np.arange(42) >= 40) is None
    issues, notes = issues_of(a_pass(logits), a_set(given, [40, 41]))
    assert notes == ["the held-out samples have labels of one class only: cleanlab looks for no errors among them"]
    rest = label_issues(logits, np.array(given, np.int32), np.arange(42) < 40)
    assert issues is not None and rest is not None and rest.any() and (issues == rest).all()
    assert issues_of(a_pass(logits), a_set(given, []))[1] == []


def test_logits_that_are_not_finite_predict_nothing():
    logits = np.array([[1, 2], [np.inf, 0], [np.nan, 1], [-np.inf, 3]], np.float32)
    assert a_pass(logits).predicted.tolist() == [1, -1, -1, -1]
    assert np.isnan([score.values[1:] for score in pass_scores(logits, np.array([0, 0, 1, 1], np.int32))]).all()


def test_scores_of_a_pass_need_no_copy_of_all_logits(monkeypatch):
    random = np.random.default_rng(4)
    logits, given = random.normal(size=(60_000, 100)).astype(np.float32), np.full(60_000, 5, np.int32)
    tracemalloc.start()
    try:
        found = pass_scores(logits, given)
        assert (
            tracemalloc.get_traced_memory()[1] < logits.nbytes
        )  # of float32; three copies in float64 were six times it
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(scores_module, "_CHUNK", 10**9)
    for score, at_once in zip(found, pass_scores(logits, given), strict=True):
        np.testing.assert_array_equal(score.values, at_once.values)
