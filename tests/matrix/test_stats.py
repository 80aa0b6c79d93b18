import math

import pytest

from en_bench.matrix.stats import summarise


def test_interval_by_hand_from_a_table_of_student_t() -> None:
    # t(0.975, 4) = 2.7764; sd of 1..5 is sqrt(2.5).
    summary = summarise([1.0, 2.0, 3.0, 4.0, 5.0])
    assert summary.mean == 3.0
    assert summary.sd == pytest.approx(2.5**0.5)
    assert summary.half_width == pytest.approx(2.7764 * 2.5**0.5 / 5**0.5, rel=1e-4)
    assert summary.n == 5


def test_three_seeds_use_t_with_two_degrees_of_freedom() -> None:
    assert summarise([0.0, 1.0, 2.0]).half_width == pytest.approx(4.30265 / 3**0.5, rel=1e-5)


def test_below_three_no_interval() -> None:
    assert summarise([0.2, 0.4]).half_width is None
    assert summarise([0.2, 0.4]).sd == pytest.approx(0.02**0.5)
    assert summarise([0.2]).sd is None


def test_equal_values_have_width_zero() -> None:
    assert summarise([0.7, 0.7, 0.7]).half_width == 0.0


@pytest.mark.parametrize("diverged", [float("nan"), float("inf")])
def test_a_diverged_run_is_not_averaged_away(diverged: float) -> None:
    summary = summarise([0.5, diverged, 0.6])
    assert not math.isfinite(summary.mean)
    assert summary.half_width is not None
    assert math.isnan(summary.half_width)


def test_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarise([])
