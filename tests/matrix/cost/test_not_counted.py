"""Why a plan does not count cells: each reason once, with the cells that it concerns."""

from itertools import product

import pytest

from en_bench.matrix.cost.amount import Unknown, no_samples
from en_bench.matrix.cost.costs import Cost
from en_bench.matrix.cost.not_counted import not_counted_lines, patterns
from en_bench.matrix.plan import Cell, PlannedCell, State


def cells(norms: str, trains: str) -> list[Cell]:
    """Of two seeds each."""
    return [Cell("", norm, train, seed, (), {}) for train, norm, seed in product(trains, norms, (0, 1))]


@pytest.mark.parametrize(
    ("concerned", "expected"),
    [
        (cells("B", "xyz"), ["B/*"]),
        (cells("ABC", "y"), ["*/y/*"]),
        (cells("B", "xyz") + cells("ABC", "y"), ["B/*", "*/y/*"]),
        (cells("A", "xy"), ["A/x/*", "A/y/*"]),
        (cells("C", "xyz") + cells("A", "z"), ["C/*", "A/z/*"]),
        (cells("A", "x")[:1], ["A/x/*"]),
        (cells("ABC", "xyz")[1:], ["*"]),  # seeds are not told apart: the number of cells tells
    ],
)
def test_cells_as_only_takes_them(concerned: list[Cell], expected: list[str]) -> None:
    assert patterns(concerned, cells("ABC", "xyz")) == expected


def test_seven_normalisers_on_ten_sets_stay_a_line() -> None:
    everything = cells("ABCDEFG", "0123456789")
    assert patterns([cell for cell in everything if cell.norm != "A" and cell.train != "0"], everything) == [
        *("B/1/*", "C/1/*", "D/1/*", "E/1/*", "F/1/*", "G/1/*"),
        "and 48 more",
    ]


def test_each_reason_is_told_once() -> None:
    planned = [PlannedCell(cell, State.MISSING, None, frozenset()) for cell in cells("AB", "xy")]
    slow = Unknown("seconds unknown: give them", no_rate=True)
    why = [no_samples(["x", "v"]), slow, no_samples(["v", "y"])]
    found = [why[0], why[0], slow, slow, why[2], why[2], slow, slow]
    cost = Cost(planned, found, [None] * 8, [False] * 8)
    missing = "samples of x, v, y unknown: no manifest here, and no record has counted them: prepare the data "
    first, second = not_counted_lines(cost)
    assert first.startswith(f"not counted: 4 of 8 cells (A/*): {missing}")
    assert second == "not counted: 4 of 8 cells (B/*): seconds unknown: give them"
    (line,) = not_counted_lines(Cost(planned, [slow] * 8, [None] * 8, [False] * 8))
    assert line == "not counted: all 8 cells: seconds unknown: give them"
