"""Average ranks of the normalisers over sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from en_bench.matrix.paired import Floats
from en_bench.matrix.plan import State
from en_bench.matrix.ranks import SETS, Friedman, friedman, rank
from en_bench.report.entries import NOTHING, Entry
from en_bench.report.sheet import Frame, Note, Sheet, fields
from en_bench.report.tables import Table


@dataclass(frozen=True)
class Ranking:
    """Ranks (pairs, normalisers) by the mean over seeds, of the pairs of training and validation set where every
    normaliser has a number over the whole set; `left_out` says of the others who has none."""

    title: str
    pairs: Sequence[tuple[str, str]]
    ranks: Floats
    left_out: Sequence[str]

    @property
    def average(self) -> Floats | None:
        return self.ranks.mean(0) if len(self.ranks) else None


def rankings(table: Table) -> list[Ranking]:
    """Over each training's own validation set, and over all pairs of training and validation set."""
    own = [(train, table.own[train]) for train in table.trains if train in table.own]
    everything = list(product(table.trains, table.targets))
    found = [_ranking(table, "own validation set", own)] if own else []
    return found if own == everything else [*found, _ranking(table, "all pairs of sets", everything)]


def _ranking(table: Table, title: str, pairs: Sequence[tuple[str, str]]) -> Ranking:
    ranked, left_out, means = [], [], []
    for train, target in pairs:
        entries = {norm: table.entries[train, norm, target] for norm in table.norms}
        without = [f"{norm} {_why(entry)}" for norm, entry in entries.items() if entry.summary is None or entry.partial]
        if without:
            left_out.append(f"{train} → {target} ({', '.join(without)})")
        else:
            ranked.append((train, target))
            means.append([entry.summary.mean if entry.summary else np.nan for entry in entries.values()])
    values = np.array(means).reshape(len(means), len(table.norms))
    return Ranking(title, ranked, rank(values, table.metric.higher_is_better), left_out)


def _why(entry: Entry) -> str:
    return " ".join(entry.marks()).replace(NOTHING, State.MISSING.upper())


def test_of(ranking: Ranking) -> Friedman | str:
    """Friedman's test of a ranking over training sets, or why there is none."""
    sets, norms = ranking.ranks.shape
    if norms < 3:
        return "two normalisers are compared by their differences"
    if sets < SETS:
        return f"{sets} sets, of the {SETS} that it takes"
    return friedman(ranking.ranks)


def ranks_sheet(table: Table) -> Sheet | None:
    """Average ranks; None for a single normaliser."""
    found = rankings(table)
    if len(table.norms) < 2 or not found:
        return None
    columns = [_column(ranking, len(table.norms)) for ranking in found]
    holes = [_seeds_missing(table, norm) for norm in table.norms]
    notes = [
        Note("1 is best; by the mean over seeds; equal means share a rank, and a diverged training ranks last"),
        *(Note("; ".join(r.left_out), f"left out of {r.title}") for r in found if r.left_out),
    ]
    if found[0].title != "all pairs of sets":
        notes.append(Note(_tested(found[0]), "Friedman's test and Nemenyi's critical difference, own validation sets"))
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
    entries = [table.entries[train, norm, target] for train, target in product(table.trains, table.targets)]
    return str(sum(entry.holes.total() for entry in entries))


def _tested(ranking: Ranking) -> str:
    found = test_of(ranking)
    if isinstance(found, str):
        return f"none: {found}"
    return (
        f"F {found.f:.2f}, p {found.p:.3g}; average ranks differ significantly from {found.critical_difference:.2f} on"
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
