"""What `en-bench matrix diff` prints of the cells that it has compared: the values of both sides in two columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from en_bench.matrix.diff import Compared, Verdict

_WIDEST = 40  # characters: what is longer, as the reason of a failure, stands out of its column
_NUMBER = re.compile(r"(-?\d+)((?:\.\d+)?(?:e[+-]\d+)?)")

Row = tuple[str, str, str, str]
"""What is compared, the values of both sides as text, and by how much they differ."""


def cell_lines(found: Sequence[Compared]) -> Iterator[str]:
    """A line for each cell, and below it one for each difference. The columns are those of all cells together."""
    verdicts, names = max(map(len, Verdict)), max((len(compared.name) for compared in found), default=0)
    rows = iter(aligned([difference.row() for compared in found for difference in compared.differences]))
    for compared in found:
        yield f"{compared.verdict:<{verdicts}}  {compared.name:<{names}}  {compared.id}"
        for _ in compared.differences:
            yield f"{'':<{verdicts}}    {next(rows)}"


def aligned(rows: Sequence[Row]) -> list[str]:
    """`name  a | b  difference`, with all of a column below each other, numbers by their decimal points."""
    names = [row[0] for row in rows]
    sides = [_column([row[side] for row in rows]) for side in (1, 2)]
    width = _width(names)
    lines = zip(names, *sides, (row[3] for row in rows), strict=True)
    return [f"{name:<{width}}  {a} | {b}  {by}".rstrip() for name, a, b, by in lines]


def _column(texts: Sequence[str]) -> list[str]:
    """Padded to one width, but for what is too long."""
    numbers = [_NUMBER.fullmatch(text) for text in texts]
    whole = max((len(number[1]) for number in numbers if number), default=0)
    placed = [
        f"{number[1]:>{whole}}{number[2]}" if number else text for number, text in zip(numbers, texts, strict=True)
    ]
    width = _width(placed)
    return [f"{text:<{width}}" for text in placed]


def _width(texts: Iterable[str]) -> int:
    return max((len(text) for text in texts if len(text) <= _WIDEST), default=0)
