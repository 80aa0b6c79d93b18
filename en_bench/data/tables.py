"""Small tables that come with images: CSV files on disk or among the raw files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.errors import InputError


def table_bytes(table: str, raw: RawFiles | None = None) -> bytes:
    """Content of a table: the file on disk if there is one, else the raw file of that name."""
    try:
        if Path(table).is_file():
            return Path(table).read_bytes()
        if raw is not None and table in raw.names:
            return raw.read(table)
    except OSError as error:
        raise InputError(f"{shown(table)}: {error.strerror or error}: make it readable") from error
    within = f" nor one within {shown(raw.path)}" if raw is not None else ""
    raise InputError(f"{shown(table)}: {'neither' if within else 'not'} a file{within}: correct the name")


class Row(dict[str, str]):
    """A row of a CSV, its values by column.

    Attributes:
        line: of the file, from 1, at which it begins.
    """

    line: int = 0


def parse_csv(content: bytes, table: str, columns: Sequence[str]) -> list[Row]:
    """Rows of a CSV with a header line that names at least `columns`. Comments (`comment_lines`) are passed over.

    Raises InputError for what is no such CSV, for a row that lacks a value of `columns`, and for none at all.
    """
    table = shown(table)
    found = []
    try:
        lines = _lines(content)
        header = len(_head(lines))
        reader = csv.DictReader(lines[header:], strict=True)
        names = list(reader.fieldnames or [])
        end = header + reader.line_num  # of the row before
        for values in reader:
            row = Row(values)
            # DictReader passes over empty lines.
            row.line = next(number for number in range(end, len(lines)) if lines[number].strip("\r\n")) + 1
            end = header + reader.line_num
            found.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a CSV in UTF-8 ({error}): save it as one") from error
    missing = [column for column in columns if column not in names]
    if missing:
        there = ", ".join(names) or "none"
        raise InputError(f"{table}: no column {missing[0]!r} (it has {there}): correct the column names")
    for row in found:
        if not all(row[column] for column in columns):
            raise InputError(f"{table}: line {row.line} lacks a value of {', '.join(columns)}: complete it")
    if not found:
        raise InputError(f"{table}: holds no rows: name the right file")
    return found


def comment_lines(content: bytes) -> list[str]:
    """The lines of a CSV above its header that begin with #. Below it, such a line is a row like any other.

    Raises UnicodeDecodeError for what is not in UTF-8.
    """
    return [line for line in _head(_lines(content)) if line.startswith("#")]


def _lines(content: bytes) -> list[str]:
    """Lines with their ends, as the csv module counts them."""
    return list(io.StringIO(content.decode("utf-8-sig"), newline=""))


def _head(lines: Sequence[str]) -> Sequence[str]:
    """The comments and empty lines above the header."""
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith("#"):
            return lines[:number]
    return lines
