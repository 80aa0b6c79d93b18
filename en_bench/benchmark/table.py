"""A table of texts, for a terminal and for Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """`align` has a letter for each column: l for texts, r for figures."""

    title: str
    align: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        rows = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        pads = {"l": str.ljust, "r": str.rjust}
        lines = [
            "  ".join(pads[side](cell, width) for cell, side, width in zip(row, self.align, widths, strict=True))
            for row in rows
        ]
        return "\n".join([self.title, *(line.rstrip() for line in lines), *self.notes]) + "\n"

    def markdown(self) -> str:
        rule = "|".join({"l": " --- ", "r": " ---: "}[side] for side in self.align)
        lines = [f"## {self.title}", "", _row(self.header), f"|{rule}|", *map(_row, self.rows), ""]
        return "\n".join([*lines, *([*(f"- {note}" for note in self.notes), ""] if self.notes else [])])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
