"""Paired differences between normalisers over equal seeds, and how often one wins: the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product
from math import isnan

from en_bench.matrix.paired import CONSTANT, DIVERGED, FEW, MIXED, PARTIAL
from en_bench.matrix.plan import State
from en_bench.report.comparisons import LEVEL, Difference, Differences, tallies
from en_bench.report.entries import DIVERGED as DIVERGED_MARK
from en_bench.report.entries import MIXED as MIXED_MARK
from en_bench.report.entries import NOTHING, PART
from en_bench.report.sheet import Field, Frame, Note, Sheet, computed, fields
from en_bench.report.tables import Table

_SHORT = {FEW: "below 3 seeds", PARTIAL: PART, MIXED: MIXED_MARK, DIVERGED: DIVERGED_MARK, CONSTANT: "no spread"}
_RULE = (
    "p: paired t test over equal seeds, two-sided, adjusted by Holm's method for all tests of this table; intervals "
    "are of the single difference, not adjusted"
)
_TWICE = Field("same set")
_REVERSED = {"win": "loss", "loss": "win"}


def baseline_sheet(table: Table, family: Differences) -> Sheet | None:
    """Differences to the baseline; None without one to compare."""
    base = table.spec.baseline
    if not family.found:
        return None
    caption = f"Difference to {base}: {table.headline}, mean ± 95 % interval (equal seeds), p"
    names = [f"{norm} − {base}" for norm in table.norms if norm != base]
    told = [f"{norm} {_told(tally)}" for (norm, _), tally in tallies(family, table).items()]
    return _sheet(
        "differences",
        f"Against {base}",
        caption,
        names,
        family,
        table,
        [Note("; ".join(told), f"win / tie / loss against {base}, by the p of this table")],
    )


def pairs_sheet(table: Table, family: Differences) -> Sheet | None:
    """All differences; None where that to the baseline is the only one."""
    if len(table.norms) < 3:
        return None
    caption = f"Differences of all pairs of normalisers: {table.headline}, mean ± 95 % interval (equal seeds), p"
    names = [f"{norm} − {other}" for other, norm in combinations(table.norms, 2)]
    return _sheet("pairs", "All pairs", caption, names, family, table, [])


def _sheet(
    name: str, title: str, caption: str, pairs: Sequence[str], family: Differences, table: Table, notes: list[Note]
) -> Sheet:
    found = iter(family.found)
    rows = [
        [
            *fields(train, pair),
            *(_field(next(found), table) if name in table.counted[train] else _TWICE for name in table.columns),
        ]
        for train, pair in product(table.trains, pairs)
    ]
    if any(_TWICE in row for row in rows):
        notes = [*notes, Note("a set that stands under another label already is compared once", _TWICE.text)]
    if any(table.columns[difference.column].adapted for difference in family.found):
        tests = f"tests: {family.tests}; after adapting, adjusted apart: {family.adapted_tests}"
    else:
        tests = f"tests: {family.tests}"
    significant = any(difference.significant for difference in family.found)
    return Sheet(
        name,
        title,
        caption,
        ["trained on", "difference", *table.columns],
        2,
        rows,
        [*notes, Note(f"{_RULE}; {tests}"), *_causes(family)],
        f"p below {LEVEL}" if significant else "",
    )


def _causes(family: Differences) -> list[Note]:
    found = {difference.untested for difference in family.found if difference.n or difference.untested == DIVERGED}
    told = [f"{short}: {cause}" for cause, short in _SHORT.items() if cause in found]
    return [Note("; ".join(told), "without p")] if told else []


def _field(difference: Difference, table: Table) -> Field:
    return Field(show(difference, table), difference.significant)


def show(difference: Difference, table: Table) -> str:
    """`+1.5 ± 0.7 (3), p 0.031`, with why there is no p and with the marks of both sides."""
    if not difference.n:
        return NOTHING if difference.marks in ((), (State.MISSING.upper(),)) else " ".join(difference.marks)
    metric = table.metric
    digits = metric.digits
    while difference.significant and difference.mean and not float(metric.show(difference.mean, digits)):
        digits += 1  # which side has won is not to be rounded away
    spread = "" if isnan(difference.half_width) else f" ± {metric.show(difference.half_width, digits)}"
    value = f"{metric.show_difference(difference.mean, digits)}{spread} ({difference.n})"
    short = _SHORT.get(difference.untested, "")
    tail = f", p {show_p(difference.p)}" if not short else "" if short in difference.marks else f", {short}"
    return " ".join([value + tail, *difference.marks])


def show_p(p: float) -> str:
    """To three decimal places, and more where it would else seem to be the level itself."""
    digits = 3
    while p != LEVEL and float(f"{p:.{digits}f}") == LEVEL:
        digits += 1
    return "<0.001" if p < 0.001 else f"{p:.{digits}f}"


def _told(tally: Counter[str]) -> str:
    others = ", ".join(f"{tally[outcome]} {outcome}" for outcome in ("diverged", "untested") if tally[outcome])
    return f"{tally['win']} / {tally['tie']} / {tally['loss']}{f' ({others})' if others else ''}"


def wins_sheet(table: Table, family: Differences) -> Sheet | None:
    """Win / tie / loss of each normaliser against each other; None where there are only two.

    `family` are all pairs.
    """
    if len(table.norms) < 3:
        return None
    counted = {**tallies(family, table)}
    for (norm, other), tally in list(counted.items()):
        counted[other, norm] = Counter({_REVERSED.get(outcome, outcome): n for outcome, n in tally.items()})
    rows = []
    for norm in table.norms:
        total: Counter[str] = sum((counted[norm, other] for other in table.norms if other != norm), Counter())
        against = ["" if other == norm else _told(counted[norm, other]) for other in table.norms]
        rows.append(fields(norm, *against, _told(total)))
    return Sheet(
        "wins",
        "Win / tie / loss",
        f"Win / tie / loss of row against column, over the pairs of training and validation set: {table.headline}",
        ["normaliser", *table.norms, "all"],
        1,
        rows,
        [
            Note(
                f"a win or a loss is a difference of all pairs with p below {LEVEL}, a tie one with a higher p, "
                "which does not prove that two are equal"
            )
        ],
    )


def differences_frame(table: Table, baseline: Differences, pairs: Differences) -> Frame:
    """One row per comparison of both families."""
    columns = {
        **{"family": str, "train": str, "validate": str, "adapted": int, "norm": str, "other": str, "metric": str},
        **{"mean": float, "half_width_95": float, "seeds": int},
        **{"p_holm": float, "outcome": str, "untested": str, "marks": str},
    }
    families = [("baseline", d) for d in baseline.found] + [("all pairs", d) for d in pairs.found]
    rows = [
        [
            *(family, d.train, table.columns[d.column].label, int(table.columns[d.column].adapted), d.norm, d.other),
            *(table.spec.metric, computed(d.mean) if d.n else None, _number(d.half_width), d.n, _number(d.p)),
            *(d.outcome(table.metric.higher_is_better), d.untested or None, " ".join(d.marks) or None),
        ]
        for family, d in families
    ]
    return Frame("differences", columns, rows)


def _number(value: float) -> float | None:
    return None if isnan(value) else computed(value)
