"""The folder of a matrix's results, and the records in it, written whole or not at all.

Whoever runs a cell does so under a numbered lease, and its number is the generation of the record that comes of it. A
generation is written once, by whoever creates its file; the highest one counts.
"""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from en_bench.errors import InputError
from en_bench.files import create
from en_bench.lease_guard import LeaseLost
from en_bench.matrix.collection import collection_paused
from en_bench.matrix.records import Record, read_json


@dataclass(frozen=True)
class Results:
    """The folder of one matrix: `records/`, `leases/`, `runs/<id>/`, `tables/` and `report.html`.

    The record of generation 1 is `records/<id>.json`, that of generation n `records/<id>.<n>.json`.
    """

    folder: Path

    @property
    def tables(self) -> Path:
        return self.folder / "tables"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def leases(self) -> Path:
        return self.folder / "leases"

    @property
    def records(self) -> Path:
        return self.folder / "records"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def run(self, cell_id: str) -> Path:
        return self.runs / cell_id

    def record(self, cell_id: str, generation: int = 1) -> Path:
        return self.records / (f"{cell_id}.json" if generation == 1 else f"{cell_id}.{generation}.json")

    def save(self, record: Record) -> None:
        """Write a record; those of lower generations go. Raises LeaseLost if there is one of its generation already."""
        path = self.record(record.id, record.generation)
        text = json.dumps(record.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            create(path, text.encode())
        except FileExistsError:
            raise LeaseLost(f"{path} is there already: nothing is written") from None
        for generation, lower in self._files(record.id):
            if generation < record.generation:
                lower.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Record], list[str]]:
        """All readable records by id, and one line of warning for each file that is none.

        In its place the next lower generation counts, else the cell is missing.
        """
        with collection_paused():
            return self._load()

    def _load(self) -> tuple[dict[str, Record], list[str]]:
        records: dict[str, Record] = {}
        warnings: list[str] = []
        found: dict[str, list[tuple[int, Path]]] = {}
        for generation, path in self._files():
            found.setdefault(path.name.partition(".")[0], []).append((generation, path))
        for cell_id, files in sorted(found.items()):
            damaged: list[tuple[Path, InputError]] = []
            for generation, path in sorted(files, reverse=True):
                try:
                    records[cell_id] = _read(path, cell_id)
                    instead = f"generation {generation} counts instead"
                    break
                except _RemovedError:
                    continue
                except InputError as error:
                    damaged.append((path, error))
            else:
                instead = "its cell counts as missing"
            warnings += [f"{path}: ignored, {instead}: {error}" for path, error in damaged]
        return records, warnings

    def find(self, cell_id: str) -> Record | None:
        """The readable record of one cell."""
        for _, path in sorted(self._files(cell_id), reverse=True):
            with contextlib.suppress(InputError):
                return _read(path, cell_id)
        return None

    def generation(self, cell_id: str) -> int:
        """The highest generation of which there is a file, 0 if there is none."""
        return max((generation for generation, _ in self._files(cell_id)), default=0)

    def generations(self) -> dict[str, int]:
        """The highest generation of which there is a file, by cell; without cells that have none."""
        found: dict[str, int] = {}
        for generation, path in self._files():
            cell_id = path.name.partition(".")[0]
            found[cell_id] = max(generation, found.get(cell_id, 0))
        return found

    def _files(self, cell_id: str = "") -> list[tuple[int, Path]]:
        """(generation, path) of the records of one cell, or of all."""
        # Path.glob would pass over a folder that cannot be read, and all cells would seem missing.
        names = os.listdir(self.records) if self.records.exists() else []
        found = []
        for name in names:
            if not (name.startswith(cell_id) and name.endswith(".json")):
                continue
            stem, dot, rest = name.removesuffix(".json").partition(".")
            if stem and (not cell_id or stem == cell_id) and (rest.isdecimal() or not dot):
                found.append((int(rest) if dot else 1, self.records / name))
        return found


class _RemovedError(InputError):
    """A record that is gone since the folder was listed: one of a higher generation has replaced it."""


def _read(path: Path, cell_id: str) -> Record:
    try:
        raw = read_json(path)
    except InputError:
        if not path.exists():
            raise _RemovedError(str(path)) from None
        raise
    record = Record.from_json(raw)
    if record.id != cell_id:
        raise InputError(f"it holds the record of cell {record.id}")
    return record
