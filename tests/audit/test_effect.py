"""Cliff's delta by hand, against all pairs, and its intervals and p values against other ways to them."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from en_bench.audit.effect import Pairs, Weights, adjusted, intervals
from en_bench.audit.ratios import LayerRatios, compare


def all_pairs(values, wrong, strata=None, weights=None):
    """Delta and number of pairs by a loop over all pairs."""
    strata = np.zeros(len(values), int) if strata is None else strata
    total = dominance = 0.0
    of_wrong, of_right = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    for a, i in enumerate(of_wrong):
        for b, j in enumerate(of_right):
            if strata[i] == strata[j]:
                count = 1 if weights is None else weights.wrong[a] * weights.right[b]
                total += count
                dominance += count * np.sign(values[i] - values[j])
    return dominance / total, total


def test_delta_by_hand():
    values, wrong = np.array([1.0, 3.0, 2.0, 3.0, 0.0]), np.array([True, True, False, False, False])
    # 1: below 2 and 3, above 0: -1. 3: above 2, equal to 3, above 0: +2.
    pairs = Pairs(values, wrong)
    assert (pairs.count, pairs.delta()) == (6, pytest.approx(1 / 6))
    # Within classes: {1 | 2, 0} and {3 | 3}: 0 + 0 of 3 pairs.
    strata = np.array([0, 1, 0, 1, 0])
    assert (Pairs(values, wrong, strata).count, Pairs(values, wrong, strata).delta()) == (3, 0)


def test_delta_with_weights_equals_a_loop_over_pairs():
    random = np.random.default_rng(0)
    for digits in (1, 8):
        values, wrong = np.round(random.random(60), digits), random.random(60) < 0.4
        strata = random.integers(0, 4, 60)
        weights = Weights(random.integers(0, 4, wrong.sum()), random.integers(0, 4, (~wrong).sum()))
        for within in (None, strata):
            pairs = Pairs(values, wrong, within)
            assert (pairs.delta(), pairs.count) == pytest.approx(all_pairs(values, wrong, within))
            assert pairs.delta(weights) == pytest.approx(all_pairs(values, wrong, within, weights)[0])


def test_p_values():
    random = np.random.default_rng(1)
    values, wrong = np.round(random.random(80), 1), random.random(80) < 0.5
    values[wrong] += 0.05
    reference = mannwhitneyu(values[wrong], values[~wrong], use_continuity=False, method="asymptotic")
    assert Pairs(values, wrong).p_value() == pytest.approx(reference.pvalue, rel=1e-9)
    # Within classes, against permutations of which samples of a class are the wrong ones.
    strata = random.integers(0, 3, 80)
    pairs = Pairs(values, wrong, strata)
    more, times = 0, 1000
    for _ in range(times):
        shuffled = wrong.copy()
        for stratum in range(3):
            shuffled[strata == stratum] = random.permutation(wrong[strata == stratum])
        more += abs(Pairs(values, shuffled, strata).delta()) >= abs(pairs.delta()) - 1e-12
    assert pairs.p_value() == pytest.approx(more / times, abs=0.05)
    assert np.isnan(Pairs(np.ones(4), np.array([True, True, False, False])).p_value())


def test_a_difference_between_classes_does_not_pose_as_one_between_labels():
    random = np.random.default_rng(2)
    strata = random.integers(0, 2, 2000)
    wrong = random.random(2000) < np.where(strata == 0, 0.1, 0.6)  # class 1 has more wrong labels
    values = random.normal(size=2000) + strata  # and larger ratios, whatever the label
    assert Pairs(values, wrong).delta() > 0.2 and Pairs(values, wrong).p_value() < 1e-6
    assert abs(Pairs(values, wrong, strata).delta()) < 0.08 and Pairs(values, wrong, strata).p_value() > 0.01


def test_bootstrap_intervals_cover_the_truth_as_often_as_they_say():
    from scipy.stats import norm

    random = np.random.default_rng(3)
    truth = 2 * norm.cdf(0.5 / np.sqrt(2)) - 1
    wrong = np.arange(120) < 50
    covered = 0
    for number in range(150):
        (low, high), *_ = intervals([Pairs(random.normal(size=120) + 0.5 * wrong, wrong)], times=200, seed=number)
        covered += low <= truth <= high
    assert 0.89 < covered / 150 < 0.99
    assert np.isnan(intervals([Pairs(random.normal(size=120), wrong)], times=0, seed=0)).all()


def test_p_values_are_corrected_for_their_number():
    # Benjamini-Yekutieli by hand: p * m / rank * (1 + 1/2 + 1/3), then the running minimum from the largest.
    harmonic = 1 + 1 / 2 + 1 / 3
    expected = [0.01 * 3 * harmonic, np.nan, min(0.04 * 3 / 2 * harmonic, 0.05 * harmonic), 0.05 * harmonic]
    assert adjusted([0.01, np.nan, 0.04, 0.05]) == pytest.approx(expected, nan_ok=True)


def layer(values, epochs=(), by_epoch=None):
    shape = (0, *values.shape) if by_epoch is None else by_epoch.shape
    return LayerRatios(
        "bn1", ("in", "bn"), epochs, values, np.empty(shape, np.float32) if by_epoch is None else by_epoch
    )


def test_a_report_of_a_layer():
    random = np.random.default_rng(4)
    clean = np.repeat(np.arange(2), 200).astype(np.int32)
    given = clean.copy()
    given[::3] = 1 - given[::3]
    clean[5], given[6] = -1, -1  # unknown: neither right nor wrong
    share = (0.4 + 0.1 * random.random(400) + 0.2 * (given != clean)).astype(np.float32)
    share[7] = np.nan
    values = np.stack([share, 1 - share], 1)
    by_epoch = np.stack([values, values[:, ::-1]])
    report = compare(iter([layer(values, (1, 2), by_epoch)]), clean, given, "test", resamples=50)
    assert report is not None
    rows = (clean >= 0) & (given >= 0) & ~np.isnan(share)
    assert (report.wrong, report.right) == ((given != clean)[rows].sum(), (given == clean)[rows].sum())
    over_all = [effect for effect in report.effects if effect.epoch is None]
    assert report.comparisons == len(over_all) == 6
    assert {(e.normaliser, e.within, round(e.delta)) for e in over_all} == {
        (name, within, side) for name, side in (("in", 1), ("bn", -1)) for within in ("all", "clean", "given")
    }
    assert all(e.low <= e.delta <= e.high and e.p <= e.p_adjusted < 1e-6 for e in over_all)
    assert [(e.epoch, e.normaliser, round(e.delta)) for e in report.effects if e.epoch is not None] == [
        (1, "in", 1),
        (1, "bn", -1),
        (2, "in", -1),
        (2, "bn", 1),
    ]
    spread = report.spreads[0]
    assert spread.mean_wrong == pytest.approx(share[rows & (given != clean)].mean(), rel=1e-5)
    assert spread.right[2] == pytest.approx(np.median(share[rows & (given == clean)]), rel=1e-5)


def test_nothing_to_compare():
    clean = np.zeros(4, np.int32)
    assert compare(iter([layer(np.full((4, 2), 0.5, np.float32))]), clean, clean, "test", 10) is None
    assert compare(iter([]), clean, clean, "test", 10) is None


def test_a_layer_without_ratios_is_left_out_and_the_others_stay():
    clean = np.zeros(6, np.int32)
    given = np.array([1, 1, 0, 0, 0, 0], np.int32)
    share = np.array([0.9, 0.8, 0.1, 0.2, 0.3, np.nan], np.float32)
    whole, none, only_right = share.copy(), np.full(6, np.nan, np.float32), share.copy()
    only_right[:2], whole[1], whole[5] = np.nan, np.nan, 0.5
    layers = [
        dataclasses.replace(layer(np.stack([x, 1 - x], 1)), layer=name)
        for name, x in (("none", none), ("first", share), ("last", whole), ("only right", only_right))
    ]
    report = compare(iter(layers), clean, given, "test", 0)
    assert report is not None and report.left_out == ("none", "only right")
    assert list(dict.fromkeys(effect.layer for effect in report.effects)) == ["first", "last"]
    assert (report.wrong, report.right) == (2, 4)  # of both layers together
    assert {(e.layer, e.pairs) for e in report.effects if e.within == "all"} == {("first", 6), ("last", 4)}
    assert compare(iter([layers[0], layers[3]]), clean, given, "test", 0) is None
