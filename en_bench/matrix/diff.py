"""Two sets of records cell by cell: did a rerun, another machine or another version give the same numbers?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from en_bench.matrix.overlays import settings
from en_bench.matrix.records import Json, Record, covers_set

_APART = frozenset(  # time, cost, host and places; and the configuration, which is compared as what makes a cell's id
    {"command", "config", "cost", "device", "versions", "commit", "finished", "checkpoint", "ranks"}
)
_BY_LABEL = frozenset({"validate", "adapted", "no_moments", "targets"})  # where a label may be called as one of these
_COMPLETE = frozenset({"metrics", "validate", "adapted", "no_moments", "accuracies"})


class Verdict(StrEnum):
    EQUAL = "equal"
    FAILED = "failed in both"
    DIFFERS = "differs"
    OTHER_SETTINGS = "other settings"
    ONLY_A = "only in A"
    ONLY_B = "only in B"


@dataclass(frozen=True)
class Difference:
    """What differs, by the words that lead to it in the record, and the values of both sides, None where there is
    none (as for a metric of a training that diverged)."""

    where: tuple[str, ...]
    a: Any
    b: Any

    def row(self) -> tuple[str, str, str, str]:
        """What differs, both values, and by how much (nothing where one is no number), as people read them."""
        by = f"{self.b - self.a:+.3g}" if _is_number(self.a) and _is_number(self.b) else ""
        return " ".join(self.where), _shown(self.a), _shown(self.b), by


@dataclass(frozen=True)
class Compared:
    """A cell, its verdict, and what differs: of its results, or of its settings."""

    id: str
    name: str
    verdict: Verdict
    differences: tuple[Difference, ...] = ()


def compare(a: Mapping[str, Record], b: Mapping[str, Record], tolerance: float = 0.0) -> list[Compared]:
    """Every cell of two sets of records by id, ordered by name.

    Compared are status and reason, sets, counts and metrics; cells that failed on both sides for one reason are FAILED,
    not EQUAL; numbers are equal if they differ by no more than
    `tolerance`, counts (n, epochs, steps) only if they are the same. Time, cost, device, versions, commit, log and
    paths are not. Two cells of one name whose ids differ have OTHER_SETTINGS, whatever their results. Facts that only
    one side states (later versions write more) are no difference, metrics and validations are.
    """
    found = [_by_id(cell_id, a[cell_id], b[cell_id], tolerance) for cell_id in a.keys() & b.keys()]
    lone_a, lone_b = _by_name(a, b), _by_name(b, a)
    for name in [*lone_a, *(name for name in lone_b if name not in lone_a)]:
        ours, theirs = lone_a.get(name, []), lone_b.get(name, [])
        if len(ours) == len(theirs) == 1:
            changed = tuple(_settings(*ours, *theirs))
            found.append(Compared(ours[0].id, name, Verdict.OTHER_SETTINGS, changed))
        else:  # a folder may hold records of former settings too: which of them belong together is open
            found += [Compared(record.id, name, Verdict.ONLY_A) for record in ours]
            found += [Compared(record.id, name, Verdict.ONLY_B) for record in theirs]
    return sorted(found, key=lambda compared: (compared.name, compared.id))


def same(found: list[Compared]) -> bool:
    """Whether nothing differs; False where there is no cell, or none that was done on both sides."""
    verdicts = {compared.verdict for compared in found}
    return Verdict.EQUAL in verdicts and verdicts <= {Verdict.EQUAL, Verdict.FAILED}


def counted(found: list[Compared]) -> str:
    """`equal 16, failed in both 1, differ 1, other settings 0, only in A 0, only in B 0`."""
    counts = Counter(compared.verdict for compared in found)
    return ", ".join(f"{'differ' if v is Verdict.DIFFERS else v} {counts[v]}" for v in Verdict)


def _by_name(records: Mapping[str, Record], others: Mapping[str, Record]) -> dict[str, list[Record]]:
    """The records whose cell is not among `others`."""
    found: dict[str, list[Record]] = {}
    for cell_id, record in records.items():
        if cell_id not in others:
            found.setdefault(_name(record), []).append(record)
    return found


def _by_id(cell_id: str, a: Record, b: Record, tolerance: float) -> Compared:
    differences = tuple(_walk((), _results(a), _results(b), tolerance))
    alike = Verdict.FAILED if a.status == b.status == "failed" else Verdict.EQUAL
    return Compared(cell_id, _name(a), Verdict.DIFFERS if differences else alike, differences)


def _results(record: Record) -> dict[str, Any]:
    def whole(results: Mapping[str, Json]) -> dict[str, Any]:  # said by all, whichever version wrote them
        return {label: {**result, "whole_set": covers_set(result)} for label, result in results.items()}

    return {
        "status": record.status,
        "reason": record.reason,
        "fit": record.fit,
        "validate": whole(record.validate),
        "adapted": whole(record.adapted),
        "no_moments": record.no_moments,
        "targets": record.targets,
    }


def _walk(where: tuple[str, ...], a: Any, b: Any, tolerance: float) -> Iterator[Difference]:
    if where == ("fit",) and bool(a) != bool(b):  # a training that ended on one side only
        yield Difference(where, a or None, b or None)
    elif isinstance(a, Mapping) and isinstance(b, Mapping):
        complete = bool(where) and where[-1] in _COMPLETE
        for key in [*a, *(key for key in b if key not in a)]:
            apart = key in _APART and not (len(where) == 1 and where[0] in _BY_LABEL)
            if not apart and (complete or (key in a and key in b)):
                yield from _walk((*where, key), a.get(key), b.get(key), tolerance)
    elif _is_number(a) and _is_number(b):
        counts = isinstance(a, int) and isinstance(b, int) and "metrics" not in where
        # Not `abs(a - b) > tolerance`, which NaN would pass.
        if a != b and (counts or not abs(a - b) <= tolerance):
            yield Difference(where, a, b)
    elif a != b:
        yield Difference(where, a, b)


def _settings(a: Record, b: Record) -> Iterator[Difference]:
    ours, theirs = ({".".join(keys): value for keys, value in settings(dict(r.overlays))} for r in (a, b))
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        yield from _setting(key, ours.get(key), theirs.get(key))


def _setting(key: str, a: Any, b: Any) -> Iterator[Difference]:
    """Of a class with its arguments only those that differ; as JSON where the other side has no such mapping."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for inner in [*a, *(inner for inner in b if inner not in a)]:
            yield from _setting(f"{key}.{inner}", a.get(inner), b.get(inner))
    elif a != b:
        yield Difference((key,), *(json.dumps(side) if isinstance(side, Mapping) else side for side in (a, b)))


def _name(record: Record) -> str:
    return f"{record.norm}/{record.train}/{record.seed}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, Mapping):
        return "there"
    return "none" if value is None else str(value)
