"""Small tables that come with images: CSV files on disk or among the raw files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from en_bench.data.archives import RawFiles
from en_bench.errors import InputError


def table_bytes(table: str, raw: RawFiles | None = None) -> bytes:
    """Content of a table: the file on disk if there is one, else the raw file of that name."""
    try:
        if Path(table).is_file():
            return Path(table).read_bytes()
        if raw is not None and table in raw.names:
            return raw.read(table)
    except OSError as error:
        raise InputError(f"{table}: {error.strerror or error}: make it readable") from error
    within = f" nor one within {raw.path}" if raw is not None else ""
    raise InputError(f"{table}: {'neither' if within else 'not'} a file{within}: correct the name")


def parse_csv(content: bytes, table: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a header line that names at least `columns`. Lines that begin with # are passed over.

    Raises InputError for what is no such CSV, for a row that lacks a value of `columns`, and for none at all.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines(keepends=True)
        text = "".join(line for line in lines if not line.startswith("#"))
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        found = list(rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a CSV in UTF-8 ({error}): save it as one") from error
    missing = [column for column in columns if column not in (rows.fieldnames or [])]
    if missing:
        names = ", ".join(rows.fieldnames or []) or "none"
        raise InputError(f"{table}: no column {missing[0]!r} (it has {names}): correct the column names")
    for number, row in enumerate(found, start=2):
        if not all(row[column] for column in columns):
            raise InputError(f"{table}: row {number} lacks a value of {', '.join(columns)}: complete it")
    if not found:
        raise InputError(f"{table}: holds no rows: name the right file")
    return found
