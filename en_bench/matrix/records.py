"""Records: what is known of a cell, one JSON file each, written whole or not at all.

Whoever runs a cell does so under a numbered lease, and its number is the generation of the record that comes of it. A
generation is written once, by whoever creates its file; the highest one counts.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from en_bench.errors import InputError
from en_bench.files import create
from en_bench.lease_guard import LeaseLost
from en_bench.matrix.collection import collection_paused

FORMAT, VERSION = "en_bench.record", 1

_MOST_AT_ONCE = 2**16  # bytes of a file that are read at once: few records are longer

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """The outcome of one cell.

    `fit` is what the training wrote (empty where it failed), `validate` what each validation wrote, by label, and
    `targets` the settings that selected the validation set at the time, by label. `overlays` is the merged
    configuration, `log` the log's path below the matrix's folder. `adapted` is what validations with running moments of
    unlabelled images wrote, by label, and `no_moments` what recalibrations wrote that found nothing to adapt.
    """

    id: str
    spec: str
    status: str
    norm: str
    train: str
    seed: int
    overlays: Json
    log: str
    reason: str | None = None
    fit: Json = field(default_factory=dict)
    validate: Mapping[str, Json] = field(default_factory=dict)
    targets: Mapping[str, Json] = field(default_factory=dict)
    generation: int = 1
    adapted: Mapping[str, Json] = field(default_factory=dict)
    no_moments: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "id": self.id,
            "generation": self.generation,
            "spec": self.spec,
            "status": self.status,
            "reason": self.reason,
            "cell": {"norm": self.norm, "train": self.train, "seed": self.seed},
            "overlays": self.overlays,
            "fit": self.fit,
            "validate": self.validate,
            "targets": self.targets,
            **({"adapted": self.adapted} if self.adapted else {}),
            **({"no_moments": self.no_moments} if self.no_moments else {}),
            "log": self.log,
        }

    @staticmethod
    def from_json(raw: Json) -> "Record":
        """The record in a parsed file; InputError says what is wrong with it."""
        if (raw.get("format"), raw.get("version")) != (FORMAT, VERSION):
            raise InputError(f"not a record of format {FORMAT}, version {VERSION}")
        if raw.get("status") not in ("done", "failed"):
            raise InputError(f"status is {raw.get('status')!r}, neither 'done' nor 'failed'")
        cell, fit, validate = _mapping(raw, "cell"), _mapping(raw, "fit"), _mapping(raw, "validate")
        if fit or raw["status"] == "done":
            check_fit(fit)
        for label in validate:
            check_validation(_mapping(validate, label))
        targets = _mapping(raw, "targets")
        adapted, no_moments = (_mapping(raw, key) if key in raw else {} for key in ("adapted", "no_moments"))
        for label in adapted:
            check_adapted(_mapping(adapted, label))
        for label in no_moments:
            check_recalibration(_mapping(no_moments, label))
        reason = raw.get("reason")
        return Record(
            id=_typed(raw, "id", str),
            spec=_typed(raw, "spec", str),
            status=raw["status"],
            norm=_typed(cell, "norm", str),
            train=_typed(cell, "train", str),
            seed=_typed(cell, "seed", int),
            overlays=_mapping(raw, "overlays"),
            log=_typed(raw, "log", str),
            reason=None if reason is None else str(reason),
            fit=fit,
            validate=validate,
            targets={label: _mapping(targets, label) for label in targets},
            generation=_typed(raw, "generation", int) if "generation" in raw else 1,
            adapted=adapted,
            no_moments=no_moments,
        )


def check_fit(fit: Json) -> None:
    """Raise InputError unless `fit` has what tables are made of."""
    _typed(fit, "seed", int)
    for part in ("train", "val"):
        _typed(_mapping(fit, part), "set", str)
    _check_numbers(_mapping(fit, "metrics"))
    _mapping(fit, "cost")
    if fit.get("accuracies") is not None:  # records of former versions have none
        accuracies = _mapping(fit, "accuracies")
        for found in (_mapping(accuracies, name) for name in accuracies if accuracies[name] is not None):
            _typed(found, "epoch", int)
            _check_numbers({"top1": _typed(found, "top1", int | float | None), "held_out": found.get("held_out")})


def check_validation(result: Json) -> None:
    """Raise InputError unless `result` has what tables are made of."""
    _typed(result, "set", str)
    _typed(result, "n", int)
    _check_numbers(_mapping(result, "metrics"))


def check_adapted(result: Json) -> None:
    """Raise InputError unless `result` is of a validation that says on which images its moments were recalibrated."""
    check_validation(result)
    check_recalibration(_mapping(result, "recalibrated"))


def check_recalibration(result: Json) -> None:
    """Raise InputError unless `result` says on which images how many normalisers were recalibrated."""
    _typed(result, "set", str)
    _typed(result, "normalisers", int)


def covers_set(result: Json) -> bool:
    """Whether a validation counted its whole set, not a part such as `limit_val_batches` leaves."""
    return result.get("whole_set") is not False


def _check_numbers(metrics: Json) -> None:
    for name, value in metrics.items():
        # null is what a training that diverged has for a number: JSON knows no NaN
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise InputError(f"the metric {name!r} is {value!r}, not a number")


def _mapping(raw: Json, key: str) -> Json:
    value: Json = _typed(raw, key, dict)
    return value


def _typed(raw: Json, key: str, kind: type | UnionType) -> Any:
    value = raw.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{key!r} is {'missing' if key not in raw else 'of the wrong type'}")
    return value


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


def _bytes_of(path: Path) -> bytes:
    """A file's content by as few system calls as can be: of ten thousand records they take a third of the time."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while part := os.read(descriptor, _MOST_AT_ONCE):
            content = content + part if content else part
        return content
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; InputError (without the file's name) if there is none."""
    try:
        value = json.loads(_bytes_of(path).decode())
    except FileNotFoundError:
        raise InputError("the file is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError("not a JSON mapping")
    return value
