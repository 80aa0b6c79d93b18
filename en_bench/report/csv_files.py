"""Tables for programs, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from en_bench.printable import printable
from en_bench.report.sheet import Frame

_FORMULA = ("=", "+", "-", "@")


def to_csv(frame: Frame) -> str:
    """A line of columns, then the rows: fractions and nats in full precision, empty where there is no value.

    Text is one line, with `'` before what a spreadsheet would take for a formula.
    """
    columns = list(zip(*frame.rows, strict=True)) or [()] * len(frame.columns)
    safe = [
        _safe(values) if kind is str else values for values, kind in zip(columns, frame.columns.values(), strict=True)
    ]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows(zip(*safe, strict=True))
    return stream.getvalue()


def _safe(values: Sequence[Any]) -> Sequence[Any]:
    """Of thousands of rows few have different texts: each is looked at once."""
    values = [None if value is None else str(value) for value in values]
    texts = {value: _text(value) for value in set(values) if value is not None}
    return values if all(value is text for value, text in texts.items()) else [texts.get(value) for value in values]


def _text(text: str) -> str:
    line = printable(text)
    return f"'{line}" if line.startswith(_FORMULA) else line
