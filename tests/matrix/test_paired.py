"""The paired t test and Holm's adjustment, against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from en_bench.matrix.paired import CONSTANT, DIVERGED, FEW, MIXED, PARTIAL, holm, paired_t


def paired(a: object, b: object, barred: str = ""):
    a, b = np.array(a, dtype=float), np.array(b, dtype=float)
    return paired_t(a, b, np.full(a.shape[:-1], barred))


@pytest.mark.parametrize("seeds", [3, 4, 5, 20])
def test_against_scipy(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    a, b = rng.normal(0.75, 0.01, (2, 3, seeds)), rng.normal(0.74, 0.01, (2, 3, seeds))
    found, reference = paired(a, b), stats.ttest_rel(a, b, axis=-1)
    interval = reference.confidence_interval(0.95)
    np.testing.assert_allclose(found.p, reference.pvalue, rtol=1e-12)
    np.testing.assert_allclose(found.mean, (a - b).mean(-1), rtol=1e-12)
    np.testing.assert_allclose(found.half_width, (interval.high - interval.low) / 2, rtol=1e-12)
    assert found.n.tolist() == [[seeds] * 3] * 2
    assert set(found.untested.ravel()) == {""}


def test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, sd 1, t = 2 sqrt(3) = 3.4641; a table of t with two degrees of freedom gives
    # p = 1 - t / sqrt(t^2 + 2) = 0.0742 in closed form, and 4.3027 for the interval.
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.n, found.mean) == (3, 2.0)
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_only_seeds_that_both_have_count() -> None:
    nothing = -math.inf
    a, b = [0.9, 0.8, 0.7, nothing], [0.5, 0.6, 0.1, 0.3]
    found, reference = paired(a, b), stats.ttest_rel(a[:3], b[:3])
    assert (found.n, found.p) == (3, pytest.approx(reference.pvalue))
    few = paired(a, [*b[:2], nothing, nothing])
    assert (few.n, few.mean, few.untested) == (2, pytest.approx(0.3), FEW)
    assert math.isnan(few.p) and math.isnan(few.half_width)
    none = paired([nothing, 0.8], [0.5, nothing])
    assert none.n == 0 and math.isnan(none.mean) and none.untested == FEW


@pytest.mark.parametrize("differences", [[0.01, 0.01, 0.01], [0.0, 0.0, 0.0]])
def test_equal_differences_have_no_test(differences: list[float]) -> None:
    """Their standard deviation is rounding: p would be 1e-16 or nothing."""
    a = np.array([0.71, 0.72, 0.74])
    found = paired(a + differences, a)
    assert found.untested == CONSTANT and math.isnan(found.p)
    in_float32 = paired((a + differences).astype(np.float32), a.astype(np.float32))
    assert in_float32.untested == CONSTANT
    one_image_of_150000 = paired(a + differences + np.array([0, 0, 1 / 150_000]), a)
    assert one_image_of_150000.untested == ""


def test_a_diverged_seed_a_part_and_other_data_have_no_test() -> None:
    diverged = paired([0.9, math.nan, 0.7], [0.5, 0.6, 0.1])
    assert diverged.untested == DIVERGED and math.isnan(diverged.p)
    assert (diverged.n, diverged.mean) == (2, pytest.approx(0.5)), "of the other seeds"
    interval = paired([0.9, math.nan, 0.7, 0.8], [0.5, 0.6, 0.1, 0.6])
    others = paired([0.9, 0.7, 0.8], [0.5, 0.1, 0.6])
    assert interval.half_width == others.half_width and math.isnan(interval.p)
    nowhere = paired([math.nan], [0.5])
    assert nowhere.untested == DIVERGED and nowhere.n == 0 and math.isnan(nowhere.mean)
    alone = paired([0.9, 0.8, 0.7, math.nan], [0.5, 0.6, 0.1, -math.inf])
    assert alone.untested == DIVERGED and math.isnan(alone.p), "at a seed that the other side lacks"
    for cause in (PARTIAL, MIXED):
        barred = paired([0.9, 0.8, 0.7], [0.5, 0.6, 0.1], barred=cause)
        assert barred.untested == cause and math.isnan(barred.p) and barred.mean == pytest.approx(0.4)


def test_holm_by_hand() -> None:
    """Four tests, sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, and never less than the one before."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, 0.6])), [1.0, 1.0])


def test_holm_counts_only_what_was_tested() -> None:
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    np.testing.assert_allclose(holm(p), [[0.03, np.nan], [0.06, 0.06]])
    assert holm(np.array([])).shape == (0,)
    assert np.isnan(holm(np.array([np.nan]))).all()


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    """Of matrices of 40 comparisons of equals, unadjusted most have a false alarm, adjusted 1 in 20 or less."""
    rng = np.random.default_rng(0)
    unadjusted = adjusted = 0
    for _ in range(400):
        found = paired(rng.normal(size=(40, 5)), rng.normal(size=(40, 5)))
        unadjusted += bool((found.p < 0.05).any())
        adjusted += bool((holm(found.p) < 0.05).any())
    assert unadjusted > 300
    assert adjusted <= stats.binom.ppf(0.9999, 400, 0.05)
