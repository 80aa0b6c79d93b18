"""Area under the ROC curve and precision, by hand, against scikit-learn, and by simulation."""

import numpy as np
import pytest

from en_bench.audit.measures import auroc, precision_at


def test_auroc_by_hand_with_ties():
    # Pairs (wrong, right): (3,1) (3,2) (3,3 tied) (2,1) (2,2 tied) (2,3 lost): 1 + 1 + .5 + 1 + .5 + 0 of 6.
    suspicion, wrong = np.array([3.0, 2.0, 1.0, 2.0, 3.0]), np.array([True, True, False, False, False])
    assert auroc(suspicion, wrong).value == pytest.approx(4 / 6)


def test_auroc_equals_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    for digits in (0, 1, 6):  # many ties, some, none
        wrong = random.random(500) < 0.3
        suspicion = np.round(random.normal(size=500) + wrong, digits)
        assert auroc(suspicion, wrong).value == pytest.approx(metrics.roc_auc_score(wrong, suspicion), abs=1e-12)


def test_delongs_variance_equals_its_definition():
    random = np.random.default_rng(1)
    wrong = np.arange(40) < 15
    suspicion = np.round(random.normal(size=40) + wrong, 1)
    beats = (suspicion[wrong][:, None] > suspicion[~wrong]) + 0.5 * (suspicion[wrong][:, None] == suspicion[~wrong])
    value = beats.mean()
    error = np.sqrt(beats.mean(1).var(ddof=1) / 15 + beats.mean(0).var(ddof=1) / 25)
    shift = 1.959963984540054 * error / (value * (1 - value))
    low, high = (1 / (1 + np.exp(-(np.log(value / (1 - value)) + side * shift))) for side in (-1, 1))
    assert auroc(suspicion, wrong) == pytest.approx((value, low, high), abs=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    from scipy.stats import norm

    random = np.random.default_rng(2)
    truth = norm.cdf(1.2 / np.sqrt(2))  # of two normal distributions 1.2 apart
    wrong = np.arange(150) < 50
    covered = 0
    for _ in range(600):
        found = auroc(random.normal(size=150) + 1.2 * wrong, wrong)
        covered += found.low <= truth <= found.high
    assert 0.92 < covered / 600 < 0.98  # three standard errors of 600 draws at 95 %


def test_an_area_without_an_interval():
    perfect = auroc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True]))
    assert perfect.value == 1 and np.isnan(perfect.low) and np.isnan(perfect.high)
    assert np.isnan(auroc(np.array([1.0, 2.0, 0.0]), np.array([True, False, False])).low)
    with pytest.raises(ValueError, match="needs wrong and right labels, got 0 and 2"):
        auroc(np.zeros(2), np.zeros(2, bool))
    with pytest.raises(ValueError, match="without a score"):
        auroc(np.array([np.nan, 1.0]), np.array([True, False]))


def test_precision_by_hand():
    suspicion = np.array([5.0, 4.0, 3.0, 3.0, 3.0, 1.0])
    wrong = np.array([True, False, True, True, False, True])
    assert precision_at(suspicion, wrong, 1) == 1
    assert precision_at(suspicion, wrong, 2) == 0.5
    # One of three tied samples is taken, of which two are wrong; then two of them.
    assert precision_at(suspicion, wrong, 3) == pytest.approx((1 + 2 / 3) / 3)
    assert precision_at(suspicion, wrong, 4) == pytest.approx((1 + 4 / 3) / 4)
    assert precision_at(suspicion, wrong, 5) == pytest.approx(3 / 5)
    assert precision_at(suspicion, wrong, 6) == pytest.approx(4 / 6)
    for k in (0, 7):
        with pytest.raises(ValueError, match="most suspect of 6"):
            precision_at(suspicion, wrong, k)
