"""Seconds per step as people give them: in a specification, or as `--seconds-per-step`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from en_bench.errors import InputError
from en_bench.matrix.closest import did_you_mean, did_you_mean_pattern

if TYPE_CHECKING:
    from en_bench.matrix.plan import Cell

EVERY = "*"


def seconds_in_spec(raw: object, where: str) -> dict[str, float]:
    """The key `seconds_per_step` of a specification: a number for all cells, or numbers by normaliser or pattern.

    Raises InputError for anything else.
    """
    found = raw if isinstance(raw, dict) else {EVERY: raw}
    return {str(pattern): _seconds(value, f"{where}.{pattern}") for pattern, value in found.items()}


def seconds_in_flags(flags: Sequence[str]) -> dict[str, float]:
    """Of the arguments `0.12` (for all cells) and `PATTERN=0.12`; InputError for others."""
    found: dict[str, float] = {}
    for flag in flags:  # the last comes last, also where it repeats a pattern
        pattern, _, value = flag.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        found.pop(pattern or EVERY, None)
        found[pattern or EVERY] = _seconds(number, f"--seconds-per-step {flag}")
    return found


def in_order(in_spec: Mapping[str, float], in_flags: Mapping[str, float]) -> dict[str, float]:
    """Both, such that what flags say counts where both mean a cell."""
    return {pattern: seconds for pattern, seconds in in_spec.items() if pattern not in in_flags} | dict(in_flags)


def seconds_for(cell: Cell, given: Mapping[str, float]) -> float | None:
    """What is given for a cell: last, by its normaliser's label or a pattern that "norm/train/seed" matches."""
    matching = [seconds for pattern, seconds in given.items() if _means(pattern, cell)]
    return matching[-1] if matching else None


def check_given(given: Mapping[str, float], cells: Sequence[Cell], where: str) -> None:
    """Raise InputError for a pattern that no cell matches: it would be a typing error without effect.

    `where` says where it was given.
    """
    for pattern in given:
        if not any(_means(pattern, cell) for cell in cells):
            names = [str(cell) for cell in cells]
            cure = "" if "/" in pattern else did_you_mean(pattern, {cell.norm for cell in cells})
            cure = cure or did_you_mean_pattern(pattern, names)
            cure = cure or (
                f"; give a normaliser's label or a pattern of normaliser/training set/seed, such as {names[0]}"
            )
            raise InputError(f"{where}: {pattern!r}: no cell is meant by it{cure}")


def check_order(given: Mapping[str, float], cells: Sequence[Cell], where: str) -> None:
    """Raise InputError for a pattern whose cells later ones all mean too: it would be without effect."""
    meant = [[pattern for pattern in given if _means(pattern, cell)] for cell in cells]
    decide = {patterns[-1] for patterns in meant if patterns}
    for pattern in given:
        if pattern not in decide and any(pattern in patterns for patterns in meant):
            raise InputError(
                f"{where}: {pattern!r} has no effect, since what comes after it means the same cells: put general ones "
                "first"
            )


def _means(pattern: str, cell: Cell) -> bool:
    return cell.norm == pattern or fnmatchcase(str(cell), pattern)


def _seconds(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{where}: expected seconds above 0, such as 0.12")
    return float(value)
