"""Paired differences between normalisers over equal seeds, and how often one wins: the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from en_bench.matrix.paired import DIVERGED, MIXED, PARTIAL, Floats, holm, paired_t
from en_bench.report.entries import MARKS, Entry
from en_bench.report.entries import MIXED as MIXED_MARK
from en_bench.report.same_data import differs
from en_bench.report.tables import Key, Table

LEVEL = 0.05


class Difference(NamedTuple):
    """`norm` minus `other`, both trained on `train` and measured in `column`.

    `mean` is of the `n` seeds where both have a finite value, NaN without such a seed. `p` is adjusted for the number
    of tests of its family, NaN where there is none, which `untested` explains. `marks` are those of both entries; MIXED
    is among them where these two rest on different data, whatever a third does.
    """

    train: str
    norm: str
    other: str
    column: str
    n: int
    mean: float
    half_width: float
    p: float
    untested: str
    marks: tuple[str, ...]

    @property
    def significant(self) -> bool:
        return self.p < LEVEL

    def outcome(self, higher_is_better: bool) -> str:
        """`win`, `tie` or `loss` of `norm`, `diverged` where a training of either did, or `untested`."""
        if self.untested == DIVERGED:
            return "diverged"
        if self.untested:
            return "untested"
        if not self.significant:
            return "tie"
        return "win" if (self.mean > 0) is higher_is_better else "loss"


@dataclass(frozen=True)
class Differences:
    """Comparisons, whose p values are adjusted together for their number: `tests`, and apart from them
    `adapted_tests` of the columns after adapting, so that these take nothing from what stands without them."""

    found: Sequence[Difference]
    tests: int
    adapted_tests: int


def against_baseline(table: Table) -> Differences:
    """Each other normaliser minus the baseline."""
    base = table.spec.baseline
    return _family(table, [(norm, base) for norm in table.norms if norm != base and base in table.norms])


def all_pairs(table: Table) -> Differences:
    """Each normaliser minus each that stands before it."""
    return _family(table, [(norm, other) for other, norm in combinations(table.norms, 2)])


def _family(table: Table, pairs: Sequence[tuple[str, str]]) -> Differences:
    keys = [(train, pair, column) for train in table.trains for pair in pairs for column in table.counted[train]]
    if not keys:
        return Differences([], 0, 0)
    values = _rows(table)
    ones, others = ([(train, pair[side], column) for train, pair, column in keys] for side in (0, 1))
    a, b = (np.array([values[key] for key in side]) for side in (ones, others))
    sides = [(table.entries[one], table.entries[other]) for one, other in zip(ones, others, strict=True)]
    mixed = [_rest_on_other_data(one, other) for one, other in sides]
    partial = [bool(one.partial or other.partial) for one, other in sides]
    paired = paired_t(a, b, np.select([partial, mixed], [PARTIAL, MIXED], ""))
    adapted = np.array([table.columns[column].adapted for _, _, column in keys])
    p = np.where(adapted, holm(np.where(adapted, paired.p, np.nan)), holm(np.where(adapted, np.nan, paired.p)))
    tested = ~np.isnan(p)
    columns = (
        paired.n.tolist(),
        paired.mean.tolist(),
        paired.half_width.tolist(),
        p.tolist(),
        paired.untested.tolist(),
    )
    said = {key: entry.holding() for key, entry in table.entries.items()}
    found = [
        Difference(
            train=train,
            norm=norm,
            other=other,
            column=column,
            n=n,
            mean=mean,
            half_width=half_width,
            p=adjusted,
            untested=untested,
            marks=_marks(said[train, norm, column], said[train, other, column], differ),
        )
        for (train, (norm, other), column), differ, n, mean, half_width, adjusted, untested in zip(
            keys, mixed, *columns, strict=True
        )
    ]
    return Differences(found, int(np.count_nonzero(tested & ~adapted)), int(np.count_nonzero(tested & adapted)))


def _rows(table: Table) -> dict[Key, Floats]:
    """Of each entry the value by seed, -inf for a seed without one (NaN is one of a training that diverged)."""
    positions = {seed: position for position, seed in enumerate(table.spec.seeds)}
    values: dict[Key, Floats] = {}
    for key, entry in table.entries.items():
        values[key] = np.full(len(positions), -np.inf)
        for seed, value in entry.values.items():
            values[key][positions[seed]] = value
    return values


def _rest_on_other_data(one: Entry, other: Entry) -> bool:
    return (one.mixed or other.mixed) and differs([*one.data.values(), *other.data.values()])


def _marks(one: Sequence[str], other: Sequence[str], mixed: bool) -> tuple[str, ...]:
    if not one and not other:
        return ()
    return tuple(mark for mark in MARKS if (mixed if mark == MIXED_MARK else mark in one or mark in other))


def tallies(family: Differences, table: Table) -> dict[tuple[str, str], Counter[str]]:
    """Wins, ties, losses, what is untested and where a training diverged, by pair of normalisers, over training and
    validation sets.

    What was measured after adapting is not counted: it would count a validation set twice.
    """
    counted: dict[tuple[str, str], Counter[str]] = {}
    for difference in family.found:
        if not table.columns[difference.column].adapted:
            tally = counted.setdefault((difference.norm, difference.other), Counter())
            tally[difference.outcome(table.metric.higher_is_better)] += 1
    return counted
