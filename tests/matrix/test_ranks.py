"""Ranks, Friedman's test and Nemenyi's critical difference, against scipy and the tables of Demsar (2006)."""

import math

import numpy as np
import pytest
from scipy import stats

from en_bench.matrix.ranks import critical_difference, friedman, rank

# Table 6 of the paper: AUC of C4.5 with four settings on 14 data sets (the tie of the last but one as ranked there).
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


@pytest.mark.parametrize("higher", [True, False])
def test_ranks_against_scipy(higher: bool) -> None:
    values = np.random.default_rng(0).integers(0, 5, (30, 6)).astype(float)
    wanted = stats.rankdata(-values if higher else values, axis=1)
    np.testing.assert_array_equal(rank(values, higher), wanted)


def test_equal_up_to_rounding_and_diverged() -> None:
    values = np.array([[0.5, 0.5 + 1e-8, 0.4], [math.nan, 0.1, math.nan]])
    assert rank(values, True).tolist() == [[1.5, 1.5, 3.0], [2.5, 1.0, 2.5]]
    assert rank(-values, False).tolist() == [[1.5, 1.5, 3.0], [2.5, 1.0, 2.5]]
    assert rank(np.empty((0, 3)), True).shape == (0, 3)


def test_average_ranks_and_critical_difference_of_the_paper() -> None:
    np.testing.assert_allclose(rank(DEMSAR, True).mean(0), [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    assert friedman(rank(DEMSAR, True)).critical_difference == pytest.approx(1.25, abs=5e-3)


def test_against_scipy_with_ties() -> None:
    ranks = rank(DEMSAR, True)
    reference = stats.friedmanchisquare(*DEMSAR.T)
    sets, norms = DEMSAR.shape
    f = (sets - 1) * reference.statistic / (sets * (norms - 1) - reference.statistic)
    found = friedman(ranks)
    assert found.f == pytest.approx(f)
    assert found.p == pytest.approx(stats.f.sf(f, norms - 1, (norms - 1) * (sets - 1)))


@pytest.mark.parametrize(
    ("norms", "q"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_critical_difference_by_the_table_of_demsar(norms: int, q: float) -> None:
    """Table 5(a) of the paper: critical values for the level 0.05."""
    assert critical_difference(14, norms) == pytest.approx(q * math.sqrt(norms * (norms + 1) / (6 * 14)), abs=1e-3)


def test_all_alike_and_all_agreed() -> None:
    alike = friedman(np.full((12, 3), 2.0))
    assert (alike.f, alike.p) == (0.0, 1.0)
    agreed = friedman(np.tile([1.0, 2.0, 3.0], (12, 1)))
    assert agreed.f == math.inf and agreed.p == 0.0
