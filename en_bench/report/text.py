"""Tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import inf

from en_bench.printable import printable
from en_bench.report.sheet import Sheet, column_blocks

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
        texts = [printable(field.text) + (" *" if field.best else "") for field in row]
        if not sheet.starts_group(number) and sheet.stub > 1:
            texts[0] = ""
        rows.append(texts)
    notes = ([f"* {sheet.best}"] if sheet.best else []) + [printable(note.line) for note in sheet.notes]
    lines = [*_wrapped(sheet.caption, width), "", *_aligned(rows, sheet.stub, width), *([""] if notes else [])]
    return "\n".join([*lines, *(line for note in notes for line in _wrapped(note, width))]) + "\n"


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None or len(text) <= width else textwrap.wrap(text, width, break_long_words=False)


def _aligned(rows: Sequence[Sequence[str]], stub: int, width: int | None) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for columns in column_blocks(widths, stub, len(_BETWEEN), inf if width is None else width):
        lines += [""] if lines else []
        chosen = [widths[column] for column in columns]
        for row in rows:
            texts = zip((row[column] for column in columns), chosen, strict=True)
            lines.append(_BETWEEN.join(f"{text:<{wide}}" for text, wide in texts).rstrip())
    return lines
