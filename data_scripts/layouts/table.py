"""A CSV that names each file with its class and split."""

from __future__ import annotations

import hashlib
from pathlib import PurePath, PurePosixPath

from data_scripts.layouts.listing import Item, Listing, key_of
from en_bench.data.archives import RawFiles
from en_bench.data.tables import Row, parse_csv, table_bytes
from en_bench.errors import InputError

COLUMNS = ("path", "class", "split")


def list_table(raw: RawFiles, table: str, renamed: dict[str, str], split_map: dict[str, str], split: str) -> Listing:
    """Places the files that a CSV names.

    Args:
        raw: the raw files; the CSV may be one of them.
        table: the CSV.
        renamed: what the CSV calls its columns, where not `path`, `class` and `split`.
        split_map: splits to rename.
        split: where all files belong, if the CSV has no such column; else empty.

    Raises InputError for what is no such CSV, and for a file that it names twice for one split.
    """
    if not set(renamed) <= set(COLUMNS):
        raise InputError(f"--csv-columns {renamed}: only path, class and split can be called otherwise")
    columns = {name: name for name in COLUMNS if name != "split" or not split} | renamed
    content = table_bytes(table, raw)
    known, reasons = set(raw.names), dict(raw.refused)
    listing = Listing(source={"csv_sha256": hashlib.sha256(content).hexdigest(), "csv_columns": columns})
    rows: dict[tuple[str, str], Row] = {}  # by split and file
    name_of_table = PurePath(table).name
    for row in parse_csv(content, table, list(columns.values())):
        name = str(PurePosixPath(row[columns["path"]]))
        where = row[columns["split"]] if "split" in columns else split
        where = split_map.get(where, where)
        first = rows.setdefault((where, name), row)
        if first is not row:
            paths = " and ".join(repr(path) for path in dict.fromkeys(each[columns["path"]] for each in (first, row)))
            raise InputError(
                f"{table}: lines {first.line} and {row.line} name one file for {where}, {paths}: keep one of them"
            )
        missing = reasons.get(name, f"listed in {name_of_table}, not in {raw.name}")
        key = key_of(PurePosixPath(name).parts)
        listing.items.append(Item(name, where, row[columns["class"]], key, "" if name in known else missing))
    others = sorted((known | set(reasons)) - {name for _, name in rows} - {table})
    listing.note(len(others), f"files that {name_of_table} does not list", others)
    return listing
