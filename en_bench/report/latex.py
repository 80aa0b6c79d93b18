"""Tables for a paper, in LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from en_bench.report.sheet import Field, Sheet

_LONGEST = 40  # rows of a table that still fits a page
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "[": "{[}",  # after \\ it would open an optional argument
    "]": "{]}",
    '"': "\\textquotedbl{}",
    "`": "{\\textasciigrave}",
    "±": "$\\pm$",
    "−": "$-$",
    "→": "$\\to$",
    "–": "--",
    "×": "$\\times$",
    "…": "\\ldots{}",
}
_TRANSLATED = str.maketrans(_SPECIAL)
_HEAD = "% needs \\usepackage{{booktabs,longtable,textcomp}} and \\usepackage[T1]{{fontenc}}; {title}"


def to_latex(title: str, name: str, sheets: Sequence[Sheet]) -> str:
    """All sheets one after the other: a `table` each, labelled `tab:<name>:<sheet>`, or a `longtable` where one page
    would not hold it. The best is bold, the notes stand under the rules."""
    return "\n".join([_HEAD.format(title=_printable(title)), *(_sheet(name, sheet) for sheet in sheets)])


@lru_cache(maxsize=8192)  # thousands of fields hold the same few texts
def escaped(text: str) -> str:
    """Text that LaTeX prints as it is. A sign before a number becomes a minus; control characters become spaces."""
    return _printable(re.sub(r"(?<![\w.])-(?=\d)", "−", text)).translate(_TRANSLATED)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def _sheet(name: str, sheet: Sheet) -> str:
    long = len(sheet.rows) > _LONGEST
    columns = "l" * sheet.stub + "r" * (len(sheet.head) - sheet.stub)
    caption = f"\\caption{{{escaped(sheet.caption)}.}}\\label{{tab:{_printable(name)}:{sheet.name}}}"
    head = ["\\toprule", " & ".join(map(escaped, sheet.head)) + " \\\\", "\\midrule"]
    body = []
    for number, row in enumerate(sheet.rows):
        if number and sheet.stub > 1 and sheet.starts_group(number):
            body.append("\\addlinespace")
        repeated = sheet.stub > 1 and not sheet.starts_group(number)
        body.append(" & ".join(["" if repeated else _field(row[0]), *map(_field, row[1:])]) + " \\\\")
    best = [f"Bold: {sheet.best}."] if sheet.best else []
    notes = [f"{escaped(note)}\\par" for note in [*best, *(note.line for note in sheet.notes)]]
    small = ["\\par\\smallskip{\\footnotesize\\raggedright", *notes, "}"] if notes else []
    if long:
        lines = [
            f"\\begin{{longtable}}{{{columns}}}",
            f"{caption}\\\\",
            *head,
            "\\endhead",
            "\\bottomrule",
            "\\endfoot",
        ]
        return "\n".join([*lines, *body, "\\end{longtable}", *small]) + "\n"
    lines = ["\\begin{table}", "\\centering", caption, f"\\begin{{tabular}}{{{columns}}}", *head, *body]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *small, "\\end{table}"]) + "\n"


def _field(field: Field) -> str:
    return f"\\textbf{{{escaped(field.text)}}}" if field.best else escaped(field.text)
