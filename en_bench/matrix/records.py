"""Records: what is known of a cell, one JSON file each."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any

import orjson

from en_bench.errors import InputError
from en_bench.matrix.training_data import training_data
from en_bench.printable import printable

FORMAT, VERSION = "en_bench.record", 1

_MOST_AT_ONCE = 2**16  # bytes of a file that are read at once: few records are longer

Json = Mapping[str, Any]

_LARGEST = 2**53  # of the numbers that tables hold: whole ones up to it are exact as floating point numbers too
_NUMBER = (int, float)
_Shape = Mapping[str, "tuple[type, ...] | _Shape"]
"""The types of facts and, of mappings, of what they hold. Any fact may be null, or absent as in former versions."""

# What reports calculate with, or look into. Text is shown whatever it is, and checking all of it would take a fifth of
# the time of reading.
_VARIANT: _Shape = {"sources": (list,)}
_FIT: _Shape = {
    "train": {"labels": (str,), "n": (int,), "variant": _VARIANT},
    "noise": {"made": (dict,), "changed": {"rate": _NUMBER}, "wrong": {"rate": _NUMBER}},
    "held_out": {"share": _NUMBER, "n": (int,)},
    "epochs": (int,),
    "batch": {"accumulated": (int,)},
    "config": {"trainer": (dict,), "data": (dict,)},
    "commit": {"dirty": (bool,)},
    "cost": {
        "seconds": _NUMBER,
        "images_per_second": _NUMBER,
        "parameters": (int,),
        "flops": _NUMBER,
        "peak_memory_bytes": (int,),
    },
}
_RESULT: _Shape = {
    "n": (int,),
    "unreadable": (int,),
    "whole_set": (bool,),
    "variant": _VARIANT,
    "recalibrated": {"set": (str,), "samples": (int,)},
}


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

    @cached_property
    def training_data(self) -> tuple[object, ...]:
        """As `training_data` has it of `fit`: tables ask for it once for each of their columns."""
        return training_data(self.fit)

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
            reason=None if reason is None else printable(str(reason)),
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
    _check_shape(fit, _FIT)
    made = (fit.get("noise") or {}).get("made")
    if made is not None:  # what it is called by
        _typed(made, "kind", str)
        _typed(made, "seed", int)
    if fit.get("accuracies") is not None:  # records of former versions have none
        accuracies = _mapping(fit, "accuracies")
        for found in (_mapping(accuracies, name) for name in accuracies if accuracies[name] is not None):
            _typed(found, "epoch", int)
            _check_numbers({"top1": found.get("top1", ""), "held_out": found.get("held_out")})


def check_validation(result: Json) -> None:
    """Raise InputError unless `result` has what tables are made of."""
    _typed(result, "set", str)
    _typed(result, "n", int)
    _check_shape(result, _RESULT)
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
        kind = type(value)
        # null is what a training that diverged has for a number: JSON knows no NaN
        if kind is float or value is None:
            continue
        if kind is not int:
            raise InputError(f"the metric {name!r} is {value!r}, not a number")
        if abs(value) > _LARGEST:
            raise InputError(f"the metric {name!r} is too large a number")


def _check_shape(facts: Json, shape: _Shape, *where: str) -> None:
    for key, wanted in shape.items():
        value = facts.get(key)
        if value is None:
            continue
        kind = type(value)
        if isinstance(wanted, tuple):
            if kind not in wanted:
                raise InputError(f"{'.'.join((*where, key))!r} is of the wrong type")
            if (kind is int or kind is float) and not -_LARGEST <= value <= _LARGEST:
                raise InputError(f"{'.'.join((*where, key))!r} is no number, or too large a one")
        elif kind is dict:
            _check_shape(value, wanted, *where, key)
        else:
            raise InputError(f"{'.'.join((*where, key))!r} is of the wrong type")


def _mapping(raw: Json, key: str) -> Json:
    value: Json = _typed(raw, key, dict)
    return value


def _typed(raw: Json, key: str, kind: type | UnionType) -> Any:
    value = raw.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{key!r} is {'missing' if key not in raw else 'of the wrong type'}")
    return value


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
        value = orjson.loads(_bytes_of(path))
    except FileNotFoundError:
        raise InputError("the file is missing") from None
    except (OSError, ValueError) as error:
        raise InputError(f"not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError("not a JSON mapping")
    return value
