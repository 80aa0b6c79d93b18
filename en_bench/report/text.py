"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from en_bench.report.sheet import Sheet


def to_text(title: str, sheets: Sequence[Sheet]) -> str:
    """All sheets one after the other: columns aligned, `*` behind the best."""
    return f"{title}\n" + "\n".join(_sheet(sheet) for sheet in sheets)


def _sheet(sheet: Sheet) -> str:
    rows = [list(sheet.head)]
    for number, row in enumerate(sheet.rows):
        texts = [field.text + (" *" if field.best else "") for field in row]
        if not sheet.starts_group(number) and sheet.stub > 1:
            texts[0] = ""
        rows.append(texts)
    notes = ([f"* {sheet.best}"] if sheet.best else []) + [note.line for note in sheet.notes]
    return "\n".join([sheet.caption, "", *_aligned(rows), *([""] if notes else []), *notes]) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
