"""Numbers that others have published, to stand beside measured ones and never among them."""

import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from en_bench.accuracies import LABELS
from en_bench.errors import InputError
from en_bench.matrix.closest import did_you_mean, did_you_mean_file
from en_bench.matrix.metrics import FRACTION, LARGEST, METRICS, NATS, PERCENT, from_printed, units_of
from en_bench.matrix.overlays import check_plain, read_yaml

_KEYS = ("source", "metric", "unit", "selection", "tolerance", "unknown_labels", "values")
_VALUE_KEYS = ("value", "tolerance")

DIVERGES = "diverges"
"""In place of a value: the source says that there the training does not converge."""


@dataclass(frozen=True)
class Reported:
    """A published number for `norm`, trained on `train` and validated on `target`.

    `value` and `tolerance` are in the unit of what is measured, fractions or nats. `value` is None where the source
    says that the training diverges. `tolerance` is how far a measured mean may lie from the value, chosen by who wrote
    the specification; None where nobody chose one. `printed` is the value as it was published, in per cent or nats and
    with all its digits (`77.0`), or DIVERGES. `selection` says which epoch the source reports: `last`, `best`
    or `selected`, as `en_bench.accuracies.LABELS`.
    """

    norm: str
    train: str
    target: str
    value: float | None
    tolerance: float | None
    source: str
    metric: str
    printed: str
    selection: str = "last"


@dataclass(frozen=True)
class Labels:
    """The labels of a matrix, which published numbers have to be of."""

    norms: Collection[str]
    train: Collection[str]
    validate: Collection[str]


def parse_reported(raw: object, path: Path, labels: Labels, metric: str) -> tuple[Reported, ...]:
    """The published numbers of a specification at `path`, in the order in which they stand.

    `raw` is a file's name (relative to the specification), a mapping, or a list of these. Each holds `source`, the
    `metric` (default: `metric`), the `unit` (default: per cent, or nats for nll; to be said where a value of at most 1
    could be a fraction as well), the `selection` of the epoch (default: the last), a default `tolerance` and `values`
    by training set, validation set and normaliser, all in that unit. A value is a number (in quotes where it ends in a
    zero after the point: '76.40'), DIVERGES, `{value: 76.4, tolerance: 0.3}`, or null where none could be read at the
    source. Labels that the matrix does not have are an error, unless the entry says `unknown_labels: ignore`.

    Raises InputError, with file and key.
    """
    found: list[Reported] = []
    for part in raw if isinstance(raw, list) else [] if raw is None else [raw]:
        for reported in _entry(*_read(part, path), labels, metric):
            # Two sources may report the same cell differently; one source may not.
            if any(_key(reported) == _key(earlier) for earlier in found):
                raise InputError(
                    f"{path}: reported: {reported.norm} trained on {reported.train}, validated on {reported.target}, "
                    f"stands twice with the source {reported.source!r}: remove one"
                )
            found.append(reported)
    return tuple(found)


def _key(reported: Reported) -> tuple[str, ...]:
    return (reported.norm, reported.train, reported.target, reported.metric, reported.selection, reported.source)


def _read(part: object, path: Path) -> tuple[dict[str, Any], str]:
    """An entry and where it stands."""
    if isinstance(part, dict):
        check_plain(part, f"{path}: reported")
        return part, f"{path}: reported"
    if not isinstance(part, str) or not part:
        raise InputError(f"{path}: reported: {part!r} is neither the name of a file nor a mapping")
    file = Path(os.path.normpath(path.parent / part))
    if not file.is_file():
        raise InputError(f"{path}: reported: there is no file {part}{did_you_mean_file(file, path.parent)}")
    return read_yaml(file), str(file)


def _entry(entry: dict[str, Any], where: str, labels: Labels, default_metric: str) -> Iterator[Reported]:
    for key in entry:
        if key not in _KEYS:
            raise InputError(f"{where}: unknown key {key!r}{did_you_mean(key, _KEYS)}; the keys are {', '.join(_KEYS)}")
    source, metric = entry.get("source"), entry.get("metric", default_metric)
    if not isinstance(source, str) or len(source.splitlines()) != 1:
        raise InputError(f"{where}: source: expected one line that says where the values were read")
    if metric not in METRICS:
        raise InputError(
            f"{where}: metric: {metric!r} is not one of {', '.join(METRICS)}{did_you_mean(metric, METRICS)}"
        )
    selection = entry.get("selection", "last")
    if not isinstance(selection, str) or selection not in LABELS:
        raise InputError(
            f"{where}: selection: {selection!r} is not one of {', '.join(LABELS)}{did_you_mean(selection, LABELS)}"
        )
    if selection != "last" and metric != "top1":
        raise InputError(f"{where}: selection: a training says '{selection}' of top1 alone, not of {metric}")
    ignore = entry.get("unknown_labels", "error")
    if ignore not in ("error", "ignore"):
        raise InputError(f"{where}: unknown_labels: {ignore!r} is neither 'error' nor 'ignore'")
    if not isinstance(entry.get("values"), dict) or not entry["values"]:
        raise InputError(f"{where}: values: expected 'training set: {{validation set: {{normaliser: value}}}}'")
    leaves = list(_leaves(entry["values"], where))
    unit = _unit(entry.get("unit"), metric, _numbers([leaf for *_, leaf in leaves]), where)
    default = _tolerance(entry.get("tolerance"), unit, f"{where}: tolerance")
    for train, target, norm, leaf in leaves:
        at = f"{where}: values: {train}: {target}: {norm}"
        written, tolerance = _written(leaf, metric, unit, default, at)
        unknown = _unknown(labels, train, target, norm)
        if unknown is not None and ignore == "error":
            raise InputError(f"{at}: {unknown}; 'unknown_labels: ignore' leaves such values out")
        if unknown is None and written is not None:
            value, tolerance = (None, None) if written == DIVERGES else (from_printed(unit, float(written)), tolerance)
            printed = f"{Decimal(written).scaleb(2):f}" if unit == FRACTION and written != DIVERGES else written
            yield Reported(norm, train, target, value, tolerance, source, metric, printed, selection)


def _unit(given: object, metric: str, numbers: Sequence[float], where: str) -> str:
    """The unit of all values of an entry: what it says, else the usual one where no other can be meant."""
    units = units_of(metric)
    if given is not None and given not in units:
        raise InputError(f"{where}: unit: {given!r}: {metric} is written in {' or '.join(units)}")
    small, large = [n for n in numbers if 0 < n <= 1], [n for n in numbers if n > 1]
    which = f"'unit: {PERCENT}' or 'unit: {FRACTION}'"
    if given is None and units[0] == PERCENT and small and large:
        raise InputError(
            f"{where}: values: {small[0]:g} beside {large[0]:g}: if both are per cent say 'unit: {PERCENT}', else "
            f"write all values in one unit, {100 * small[0]:g} for {small[0]:g}"
        )
    if given is None and units[0] == PERCENT and small:
        raise InputError(
            f"{where}: values: {small[0]:g} may be {metric} in per cent or a fraction: say which it is ({which})"
        )
    if given == FRACTION and large:
        raise InputError(
            f"{where}: values: {large[0]:g} is no fraction, which 'unit: {FRACTION}' says that it is: write all values "
            f"in one unit, and say which it is ({which})"
        )
    return units[0] if given is None else str(given)


def _numbers(values: Sequence[object]) -> list[float]:
    printed = (value.get("value") if isinstance(value, dict) else value for value in values)
    return [number for value in printed if (number := _number(_unquoted(value))) is not None]


def _leaves(values: dict[str, Any], where: str) -> Iterator[tuple[str, str, str, object]]:
    for train, by_target in values.items():
        if not isinstance(by_target, dict):
            raise InputError(f"{where}: values: {train}: expected 'validation set: {{normaliser: value}}'")
        for target, by_norm in by_target.items():
            if not isinstance(by_norm, dict):
                raise InputError(f"{where}: values: {train}: {target}: expected 'normaliser: value'")
            for norm, printed in by_norm.items():
                yield train, target, norm, printed


def _unknown(labels: Labels, train: str, target: str, norm: str) -> str | None:
    axes = (("train", train, labels.train), ("validate", target, labels.validate), ("norms", norm, labels.norms))
    for axis, label, known in axes:
        if label not in known:
            return f"{label!r} is no label of {axis}{did_you_mean(label, known)}"
    return None


def _written(
    leaf: object, metric: str, unit: str, default: float | None, where: str
) -> tuple[str | None, float | None]:
    """What stands for one cell, None where nothing was read, and the tolerance in the unit that is measured."""
    if isinstance(leaf, dict):
        for key in leaf:
            if key not in _VALUE_KEYS:
                raise InputError(f"{where}: unknown key {key!r}; the keys are {', '.join(_VALUE_KEYS)}")
        if "tolerance" in leaf:
            default = _tolerance(leaf["tolerance"], unit, f"{where}: tolerance")
        leaf = leaf.get("value")
    if leaf is None or leaf == DIVERGES:
        return leaf, default
    number = _number(_unquoted(leaf))
    if number is None or not 0 <= number <= LARGEST[unit]:
        raise InputError(
            f"{where}: {leaf!r} is no value of {metric} in {_told(unit)}; write '{DIVERGES}' where the source says so, "
            "and leave it empty where none was read"
        )
    return leaf if isinstance(leaf, str) else f"{Decimal(repr(leaf)):f}", default


def _unquoted(printed: object) -> object:
    """YAML drops the last zeros of a number; in quotes it keeps them."""
    return float(printed) if isinstance(printed, str) and re.fullmatch(r"\d+(\.\d+)?", printed, re.ASCII) else printed


def _tolerance(printed: object, unit: str, where: str) -> float | None:
    if printed is None:
        return None
    number = _number(printed)
    if number is None or not 0 <= number <= LARGEST[unit]:
        most = "0 or more" if unit == NATS else f"0 to {LARGEST[unit]:g}"
        raise InputError(f"{where}: {printed!r} is no tolerance: use a number of {most}, in the unit of the values")
    return from_printed(unit, number)


def _told(unit: str) -> str:
    return {PERCENT: "per cent", FRACTION: "fractions"}.get(unit, unit)


def _number(printed: object) -> float | None:
    if isinstance(printed, bool) or not isinstance(printed, int | float) or not math.isfinite(printed):
        return None
    return float(printed)
