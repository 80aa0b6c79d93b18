"""Tables for a README."""

from __future__ import annotations

import re
from collections.abc import Sequence

from en_bench.printable import printable
from en_bench.report.sheet import Note, Sheet

# Underscores within a word are none.
_MARKUP = re.compile(r"[\\`*\[\]]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[#>+-](?=\s)")


def to_markdown(title: str, sheets: Sequence[Sheet]) -> str:
    """All sheets one after the other: the best in bold, the notes as a list."""
    return "\n".join([f"### {_plain(title)}\n", *(_sheet(sheet) for sheet in sheets)])


def _sheet(sheet: Sheet) -> str:
    lines = [f"{_plain(sheet.caption)}.", "", _row([_cell(head) for head in sheet.head])]
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
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text in which nothing becomes markup: no emphasis, link, picture, element, nor a character by its name."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def _note(note: Note) -> str:
    if not note.verbatim:
        return f"- {_plain(note.line)}"
    # In a code span, so that nothing in an error's text becomes markup.
    return f"- {note.key} `{printable(note.text).replace('`', chr(39))}`"
