"""Records: what is known of a cell, one JSON file each, written whole or not at all."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from en_bench.errors import InputError
from en_bench.files import write_json

FORMAT, VERSION = "en_bench.record", 1

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """The outcome of one cell.

    `fit` is what the training wrote (empty where it failed), `validate` what each validation wrote, by label, and
    `targets` the settings that selected the validation set at the time, by label; `adapted` what each validation wrote
    after the running moments were recalibrated. `overlays` is the merged
    configuration, `log` the log's path below the matrix's folder.
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
    adapted: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "id": self.id,
            "spec": self.spec,
            "status": self.status,
            "reason": self.reason,
            "cell": {"norm": self.norm, "train": self.train, "seed": self.seed},
            "overlays": self.overlays,
            "fit": self.fit,
            "validate": self.validate,
            "targets": self.targets,
            **({"adapted": self.adapted} if self.adapted else {}),
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
        adapted = _mapping(raw, "adapted") if "adapted" in raw else {}
        for label in adapted:
            check_validation(_mapping(adapted, label))
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
            adapted=adapted,
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
    """The folder of one matrix: `records/<id>.json`, `runs/<id>/`, `tables/` and `report.html`."""

    folder: Path

    @property
    def tables(self) -> Path:
        return self.folder / "tables"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def run(self, cell_id: str) -> Path:
        return self.folder / "runs" / cell_id

    def record(self, cell_id: str) -> Path:
        return self.folder / "records" / f"{cell_id}.json"

    def save(self, record: Record) -> None:
        write_json(self.record(record.id), record.to_json())

    def load(self) -> tuple[dict[str, Record], list[str]]:
        """All readable records by id, and one line of warning for each file that is none (so its cell is missing)."""
        records: dict[str, Record] = {}
        warnings: list[str] = []
        folder = self.folder / "records"
        # Path.glob would pass over a folder that cannot be read, and all cells would seem missing.
        names = sorted(os.listdir(folder)) if folder.exists() else []
        for path in (folder / name for name in names if name.endswith(".json")):
            try:
                record = Record.from_json(read_json(path))
                if record.id != path.stem:
                    raise InputError(f"it holds the record of cell {record.id}")
            except InputError as error:
                warnings.append(f"{path}: ignored, its cell counts as missing: {error}")
            else:
                records[record.id] = record
        return records, warnings


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; InputError (without the file's name) if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("the file is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError("not a JSON mapping")
    return value
