"""Class maps, which tell what classes of a source become which of the set, and class lists: CSVs that are hashed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.data.tables import comment_lines, parse_csv, table_bytes
from en_bench.errors import InputError

_VERSION = re.compile(r"#.*\bversion:?\s*(\S+)")


@dataclass(frozen=True)
class ClassMap:
    """From source classes to target classes; several may become one, and those that it lacks are left out.

    Attributes:
        name: of its file.
        mapping: target by source class.
        sha256: of the file.
        version: what a line `# version: X` above the header says, None without one.
    """

    name: str
    mapping: Mapping[str, str]
    sha256: str
    version: str | None

    @property
    def classes(self) -> tuple[str, ...]:
        """The target classes, sorted: the order of labels."""
        return tuple(sorted(set(self.mapping.values())))

    def describe(self) -> dict[str, Any]:
        """Its identity, for the manifest."""
        return {"file": self.name, "sha256": self.sha256, "version": self.version}


def read_class_map(table: str, raw: RawFiles | None = None) -> ClassMap:
    """Reads a CSV with columns `source` and `target`, on disk or among the raw files.

    Raises InputError where there is no such CSV, and where it maps a class twice.
    """
    content = table_bytes(table, raw)
    mapping: dict[str, str] = {}
    for row in parse_csv(content, table, ["source", "target"]):
        if row["source"] in mapping:
            raise InputError(f"{shown(table)}: maps {row['source']!r} a second time: keep one of its rows")
        mapping[row["source"]] = row["target"]
    versions = [found[1] for line in comment_lines(content) if (found := _VERSION.match(line))]
    return ClassMap(
        PurePath(table).name,
        mapping,
        hashlib.sha256(content).hexdigest(),
        versions[0] if versions else None,
    )


def read_class_list(table: str, raw: RawFiles | None = None) -> tuple[list[str], dict[str, object]]:
    """The first column of a CSV, on disk or among the raw files, and the CSV's identity for the manifest.

    Raises InputError where it is no such CSV, and where it names a class twice.
    """
    content = table_bytes(table, raw)
    names = [(next(iter(row.values()), "") or "").strip() for row in parse_csv(content, table, [])]
    if not all(names):
        raise InputError(f"{table}: a row names no class: complete or remove it")
    twice = [name for name, uses in Counter(names).items() if uses > 1]
    if twice:
        raise InputError(f"{table}: names class {twice[0]!r} a second time: keep one of its rows")
    return names, {"file": PurePath(table).name, "sha256": hashlib.sha256(content).hexdigest()}
