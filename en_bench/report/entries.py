"""One entry of a table: a quantity summarised over the seeds of a group of cells, and why seeds are missing from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.stats import Summary, summarise


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: values (fractions, or nats) times `scale`, with `digits` after the point."""

    title: str
    scale: float
    digits: int
    higher_is_better: bool

    def show(self, value: float, digits: int | None = None) -> str:
        return f"{value * self.scale:.{self.digits if digits is None else digits}f}"

    def show_difference(self, value: float, digits: int | None = None) -> str:
        """With its sign; what rounds to zero, and what is no number, has none."""
        shown = f"{value * self.scale:+.{self.digits if digits is None else digits}f}"
        return shown if float(shown) and value == value else shown[1:]


METRICS: Mapping[str, Metric] = {
    "top1": Metric("top-1 accuracy, %", 100, 1, True),
    "top5": Metric("top-5 accuracy, %", 100, 1, True),
    "nll": Metric("negative log-likelihood, nats", 1, 3, False),
    "ece": Metric("expected calibration error, %", 100, 1, False),
}

PART = "PART"
MIXED = "MIXED"
DIVERGED = "DIVERGED"
_HOLES = (State.FAILED, State.STALE, State.MISSING)
_MISSING = [State.MISSING.upper()]
MARKS = (PART, MIXED, DIVERGED, *(state.upper() for state in _HOLES))
NOTHING = "–"
MEANS = "mean ± 95 % interval by Student's t (number of seeds; no interval below 3)"

Basis = tuple[object, ...]
"""What a value rests on, as `en_bench.report.same_data.basis` has it: facts by their place, None for one not known."""


class Measured(NamedTuple):
    """The value in a cell (None where it is no number), whether it is over a `whole` set, and what it rests on."""

    value: float | None
    whole: bool
    basis: Basis


Found = Callable[[PlannedCell], Measured | None]
"""What is measured in a cell; None if there is nothing."""


@dataclass(frozen=True)
class Entry:
    """What a normaliser trained on one set comes to, over seeds.

    `values` holds what can be believed, by seed, NaN for a training that diverged; `partial` are the seeds whose value
    comes from a part of the validation set only; `holes` counts the other seeds by state (missing, failed or stale).
    `summary` is of the finite values, None where there is none. `best` is the best among its rivals. `may_not_apply`
    is whether there are cells of which there can be no value: – then says just that, never that one is missing. `data`
    is what each value rests on, by seed, and `mixed` whether that is not the same for all values here and of its
    rivals.
    """

    values: Mapping[int, float]
    holes: Counter[State]
    summary: Summary | None
    partial: frozenset[int] = frozenset()
    best: bool = False
    may_not_apply: bool = False
    data: Mapping[int, Basis] = field(default_factory=dict)
    mixed: bool = False

    @property
    def parts(self) -> int:
        """How many of the values come from a part of the validation set."""
        return len(self.partial)

    @property
    def diverged(self) -> int:
        """How many of the values are of trainings that diverged."""
        return sum(value != value for value in self.values.values())

    @property
    def comparable(self) -> bool:
        """Whether the values are over whole sets, and over the same data as those of its rivals."""
        return not (self.partial or self.mixed)

    def holding(self) -> list[str]:
        """Those of MARKS that hold for a seed."""
        of_values = [PART] * bool(self.partial) + [MIXED] * self.mixed + [DIVERGED] * bool(self.diverged)
        return of_values + [state.upper() for state in _HOLES if self.holes[state]]

    def marks(self) -> list[str]:
        """`holding`, with how many diverged (`DIVERGED 1/3`); – where nothing is there and nothing else says why."""
        if self.summary is None and (not self.holding() or (self.holding() == _MISSING and not self.may_not_apply)):
            return [NOTHING]
        return [f"{DIVERGED} {self.diverged}/{len(self.values)}" if m == DIVERGED else m for m in self.holding()]

    def show(self, metric: Metric, difference: bool = False) -> str:
        """`93.1 ± 0.8 (3)`: mean (of a `difference` with its sign), 95 % interval, number of seeds; then the marks."""
        if self.summary is None:
            return " ".join(self.marks())
        mean = metric.show_difference(self.summary.mean) if difference else metric.show(self.summary.mean)
        spread = "" if self.summary.half_width is None else f" ± {metric.show(self.summary.half_width)}"
        return " ".join([f"{mean}{spread} ({self.summary.n})", *self.marks()])


def collect(group: Iterable[PlannedCell], find: Found) -> Entry:
    """The entry of a group of cells that differ in their seed."""
    values: dict[int, float] = {}
    holes: Counter[State] = Counter()
    partial: set[int] = set()
    data: dict[int, Basis] = {}
    for item in group:
        found = find(item)
        if found is not None:
            value, whole, data[item.cell.seed] = found
            values[item.cell.seed] = float(value) if value is not None and math.isfinite(value) else math.nan
            if not whole:
                partial.add(item.cell.seed)
        elif item.state is State.DONE:
            holes[State.MISSING] += 1
        else:
            holes[item.state] += 1
    finite = [value for value in values.values() if math.isfinite(value)]
    summary = summarise(finite) if finite else None
    return Entry(values, holes, summary, frozenset(partial), data=data)
