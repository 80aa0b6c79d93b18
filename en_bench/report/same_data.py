"""Which numbers may stand beside each other: those whose trainings, and whose validations, rest on the same data.

Records say what they rest on by digests and counts, so this holds where no manifest is at hand. What a record does not
say, as records of former versions, is no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from en_bench.matrix.records import Json, covers_set
from en_bench.noise.base import labels_told
from en_bench.report.entries import Basis, Entry
from en_bench.report.shared_seeds import told_seeds

_DIGITS = 8  # of a hash, where it is shown
_TRAINING = ("digest", "labels", "n held out", "class map")
_VALIDATION = ("digest", "labels", "n", "class map", "moments recalibrated on digest", "moments recalibrated on n")
_HASHES = ("digest", "class map", "moments recalibrated on digest")
_UNKNOWN = dict.fromkeys(_VALIDATION)


def basis(fit: Json, *results: Json) -> Basis:
    """What a training and its `results` rest on: the facts of _TRAINING, then those of _VALIDATION for each result.

    A result over a part of its set has no n to compare: its mark says so already.
    """
    train, held_out = fit.get("train") or {}, fit.get("held_out", _UNKNOWN)
    facts = [
        train.get("digest"),
        _labels(train.get("labels"), (fit.get("noise") or {}).get("made")),
        held_out.get("n") if held_out else 0,  # null is that nothing is held out
        fit.get("classes_digest"),
    ]
    for result in results:
        images = result.get("recalibrated") or _UNKNOWN
        n = result.get("n") if covers_set(result) else None
        facts += (result.get("digest"), result.get("labels"), n, result.get("classes_digest"))
        facts += (images.get("digest"), images.get("samples"))
    return tuple(facts)


def _labels(column: str | None, made: Mapping[str, Any] | None) -> str | None:
    """The labels that train; of a file that noise is made by what it holds, as its name says nothing."""
    if column is None or made is None:
        return column
    held = {
        name: {"sha256": value["sha256"]} if isinstance(value, dict) and "sha256" in value else value
        for name, value in made.items()
    }
    return labels_told(column, held)


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
                    trained.setdefault(train, {}).setdefault(norm, {})[seed] = facts[: len(_TRAINING)]
                    measured.setdefault(place, {}).setdefault(norm, {})[seed] = facts[len(_TRAINING) :]
    for train, by_norm in trained.items():
        if told := _told(_TRAINING, by_norm):
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
