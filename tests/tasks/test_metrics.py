"""Scores against counts by hand and numpy in float64."""

import numpy as np
import pytest
import torch

from en_bench.tasks.metrics import ClassificationScores


def reference(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rank_of_target = (logits > logits[np.arange(len(target)), target][:, None]).sum(1)
    confidence, right = np.exp(log_p).max(1), rank_of_target == 0
    ece = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return {
        "top1": float(right.mean()),
        "top5": float((rank_of_target < 5).mean()),
        "nll": float(-log_p[np.arange(len(target)), target].mean()),
        "ece": float(ece),
    }


def test_scores_equal_numpy_whatever_the_batches_and_padding():
    generator = np.random.default_rng(0)
    logits, target = generator.normal(size=(97, 8)) * 2, generator.integers(0, 8, 97)
    expected = reference(logits, target)
    for batch in (97, 10, 1):
        scores = ClassificationScores(8)
        for first in range(0, 97, batch):
            rows = slice(first, first + batch)
            padded_logits = np.concatenate([logits[rows], np.full((3, 8), 1e6)])
            padded_target = np.concatenate([target[rows], np.zeros(3, dtype=np.int64)])
            valid = torch.arange(len(padded_target)) < len(target[rows])
            scores.update(torch.tensor(padded_logits), torch.tensor(padded_target), valid)
        values = scores.compute()
        assert scores.count() == 97
        assert values["top1"] == pytest.approx(expected["top1"], abs=1e-7)
        assert values["top5"] == pytest.approx(expected["top5"], abs=1e-7)
        assert values["nll"] == pytest.approx(expected["nll"], rel=1e-6)
        assert values["ece"] == pytest.approx(expected["ece"], abs=1e-6)


def test_accuracy_is_micro_on_unbalanced_data_by_hand():
    scores = ClassificationScores(3)
    logits = torch.eye(3)[[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]  # always says class 0
    target = torch.tensor([0] * 8 + [1, 2])
    scores.update(logits, target, torch.ones(10, dtype=torch.bool))
    assert scores.compute()["top1"] == pytest.approx(0.8)  # macro would be 1/3


def test_a_batch_of_padding_alone_counts_nothing():
    scores = ClassificationScores(7)
    scores.update(torch.randn(4, 7), torch.zeros(4, dtype=torch.int64), torch.tensor([True, False, True, False]))
    before = scores.compute()
    scores.update(torch.randn(4, 7), torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.bool))
    assert scores.count() == 2
    assert scores.compute() == before


def test_a_diverged_network_has_no_score():
    for bad in (float("nan"), float("inf")):
        scores = ClassificationScores(7)
        logits = torch.randn(10, 7)
        logits[3, 2] = bad
        scores.update(logits, torch.zeros(10, dtype=torch.int64), torch.ones(10, dtype=torch.bool))
        assert scores.count() == 10
        assert all(np.isnan(value) for value in scores.compute().values())
    padded = ClassificationScores(7)
    padded.update(logits, torch.zeros(10, dtype=torch.int64), torch.arange(10) != 3)
    assert all(np.isfinite(value) for value in padded.compute().values())


def test_full_confidence_shares_the_last_bin():
    """Nine of ten right at 0.99 and all of ten at 1.0: one bin of twenty, accuracy 0.95 and confidence 0.995."""
    p = torch.tensor([[0.99, 0.01]]).repeat(10, 1).log()
    sure = torch.tensor([[200.0, -200.0]]).repeat(10, 1)
    target = torch.tensor([0] * 9 + [1] + [0] * 10)
    scores = ClassificationScores(2)
    scores.update(torch.cat([p, sure]), target, torch.ones(20, dtype=torch.bool))
    assert scores.compute()["ece"] == pytest.approx(0.995 - 0.95, abs=1e-6)


def test_few_classes_have_no_top5_and_reset_forgets():
    scores = ClassificationScores(5)
    scores.update(torch.randn(4, 5), torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool))
    assert set(scores.compute()) == {"top1", "nll", "ece"}
    scores.reset()
    assert scores.count() == 0


def test_nll_of_many_samples_keeps_its_digits():
    scores = ClassificationScores(2)
    logits, target = torch.tensor([[0.0, 0.1]]).repeat(100_000, 1), torch.zeros(100_000, dtype=torch.int64)
    for _ in range(5):
        scores.update(logits, target, torch.ones(100_000, dtype=torch.bool))
    exact = float(np.log(1 + np.exp(np.float64(np.float32(0.1)))))
    assert scores.compute()["nll"] == pytest.approx(exact, rel=1e-12)
