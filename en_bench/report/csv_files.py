"""Tables for programs, as CSV."""

from __future__ import annotations

import csv
import io

from en_bench.report.sheet import Frame


def to_csv(frame: Frame) -> str:
    """A line of columns, then the rows: fractions and nats in full precision, empty where there is no value."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([list(frame.columns), *frame.rows])
    return stream.getvalue()
