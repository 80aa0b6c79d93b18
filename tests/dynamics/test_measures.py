"""What is said of a batch's samples, against sums written out and counts made by hand."""

import math

import pytest
import torch

from en_bench.dynamics.measures import losses, margins, predictions, samples_of
from en_bench.dynamics.memorisation import OUTCOMES, outcomes, shares


def test_losses_margins_and_predictions_of_every_sample():
    torch.manual_seed(0)
    logits, target = torch.randn(7, 5, dtype=torch.float64) * 3, torch.tensor([0, 1, 2, 3, 4, 0, 0])
    for row, (values, label) in enumerate(zip(logits.tolist(), target.tolist(), strict=True)):
        others = [value for i, value in enumerate(values) if i != label]
        assert losses(logits, target)[row].item() == pytest.approx(
            math.log(sum(map(math.exp, values))) - values[label], abs=1e-12
        )
        assert margins(logits, target)[row].item() == values[label] - max(others)
        assert predictions(logits)[row].item() == values.index(max(values))


def test_logits_that_are_not_finite_predict_nothing():
    logits = torch.tensor([[0.0, math.nan, 1.0], [math.inf, 0.0, 0.0], [0.0, 2.0, 1.0]])
    assert predictions(logits).tolist() == [-1, -1, 1]


def test_equal_logits_have_no_margin():
    assert margins(torch.ones(1, 3), torch.tensor([2])).tolist() == [0.0]


def test_outcomes_counted_by_hand():
    # wrong: given x 3, clean, neither x 2 | right: learnt x 2, missed | unknown
    predicted = torch.tensor([1, 2, 1, 0, 2, -1, 2, 0, 1, 1])
    target = torch.tensor([1, 2, 1, 1, 1, 1, 2, 0, 0, 1])
    clean = torch.tensor([0, 0, 2, 0, 0, 0, 2, 0, 0, -1])
    counts = outcomes(predicted, target, clean)
    assert dict(zip(OUTCOMES, counts.tolist(), strict=True)) == {
        "wrong_as_given": 3,
        "wrong_as_clean": 1,
        "wrong_as_neither": 2,
        "right_learnt": 2,
        "right_missed": 1,
        "unknown": 1,
    }
    assert shares(counts) == {
        **{"wrong_as_given": 0.5, "wrong_as_clean": 1 / 6, "wrong_as_neither": 2 / 6, "right_learnt": 2 / 3},
        **{"n_wrong": 6, "n_right": 3, "n_unknown": 1},
    }


def test_no_share_of_no_samples():
    assert shares(torch.tensor([0, 0, 0, 3, 1, 0])) == {
        **{"right_learnt": 0.75, "n_wrong": 0, "n_right": 4, "n_unknown": 0}
    }
    assert shares(torch.zeros(6, dtype=torch.int64)) == {"n_wrong": 0, "n_right": 0, "n_unknown": 0}


def test_a_step_that_returned_its_loss_alone_says_nothing_of_samples():
    assert samples_of({"loss": torch.zeros(())}) is None and samples_of(None) is None
