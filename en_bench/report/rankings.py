"""Average ranks of the normalisers over sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from en_bench.matrix.paired import Floats
from en_bench.matrix.plan import State
from en_bench.matrix.ranks import NORMALISERS, SETS, Friedman, friedman, rank
from en_bench.report.entries import NOTHING, Entry
from en_bench.report.shared_seeds import leaves_out, shared_means, shared_seeds, told_seeds
from en_bench.report.sheet import Frame, Note, Sheet, fields
from en_bench.report.tables import Table


@dataclass(frozen=True)
class Ranking:
    """Ranks (pairs, normalisers) by `means` over the seeds that all share, of the pairs of training and validation set
    where every normaliser has a number over the whole set, NaN where a training diverged.

    `left_out` says of the other pairs who has none, `fewer_seeds` which pairs are ranked over fewer seeds than there
    are, `diverged` where which normaliser ranks last for that. `sets` (train set, validation set) are those that
    `pairs` stand for: configurations of one data set are no independent ones.
    """

    title: str
    pairs: Sequence[tuple[str, str]]
    sets: Sequence[tuple[str | None, str | None]]
    means: Floats
    ranks: Floats
    left_out: Sequence[str]
    fewer_seeds: Sequence[str]
    diverged: Sequence[str]

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


def _ranking(table: Table, title: str, pairs: Sequence[tuple[str, str]]) -> Ranking:
    ranked: list[tuple[str, str]] = []
    means: list[list[float]] = []
    left_out, fewer_seeds, diverged = [], [], []
    for train, target in pairs:
        entries = {norm: table.entries[train, norm, target] for norm in table.norms}
        without = [
            f"{norm} {_why(entry)}" for norm, entry in entries.items() if not entry.values or not entry.comparable
        ]
        seeds = shared_seeds(entries.values())
        if without or not seeds:
            left_out.append(f"{train} → {target} ({', '.join(without) or 'no seed that all have'})")
            continue
        ranked.append((train, target))
        means.append(list(shared_means(entries).values()))
        if leaves_out(entries.values()):
            fewer_seeds.append(f"{train} → {target} ({told_seeds(seeds)})")
        if lost := [
            f"{norm} {entry.diverged}/{len(entry.values)}" for norm, entry in entries.items() if entry.diverged
        ]:
            diverged.append(f"{train} → {target} ({', '.join(lost)})")
    values = np.array(means).reshape(len(means), len(table.norms))
    ranks = rank(values, table.metric.higher_is_better)
    sets = [table.spec.trained_and_validated_on(train) for train, _ in ranked]
    return Ranking(title, ranked, sets, values, ranks, left_out, fewer_seeds, diverged)


def _why(entry: Entry) -> str:
    return " ".join(entry.marks()).replace(NOTHING, State.MISSING.upper())


def test_of(ranking: Ranking, higher_is_better: bool) -> Friedman | str:
    """Friedman's test of a ranking over data sets, or why there is none.

    Several configurations of one training and validation set count as one: their means are averaged and ranked again.
    """
    if ranking.ranks.shape[1] < 3:
        return "two normalisers are compared by their differences"
    sets = list(dict.fromkeys(ranking.sets))
    if len(sets) < SETS:
        return f"{len(sets)} different pairs of training and validation set, of the {SETS} that it takes"
    averaged = [ranking.means[[other == one for other in ranking.sets]].mean(0) for one in sets]
    return friedman(rank(np.array(averaged), higher_is_better))


def ranks_sheet(table: Table) -> Sheet | None:
    """Average ranks; None for a single normaliser."""
    found = rankings(table)
    if len(table.norms) < 2 or not found:
        return None
    columns = [_column(ranking, len(table.norms)) for ranking in found]
    holes = [_seeds_missing(table, norm) for norm in table.norms]
    notes = [
        Note(
            "1 is best; by the mean over the seeds that all normalisers have; equal means share a rank, and a diverged "
            "training ranks last"
        ),
        *(Note("; ".join(r.left_out), f"left out of {r.title}") for r in found if r.left_out),
        *(Note("; ".join(r.fewer_seeds), f"{r.title}, over fewer seeds") for r in found if r.fewer_seeds),
        *(Note("; ".join(r.diverged), f"{r.title}, last as a training diverged") for r in found if r.diverged),
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
        ["normaliser", *(ranking.title for ranking in found), "seeds missing"],
        1,
        [fields(*row) for row in zip(table.norms, *columns, holes, strict=True)],
        notes,
    )


def _column(ranking: Ranking, norms: int) -> list[str]:
    if ranking.average is None:
        return [NOTHING] * norms
    return [f"{average:.2f} ({len(ranking.pairs)})" for average in ranking.average]


def _seeds_missing(table: Table, norm: str) -> str:
    entries = [table.entries[train, norm, target] for train, target in _pairs(table)]
    return str(sum(entry.holes.total() for entry in entries))


def _tested(table: Table, ranking: Ranking) -> str:
    found = test_of(ranking, table.metric.higher_is_better)
    if isinstance(found, str):
        return f"none: {found}"
    rough = "" if len(table.norms) >= NORMALISERS else f"; approximate below {NORMALISERS} normalisers"
    return (
        f"F {found.f:.2f}, p {found.p:.3g} over {found.sets} pairs of training and validation set; average ranks over "
        f"them differ significantly from {found.critical_difference:.2f} on{rough}"
    )


def ranks_frame(table: Table) -> Frame | None:
    """One row per normaliser and pair of sets."""
    rows = [
        [norm, train, target, ranking.title, float(ranks[position])]
        for ranking in rankings(table)
        for (train, target), ranks in zip(ranking.pairs, ranking.ranks, strict=True)
        for position, norm in enumerate(table.norms)
    ]
    return Frame("ranks", ["norm", "train", "validate", "over", "rank"], rows) if rows else None
