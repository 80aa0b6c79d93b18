"""Tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from en_bench.report.sheet import Sheet

_BETWEEN = "  "


def to_text(title: str, sheets: Sequence[Sheet], width: int | None = None) -> str:
    """All sheets one after the other: columns aligned, `*` behind the best.

    In lines of `width` characters a table that is wider stands in blocks one below the other, each with the columns
    that say what its rows are of; only a block of a single column may be wider still.
    """
    return f"{title}\n" + "\n".join(_sheet(sheet, width) for sheet in sheets)


def _sheet(sheet: Sheet, width: int | None) -> str:
    rows = [list(sheet.head)]
    for number, row in enumerate(sheet.rows):
        texts = [field.text + (" *" if field.best else "") for field in row]
        if not sheet.starts_group(number) and sheet.stub > 1:
            texts[0] = ""
        rows.append(texts)
    notes = ([f"* {sheet.best}"] if sheet.best else []) + [note.line for note in sheet.notes]
    lines = [*_wrapped(sheet.caption, width), "", *_aligned(rows, sheet.stub, width), *([""] if notes else [])]
    return "\n".join([*lines, *(line for note in notes for line in _wrapped(note, width))]) + "\n"


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None or len(text) <= width else textwrap.wrap(text, width, break_long_words=False)


def _aligned(rows: Sequence[Sequence[str]], stub: int, width: int | None) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for columns in _blocks(widths, stub, width):
        lines += [""] if lines else []
        chosen = [widths[column] for column in columns]
        for row in rows:
            texts = zip((row[column] for column in columns), chosen, strict=True)
            lines.append(_BETWEEN.join(f"{text:<{wide}}" for text, wide in texts).rstrip())
    return lines


def _blocks(widths: Sequence[int], stub: int, width: int | None) -> Iterator[list[int]]:
    """The columns of each block: the first `stub`, and as many of the others as there is room for, one at least."""
    own = list(range(stub))
    columns, used = list(own), sum(widths[:stub]) + len(_BETWEEN) * (stub - 1)
    for column in range(stub, len(widths)):
        more = len(_BETWEEN) + widths[column]
        if width is not None and used + more > width and len(columns) > stub:
            yield columns
            columns, used = list(own), sum(widths[:stub]) + len(_BETWEEN) * (stub - 1)
        columns.append(column)
        used += more
    yield columns
