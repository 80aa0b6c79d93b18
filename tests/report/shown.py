"""The tables of a plan, as they are shown."""

import csv
import io
from collections.abc import Sequence

from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.spec import Spec
from en_bench.report.csv_files import to_csv
from en_bench.report.document import Document, document
from en_bench.report.markdown import to_markdown
from en_bench.report.sheet import Frame, Sheet
from en_bench.report.tables import build_table
from en_bench.report.text import to_text


def tables(spec: Spec, planned: Sequence[PlannedCell]) -> Document:
    return document(build_table(spec, planned))


def text(spec: Spec, planned: Sequence[PlannedCell]) -> str:
    """Of the matrix itself, without the tables below it."""
    doc = tables(spec, planned)
    return to_text(doc.title, doc.sheets[:1])


def markdown(spec: Spec, planned: Sequence[PlannedCell]) -> str:
    """Of the matrix itself, without the tables below it."""
    doc = tables(spec, planned)
    return to_markdown(doc.title, doc.sheets[:1])


def sheet(doc: Document, name: str) -> Sheet:
    return next(sheet for sheet in doc.sheets if sheet.name == name)


def frame(doc: Document, name: str) -> Frame:
    return next(frame for frame in doc.frames if frame.name == name)


def rows(spec: Spec, planned: Sequence[PlannedCell], name: str) -> list[dict[str, str]]:
    """A table as its CSV says it."""
    return list(csv.DictReader(io.StringIO(to_csv(frame(tables(spec, planned), name)))))


def shown(doc: Document, name: str) -> dict[tuple[str, ...], dict[str, str]]:
    """The fields of a sheet by what their rows are of, and by their column."""
    found = sheet(doc, name)
    return {
        tuple(field.text for field in row[: found.stub]): {
            head: field.text for head, field in zip(found.head[found.stub :], row[found.stub :], strict=True)
        }
        for row in found.rows
    }
