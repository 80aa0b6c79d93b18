"""What a plan does not count: each reason once, with the cells that it concerns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from en_bench.matrix.cost.amount import Unknown, no_samples
from en_bench.matrix.cost.costs import Cost
from en_bench.matrix.plan import Cell
from en_bench.plural import counted

_MOST_PATTERNS = 6


def not_counted_lines(cost: Cost) -> Iterator[str]:
    """A line for each reason. Sets that nothing is known of are one reason, whichever of them a cell lacks."""
    cells = [item.cell for item in cost.planned]
    lacking: dict[str, None] = {}
    without_data: list[Cell] = []
    by_reason: dict[str, list[Cell]] = {}
    for cell, one in zip(cells, cost.cells, strict=True):
        if isinstance(one, Unknown) and one.lacking:
            lacking |= dict.fromkeys(one.lacking)
            without_data.append(cell)
        elif isinstance(one, Unknown):
            by_reason.setdefault(one.reason, []).append(cell)
    if without_data:
        yield _line(without_data, cells, no_samples(list(lacking)).reason)
    for reason, concerned in by_reason.items():
        yield _line(concerned, cells, reason)


def _line(concerned: Sequence[Cell], cells: Sequence[Cell], reason: str) -> str:
    which = f"all {len(cells)} cells"
    if len(concerned) < len(cells):
        which = f"{len(concerned)} of {counted(len(cells), 'cell')} ({', '.join(patterns(concerned, cells))})"
    return f"not counted: {which}: {reason}"


def patterns(concerned: Sequence[Cell], cells: Sequence[Cell]) -> list[str]:
    """Which of `cells` are `concerned`, as --only takes them: whole normalisers, whole training sets, then one of each.

    Seeds are not told apart. What is more than a line holds is counted: `and 7 more`.
    """
    every, some = _pairs(cells), _pairs(concerned)
    rest = every.keys() - some.keys()
    norms = {norm: None for norm, _ in some if norm not in {other for other, _ in rest}}
    trains = {train: None for _, train in some if train not in {other for _, other in rest}}
    found = [*(f"{norm}/*" for norm in norms), *(f"*/{train}/*" for train in trains)] if rest else ["*"]
    found += [f"{norm}/{train}/*" for norm, train in some if norm not in norms and train not in trains]
    more = len(found) - _MOST_PATTERNS
    return [*found[:_MOST_PATTERNS], f"and {more} more"] if more > 0 else found


def _pairs(cells: Sequence[Cell]) -> dict[tuple[str, str], None]:
    """Normaliser and training set of cells, in their order."""
    return dict.fromkeys((cell.norm, cell.train) for cell in cells)
