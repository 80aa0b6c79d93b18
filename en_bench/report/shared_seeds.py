"""Means over the seeds that all rivals have: means over different seeds compare the seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from en_bench.report.entries import Entry


def shared_seeds(entries: Collection[Entry]) -> list[int]:
    """The seeds with a value in every entry, NaN of a training that diverged included."""
    seeds = [entry.values.keys() for entry in entries]
    return sorted(frozenset.intersection(*map(frozenset, seeds))) if seeds else []


def shared_means(entries: Mapping[str, Entry]) -> dict[str, float]:
    """The mean of each entry over the seeds that all have; NaN where a training diverged, at whatever seed."""
    seeds = shared_seeds(entries.values())
    return {
        norm: math.nan if entry.diverged or not seeds else math.fsum(entry.values[s] for s in seeds) / len(seeds)
        for norm, entry in entries.items()
    }


def leaves_out(entries: Collection[Entry]) -> bool:
    """Whether some entry has a value at a seed that not all have."""
    return len({frozenset(entry.values) for entry in entries}) > 1


def told_seeds(seeds: Collection[int]) -> str:
    """`seed 0`, `seeds 2, 3, 4`."""
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
