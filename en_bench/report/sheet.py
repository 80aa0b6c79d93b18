"""What every format is made from: a sheet of shown fields for people, a frame of plain values for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Field(NamedTuple):
    """Text in a table; `best` where it is to stand out."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Note:
    """A line under a table. `key` names its subject, and may be empty; `verbatim` is text that others wrote."""

    text: str
    key: str = ""
    verbatim: bool = False

    @property
    def line(self) -> str:
        if not self.key:
            return self.text
        return f"{self.key} {self.text}" if self.verbatim else f"{self.key}: {self.text}"


@dataclass(frozen=True)
class Sheet:
    """A table for people.

    Attributes:
        name: of its file, and what --table calls it.
        title: a few words.
        caption: what the fields are.
        head: one heading per column.
        stub: how many of the first columns say what a row is of.
        rows: fields, as many as headings.
        notes: what stands under it.
        best: what it means where a field is best; empty where none is.
    """

    name: str
    title: str
    caption: str
    head: Sequence[str]
    stub: int
    rows: Sequence[Sequence[Field]]
    notes: Sequence[Note] = ()
    best: str = ""

    def starts_group(self, number: int) -> bool:
        """Whether row `number` has another first field than the row before it."""
        return number == 0 or self.rows[number][0].text != self.rows[number - 1][0].text


def column_blocks(widths: Sequence[float], stub: int, between: float, most: float) -> Iterator[list[int]]:
    """A table that is wider than `most`, in blocks: each has the first `stub` columns and as many of the others as
    there is room for with `between` from column to column, one at least."""
    own = sum(widths[:stub]) + between * (stub - 1)
    columns, used = list(range(stub)), own
    for column in range(stub, len(widths)):
        more = between + widths[column]
        if used + more > most and len(columns) > stub:
            yield columns
            columns, used = list(range(stub)), own
        columns.append(column)
        used += more
    yield columns


@dataclass(frozen=True)
class Frame:
    """A table for programs: measured values in full precision (fractions and nats), None where there is none.

    `columns` gives each name its type, one of `str`, `int`, `float` and `bool`: the same whatever values there are, so
    that the files of several matrices can be read as one.
    """

    name: str
    columns: Mapping[str, type]
    rows: Sequence[Sequence[Any]]


def computed(value: float | None) -> float | None:
    """A number that was computed from measured ones, for a frame: to twelve significant digits, as the last bits differ
    between machines and versions of libraries."""
    return None if value is None else float(f"{value:.12g}")


def fields(*texts: str) -> list[Field]:
    """Texts as fields of which none is best."""
    return [Field(text) for text in texts]
