"""Average ranks of the normalisers over sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from en_bench.matrix.paired import Floats
from en_bench.matrix.plan import State
from en_bench.matrix.ranks import NORMALISERS, SETS, Friedman, friedman, rank
from en_bench.report.comparisons import LEVEL
from en_bench.report.entries import NOTHING, Entry
from en_bench.report.shared_seeds import leaves_out, shared_means, shared_seeds, told_seeds
from en_bench.report.sheet import Frame, Note, Sheet, fields
from en_bench.report.tables import Table


@dataclass(frozen=True)
class Pair:
    """A training and a validation set, with what each normaliser comes to there.

    `sets` are those that the two labels stand for: configurations of one data set are no independent ones.
    """

    train: str
    target: str
    sets: tuple[str | None, str | None]
    entries: Mapping[str, Entry]

    def __str__(self) -> str:
        return f"{self.train} → {self.target}"

    @cached_property
    def seeds(self) -> Sequence[int]:
        """Those that all normalisers have, over which they are ranked."""
        return shared_seeds(self.entries.values())

    @property
    def left_out(self) -> str:
        """Why there is no rank: who has no number over the whole set or of the same data; empty where there is one."""
        without = [
            f"{norm} {_why(entry)}" for norm, entry in self.entries.items() if not (entry.values and entry.comparable)
        ]
        return ", ".join(without) or ("" if self.seeds else "no seed that all have")

    @property
    def diverged(self) -> str:
        """Who ranks last as a training diverged."""
        return ", ".join(
            f"{norm} {entry.diverged}/{len(entry.values)}" for norm, entry in self.entries.items() if entry.diverged
        )


@dataclass(frozen=True)
class Ranking:
    """Ranks over pairs of training and validation set.

    `means` and `ranks` (ranked pairs, normalisers) are over the seeds that all share, NaN where a training diverged, of
    `ranked`: the `pairs` where every normaliser has a number.
    """

    title: str
    pairs: Sequence[Pair]
    ranked: Sequence[Pair]
    means: Floats
    ranks: Floats

    @property
    def average(self) -> Floats | None:
        return self.ranks.mean(0) if len(self.ranks) else None


def rankings(table: Table) -> list[Ranking]:
    """Over each training's own validation set, and over all pairs of training and validation set."""
    own = [(train, table.own[train]) for train in table.trains if train in table.own]
    everything = _pairs(table)
    found = [_ranking(table, "own validation set", own)] if own else []
    return found if own == everything else [*found, _ranking(table, "all pairs of sets", everything)]


def _pairs(table: Table) -> list[tuple[str, str]]:
    return [(train, target) for train, target in product(table.trains, table.targets) if target in table.counted[train]]


def _ranking(table: Table, title: str, labels: Sequence[tuple[str, str]]) -> Ranking:
    pairs = [
        Pair(
            train,
            target,
            table.spec.trained_and_validated_on(train),
            {norm: table.entries[train, norm, target] for norm in table.norms},
        )
        for train, target in labels
    ]
    ranked = [pair for pair in pairs if not pair.left_out]
    means = [list(shared_means(pair.entries).values()) for pair in ranked]
    values = np.array(means).reshape(len(means), len(table.norms))
    return Ranking(title, pairs, ranked, values, rank(values, table.metric.higher_is_better))


def _why(entry: Entry) -> str:
    return " ".join(entry.marks()).replace(NOTHING, State.MISSING.upper())


def over_sets(ranking: Ranking, higher_is_better: bool) -> Floats:
    """Ranks (sets, normalisers) over data sets, which a test is of: several configurations of one training and
    validation set count as one, their means are averaged and ranked again."""
    sets = [pair.sets for pair in ranking.ranked]
    averaged = [ranking.means[[other == one for other in sets]].mean(0) for one in dict.fromkeys(sets)]
    return rank(np.array(averaged).reshape(len(averaged), ranking.means.shape[1]), higher_is_better)


def test_of(ranks: Floats) -> Friedman | str:
    """Friedman's test of ranks over data sets, or why there is none."""
    if ranks.shape[1] < 3:
        return "two normalisers are compared by their differences"
    if len(ranks) < SETS:
        return f"{len(ranks)} different pairs of training and validation set, of the {SETS} that it takes"
    return friedman(ranks)


def ranks_sheet(table: Table) -> Sheet | None:
    """Average ranks; None for a single normaliser."""
    found = rankings(table)
    if len(table.norms) < 2 or not found:
        return None
    columns = [_column(ranking, len(table.norms)) for ranking in found]
    holes = [_results_missing(table, norm) for norm in table.norms]
    notes = [
        Note(
            "1 is best; by the mean over the seeds that all normalisers have; equal means share a rank, and a diverged "
            "training ranks last"
        ),
        *(note for ranking in found for note in _exceptions(ranking)),
    ]
    if found[0].title != "all pairs of sets":
        notes.append(
            Note(_tested(table, found[0]), "Friedman's test and Nemenyi's critical difference, own validation sets")
        )
    if len(found) > 1 or found[0].title == "all pairs of sets":
        notes.append(Note("several pairs share a training: no test", "all pairs of sets"))
    return Sheet(
        "ranks",
        "Average rank",
        f"Average rank of the normalisers: {table.headline} (pairs of training and validation set)",
        ["normaliser", *(ranking.title for ranking in found), "results missing"],
        1,
        [fields(*row) for row in zip(table.norms, *columns, holes, strict=True)],
        notes,
    )


def _exceptions(ranking: Ranking) -> Iterator[Note]:
    """Which pairs are not ranked, or over fewer seeds, and where someone ranks last whatever the mean."""
    fewer = [(pair, told_seeds(pair.seeds)) for pair in ranking.ranked if leaves_out(pair.entries.values())]
    for said, key in (
        ([(pair, pair.left_out) for pair in ranking.pairs], f"left out of {ranking.title}"),
        (fewer, f"{ranking.title}, over fewer seeds"),
        ([(pair, pair.diverged) for pair in ranking.ranked], f"{ranking.title}, last as a training diverged"),
    ):
        if told := [f"{pair} ({why})" for pair, why in said if why]:
            yield Note("; ".join(told), key)


def _column(ranking: Ranking, norms: int) -> list[str]:
    if ranking.average is None:
        return [NOTHING] * norms
    return [f"{average:.2f} ({len(ranking.ranked)})" for average in ranking.average]


def _results_missing(table: Table, norm: str) -> str:
    entries = [table.entries[train, norm, target] for train, target in _pairs(table)]
    return str(sum(entry.holes.total() for entry in entries))


def _tested(table: Table, ranking: Ranking) -> str:
    ranks = over_sets(ranking, table.metric.higher_is_better)
    found = test_of(ranks)
    if isinstance(found, str):
        return f"none: {found}"
    averages = ""
    if len(ranks) < len(ranking.ranked):  # others than those that the table shows
        averages = " " + ", ".join(f"{norm} {mean:.2f}" for norm, mean in zip(table.norms, ranks.mean(0), strict=True))
    rough = "" if len(table.norms) >= NORMALISERS else f"; approximate below {NORMALISERS} normalisers"
    differ = (
        f"differ significantly from {found.critical_difference:.2f} on"
        if found.p < LEVEL
        else f"are not compared, as p is not below {LEVEL}"
    )
    return (
        f"F {found.f:.2f}, p {found.p:.3g} over {found.sets} pairs of training and validation set; average ranks over "
        f"them{averages} {differ}{rough}"
    )


def ranks_frame(table: Table) -> Frame | None:
    """One row per normaliser and pair of sets, without a rank where the pair is left out; None for one normaliser.

    `seeds` counts those that all normalisers have, `diverged` trainings of the row's.
    """
    rows: list[list[Any]] = []
    for ranking in rankings(table) if len(table.norms) > 1 else ():
        ranks = iter(ranking.ranks)
        for pair in ranking.pairs:
            told = [pair.train, pair.target, ranking.title]
            ranked = [None] * len(table.norms) if pair.left_out else next(ranks).tolist()
            for (norm, entry), one in zip(pair.entries.items(), ranked, strict=True):
                rows.append([norm, *told, one, len(pair.seeds), entry.diverged, pair.left_out or None])
    stub = dict.fromkeys(("norm", "train", "validate", "over"), str)
    columns = {**stub, "rank": float, "seeds": int, "diverged": int, "left_out": str}
    return Frame("ranks", columns, rows) if rows else None
