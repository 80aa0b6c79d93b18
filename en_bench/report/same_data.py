"""Which numbers may stand beside each other: those whose trainings, and whose validations, rest on the same data.

Records say what they rest on by digests and counts, so this holds where no manifest is at hand. What a record does not
say, as records of former versions, is no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

from en_bench.matrix.records import Json, covers_set
from en_bench.matrix.training_data import FACTS
from en_bench.report.entries import Basis, Entry
from en_bench.report.shared_seeds import told_seeds

_DIGITS = 8  # of a hash, where it is shown
_VALIDATION = ("digest", "labels", "n", "class map", "moments recalibrated on digest", "moments recalibrated on n")
_HASHES = ("digest", "class map", "moments recalibrated on digest")


def basis(trained: Basis, *results: Json) -> Basis:
    """What a number rests on: `trained` of its training, then the facts of _VALIDATION for each of its `results`.

    A result over a part of its set has no n to compare: its mark says so already.
    """
    facts = list(trained)
    for result in results:
        n = result.get("n") if covers_set(result) else None
        facts += (result.get("digest"), result.get("labels"), n, result.get("classes_digest"))
        images = result.get("recalibrated")
        facts += (images.get("digest"), images.get("samples")) if images else (None, None)
    return tuple(facts)


def differs(bases: Iterable[Basis]) -> bool:
    """Whether some fact has two values among them."""
    distinct: list[Basis] = []  # mostly one: to compare is less than to hash, and records may hold what has no hash
    for one in bases:
        if one not in distinct:
            distinct.append(one)
    known = ([value for value in values if value is not None] for values in zip(*distinct, strict=True))
    return any(value != values[0] for values in known for value in values)


def mark_mixed(rivals: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries of a comparison by normaliser, all `mixed` where they do not rest on the same data."""
    if not differs(chain.from_iterable(entry.data.values() for entry in rivals.values())):
        return dict(rivals)
    return {norm: replace(entry, mixed=True) if entry.values else entry for norm, entry in rivals.items()}


def told_mixed(places: Iterable[tuple[str, str, Mapping[str, Entry]]]) -> Iterator[str]:
    """Which normalisers and seeds rest on what, a line for each training set and each place where that differs.

    `places` are comparisons: the training set, what was measured in words, and the entries by normaliser.
    """
    trained: dict[str, dict[str, dict[int, Basis]]] = {}
    measured: dict[str, dict[str, dict[int, Basis]]] = {}
    for train, place, rivals in places:
        for norm, entry in rivals.items():
            if entry.mixed:
                for seed, facts in entry.data.items():
                    trained.setdefault(train, {}).setdefault(norm, {})[seed] = facts[: len(FACTS)]
                    measured.setdefault(place, {}).setdefault(norm, {})[seed] = facts[len(FACTS) :]
    for train, by_norm in trained.items():
        if told := _told(FACTS, by_norm):
            yield f"trained on {train}: {told}"
    for place, by_norm in measured.items():
        if told := _told(_VALIDATION, by_norm):
            yield f"{place}: {told}"


def _told(names: Iterable[str], by_norm: Mapping[str, Mapping[int, Basis]]) -> str:
    """`digest d1d1d1d1 (A, C) and d2d2d2d2 (B seeds 0, 2)`, of the facts that differ."""
    found = []
    for position, name in enumerate(names):
        holders: dict[str, list[str]] = {}
        for norm, by_seed in by_norm.items():
            seeds: dict[str, list[int]] = {}
            for seed, facts in by_seed.items():
                if facts[position] is not None:
                    seeds.setdefault(str(facts[position]), []).append(seed)
            for value, of in seeds.items():
                holders.setdefault(value, []).append(norm if len(seeds) == 1 else f"{norm} {told_seeds(of)}")
        if len(holders) > 1:
            told = (f"{short_hash(v) if name in _HASHES else v} ({', '.join(who)})" for v, who in holders.items())
            found.append(f"{name} {' and '.join(told)}")
    return ", ".join(found)


def short_hash(digest: object) -> str:
    return str(digest or "?").removeprefix("sha256:")[:_DIGITS]
