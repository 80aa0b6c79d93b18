"""Tables for a README."""

from __future__ import annotations

from collections.abc import Sequence

from en_bench.report.sheet import Note, Sheet


def to_markdown(title: str, sheets: Sequence[Sheet]) -> str:
    """All sheets one after the other: the best in bold, the notes as a list."""
    return "\n".join([f"### {title}\n", *(_sheet(sheet) for sheet in sheets)])


def _sheet(sheet: Sheet) -> str:
    lines = [f"{sheet.caption}.", "", _row(sheet.head)]
    lines.append("|" + " --- |" * sheet.stub + " ---: |" * (len(sheet.head) - sheet.stub))
    for row in sheet.rows:
        lines.append(_row([f"**{_cell(field.text)}**" if field.best else _cell(field.text) for field in row]))
    if sheet.best:
        lines += ["", f"Bold: {sheet.best}."]
    if sheet.notes:
        lines += ["", *map(_note, sheet.notes)]
    return "\n".join(lines) + "\n"


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _note(note: Note) -> str:
    if not note.verbatim:
        return f"- {note.line}"
    # In a code span, so that nothing in an error's text becomes markup.
    return f"- {note.key} `{note.text.replace('`', chr(39))}`"
