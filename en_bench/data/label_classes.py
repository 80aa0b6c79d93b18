"""From labels as shards of other makers have them to class numbers: which classes there are, and which is which."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from en_bench.data.classes import ClassMap, read_class_list, read_class_map
from en_bench.data.places import shown
from en_bench.data.tables import parse_csv, table_bytes
from en_bench.errors import InputError

_MOST_CLASSES = 100_000  # that numbers without names stand for; a larger one is an id
_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class ClassNames:
    """The classes of a split.

    Attributes:
        classes: names; a class number is a position in them.
        renamed: from a label to the name of its class, where they differ. With it only its labels are known.
        numbers: whether labels that name no class, but are numbers, are class numbers.
        source: where the names come from, for the manifest.
    """

    classes: tuple[str, ...]
    renamed: Mapping[str, str] | None = None
    numbers: bool = True
    source: Mapping[str, Any] = field(default_factory=dict)
    _positions: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_positions", {name: number for number, name in enumerate(self.classes)})

    def number(self, label: str) -> int:
        """The class number of a label, -1 if it is that of no class."""
        if self.renamed is not None:
            return self._positions[self.renamed[label]] if label in self.renamed else -1
        if label in self._positions:
            return self._positions[label]
        if self.numbers and is_number(label) and 0 <= int(label) < len(self.classes):
            return int(label)
        return -1

    def fault(self, label: str) -> str:
        """Why a label is that of no class."""
        if is_number(label) and int(label) < 0:
            return f"its label is {label}"
        told = f"label {label!r}"
        if self.renamed is None and self.numbers and is_number(label):
            return f"{told} is beyond the {len(self.classes):,} classes"
        return f"{told} is none of the {len(self.classes):,} classes"


def is_number(label: str) -> bool:
    return _NUMBER.fullmatch(label) is not None


def read_classes(table: str) -> ClassNames:
    """Class names from a file: one a line, or a CSV. Of a CSV with columns `source` and `target` labels are sources,
    and the sorted targets the classes; of any other the first column names all classes in their order.

    Raises InputError where it is no such file, and where it names a class twice.
    """
    if PurePath(table).suffix.lower() != ".csv":
        return _listed(table)
    if {"source", "target"} <= parse_csv(table_bytes(table), table, [])[0].keys():
        found: ClassMap = read_class_map(table)
        return ClassNames(found.classes, found.mapping, source={"class_map": found.describe()})
    names, source = read_class_list(table)
    return ClassNames(tuple(names), source={"class_list": source})


def _listed(table: str) -> ClassNames:
    content = table_bytes(table)
    try:
        names = [line.strip() for line in content.decode("utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(table)}: not text in UTF-8 ({error}): save it as such, one class a line") from error
    for number, name in enumerate(names, start=1):
        if not name:
            raise InputError(f"{shown(table)}: line {number} names no class: complete or remove it")
    if len(set(names)) < len(names):
        twice = next(name for position, name in enumerate(names) if name in names[:position])
        raise InputError(f"{shown(table)}: names class {twice!r} a second time: keep one of its lines")
    source = {"file": PurePath(table).name, "sha256": hashlib.sha256(content).hexdigest()}
    return ClassNames(tuple(names), source={"class_list": source})


@dataclass(frozen=True)
class Column:
    """The different labels of a column.

    Attributes:
        name: of the column.
        labels: in the order in which they occur.
        names: whether they are names also where they look like numbers.
    """

    name: str
    labels: Sequence[str]
    names: bool

    @property
    def numbered(self) -> bool:
        """Whether all are numbers."""
        return bool(self.labels) and not self.names and all(map(is_number, self.labels))


def classes_of(columns: Sequence[Column]) -> ClassNames:
    """The classes that labels speak of: "0" .. "K-1" for numbers, else the names, sorted as `imagefolder.py` does.

    Raises InputError for numbers among names, and for numbers that are no class numbers.
    """
    columns = [column for column in columns if column.labels]
    for column in columns:
        first = next((label for label in column.labels if not is_number(label)), None)
        if not column.names and first is not None and any(map(is_number, column.labels)):
            raise InputError(
                f"labels of column {column.name!r} are numbers and names, such as {first!r}: name all classes with "
                "--classes; samples with others are then skipped"
            )
    kinds = {column.numbered: column.name for column in columns}
    if len(kinds) > 1:
        raise InputError(
            f"labels of column {kinds[True]!r} are numbers, those of {kinds[False]!r} names: tell with --classes in "
            "which order the names are numbered"
        )
    labels = {label for column in columns for label in column.labels}
    if kinds and True not in kinds:
        return ClassNames(tuple(sorted(labels)), numbers=False)
    count = 1 + max((int(label) for label in labels), default=-1)
    if count > _MOST_CLASSES:
        raise InputError(
            f"label {count - 1:,} is no class number, of which there are {_MOST_CLASSES:,} at most: name the classes "
            "with --classes, or another place of the labels with --labels"
        )
    return ClassNames(tuple(str(number) for number in range(count)))


def unused_classes(names: ClassNames, used: Iterable[int]) -> list[int]:
    """Numbers of the classes that no label names, ascending."""
    found = set(used)
    return [number for number in range(len(names.classes)) if number not in found]
