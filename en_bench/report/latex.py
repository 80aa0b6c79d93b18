"""Tables for a paper, in LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from en_bench.printable import printable
from en_bench.report.latex_text import breakable, escaped, narrowest, width
from en_bench.report.sheet import Field, Sheet, column_blocks

_TEXT = 345.0  # pt: the width of the text of `article`; few papers have less
_ESTIMATED = 0.98  # of it is filled, as widths are estimates
_LINES = 40.0  # that fit a page of it
_NOTES = 0.8  # the size of notes

_HEAD = "% needs \\usepackage{{booktabs,longtable,textcomp}} and \\usepackage[T1]{{fontenc}}; {title}"


class _Size(NamedTuple):
    """How letters are set: their `scale`, and the distance of columns in pt at 10 pt, as widths are."""

    command: str
    scale: float
    between: float

    @property
    def line(self) -> float:
        """What fits the width of a page."""
        return _TEXT * _ESTIMATED / self.scale


_SIZES = (
    _Size("", 1.0, 12.0),
    _Size("\\small\\setlength{\\tabcolsep}{4pt}", 0.925, 8.0 / 0.925),  # small letters are wider than their size tells
    _Size("\\footnotesize\\setlength{\\tabcolsep}{3pt}", 0.855, 6.0 / 0.855),
)


@dataclass(frozen=True)
class _Layout:
    """Each column's natural width and the `most` that it gets, and the columns of each block."""

    size: _Size
    widths: Sequence[float]
    most: Sequence[float]
    blocks: Sequence[Sequence[int]]


def to_latex(title: str, name: str, sheets: Sequence[Sheet]) -> str:
    """All sheets one after the other: a `table` each, labelled `tab:<name>:<sheet>`, or where one page would not hold
    it a `longtable` with the notes after it. The best is bold.

    What is wider than a page is set smaller, and what still is stands in blocks of columns one below the other, each
    with the columns that say what its rows are of.
    """
    return "\n".join([_HEAD.format(title=printable(title)), *(_sheet(name, sheet) for sheet in sheets)])


def _sheet(name: str, sheet: Sheet) -> str:
    # The largest of those that take the fewest blocks.
    layout = min((_laid_out(sheet, size) for size in _SIZES), key=lambda layout: len(layout.blocks))
    caption = f"\\caption{{{escaped(sheet.caption)}.}}\\label{{tab:{printable(name)}:{sheet.name}}}"
    best = [f"Bold: {sheet.best}."] if sheet.best else []
    notes = [*best, *(note.line for note in sheet.notes)]
    small = ["{\\footnotesize\\raggedright", *(f"{breakable(note)}\\par" for note in notes), "}"] if notes else []
    tables = [_tabular(sheet, columns, layout) for columns in layout.blocks]
    lines = ceil(width(sheet.caption) / _TEXT) + sum(_NOTES * ceil(width(note) * _NOTES / _TEXT) for note in notes)
    lines += sum(_height(sheet, columns, layout) for columns in layout.blocks)
    if lines > _LINES:
        parts = [f"{{{layout.size.command}"] if layout.size.command else []
        for number, (columns, head, body) in enumerate(tables):
            # Each would count as another table.
            begin = [f"{caption}\\\\"] if not number else []
            parts += ["\\addtocounter{table}{-1}"] if number else []
            parts += [f"\\begin{{longtable}}{{{columns}}}", *begin, *head, "\\endhead", "\\bottomrule", "\\endfoot"]
            parts += [*body, "\\end{longtable}"]
        return "\n".join([*parts, *(["}"] if layout.size.command else []), *small]) + "\n"
    parts = ["\\begin{table}", "\\centering", caption, *([layout.size.command] if layout.size.command else [])]
    for number, (columns, head, body) in enumerate(tables):
        parts += ["\\par\\medskip"] if number else []
        parts += [f"\\begin{{tabular}}{{{columns}}}", *head, *body, "\\bottomrule", "\\end{tabular}"]
    return "\n".join([*parts, *(["\\par\\smallskip"] if small else []), *small, "\\end{table}"]) + "\n"


def _laid_out(sheet: Sheet, size: _Size) -> _Layout:
    """The columns that say what the rows are of become narrower where the widest other one needs the room."""
    texts = [[Field(head), *(row[column] for row in sheet.rows)] for column, head in enumerate(sheet.head)]
    widths = [max(width(field.text, field.best) for field in column) for column in texts]
    least = [max(narrowest(field.text) * 1.05 for field in column) for column in texts]
    of_rows, others = widths[: sheet.stub], widths[sheet.stub :]
    room = max(size.line / 2, size.line - max(others, default=0.0) - size.between) - size.between * (sheet.stub - 1)
    stubs = _narrowed(of_rows, least[: sheet.stub], room)
    room = size.line - sum(stubs) - size.between * sheet.stub
    most = [*stubs, *(min(w, max(room, n)) for w, n in zip(others, least[sheet.stub :], strict=True))]
    return _Layout(size, widths, most, list(column_blocks(most, sheet.stub, size.between, size.line)))


def _narrowed(widths: Sequence[float], least: Sequence[float], most: float) -> list[float]:
    """`widths` that come to no more than `most`, if that can be: the one with most to spare loses first."""
    found = list(widths)
    for _ in widths:
        over = sum(found) - most
        spare = [max(wide - low, 0.0) for wide, low in zip(found, least, strict=True)]
        column = max(range(len(found)), key=lambda column: spare[column])
        found[column] -= max(min(over, spare[column]), 0.0)
    return found


def _tabular(sheet: Sheet, columns: Sequence[int], layout: _Layout) -> tuple[str, list[str], list[str]]:
    """The columns' specification, the lines above the rows, and the rows."""
    heads = [_field(Field(sheet.head[column]), column, layout) for column in columns]
    body = []
    for number, row in enumerate(sheet.rows):
        starts = sheet.starts_group(number)
        if number and sheet.stub > 1 and starts:
            body.append("\\addlinespace")
        texts = [_field(row[column], column, layout) for column in columns]
        body.append(" & ".join(["" if sheet.stub > 1 and not starts else texts[0], *texts[1:]]) + " \\\\")
    aligned = "".join("l" if column < sheet.stub else "r" for column in columns)
    return f"@{{}}{aligned}@{{}}", ["\\toprule", " & ".join(heads) + " \\\\", "\\midrule"], body


def _field(field: Field, column: int, layout: _Layout) -> str:
    """In several lines where the column is narrower."""
    text, most = escaped(field.text), layout.most[column]
    if width(field.text, field.best) > most:
        share = most * layout.size.scale / _TEXT
        text = f"\\parbox[t]{{{share:.3f}\\linewidth}}{{\\raggedright\\strut {breakable(field.text)}\\strut}}"
    return f"\\textbf{{{text}}}" if field.best else text


def _height(sheet: Sheet, columns: Sequence[int], layout: _Layout) -> float:
    """About how many lines of 12 pt a block takes on a page."""
    narrow = [(column, layout.most[column]) for column in columns if layout.widths[column] > layout.most[column]]
    lines = sum(
        max((ceil(1.2 * width(texts[column]) / most) for column, most in narrow), default=1)
        for texts in (sheet.head, *([field.text for field in row] for row in sheet.rows))
    )
    groups = sum(sheet.starts_group(number) for number in range(len(sheet.rows))) if sheet.stub > 1 else 1
    return (lines + 0.3 * groups + 1.0) * layout.size.scale
