"""Transition matrices: counted in the labels of a set, written to files, read from them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from en_bench.data.places import place, read_bytes, shown
from en_bench.errors import InputError, message_of
from en_bench.files import write_text

Matrix = NDArray[np.float64]  # (C, C): entry (i, j) is the probability that label i becomes j
Counts = NDArray[np.int64]  # (C, C): how many labels i have become j

_OF_THIS_SET = "use a matrix of this very set, from en-bench noise matrix or estimate"
_ROUNDING = 1e-4  # by which the sum of a row that was written with few digits may differ from 1


def transition_counts(before: NDArray[np.int32], after: NDArray[np.int32], classes: int) -> Counts:
    """How often which label became which, over the samples whose two labels are known."""
    known = (before >= 0) & (after >= 0)
    pairs = before[known].astype(np.int64) * classes + after[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def normalised(counts: Counts) -> Matrix:
    """Rows that sum to 1. A class without a sample, of which nothing is known, keeps its labels."""
    matrix = counts.astype(np.float64)
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    matrix[empty, empty] = 1
    scaled: Matrix = matrix / matrix.sum(axis=1, keepdims=True)
    return scaled


def write_transition(path: Path, counts: Counts, classes: Sequence[str], about: Mapping[str, Any]) -> None:
    """Writes what `read_transition` reads: class names and matrix, with the counts, and what `about` says of them.

    A row stands on one line.
    """

    def rows(values: NDArray[Any]) -> str:
        return "[\n  " + ",\n  ".join(json.dumps(row) for row in values.tolist()) + "\n ]"

    entries = {name: json.dumps(value, ensure_ascii=False) for name, value in about.items()}
    entries["classes"] = json.dumps(list(classes), ensure_ascii=False)
    entries |= {"matrix": rows(normalised(counts)), "counts": rows(counts)}
    write_text(path, "{\n" + ",\n".join(f" {json.dumps(name)}: {text}" for name, text in entries.items()) + "\n}\n")


@dataclass(frozen=True, eq=False)
class TransitionFile:
    """A transition matrix as a file holds it.

    Attributes:
        name: of the file.
        sha256: of its bytes, hex.
        matrix: (C, C), rows sum to 1.
        classes: names, in label order; None where the file has none.
    """

    name: str
    sha256: str
    matrix: Matrix
    classes: tuple[str, ...] | None

    def for_classes(self, classes: Sequence[str]) -> Matrix:
        """The matrix, if it is one of these classes. Raises InputError."""
        if self.classes is not None and self.classes != tuple(classes):
            pairs = zip(self.classes, classes, strict=False)
            first = next((pair for pair in pairs if pair[0] != pair[1]), None)
            told = f", first {first[0]!r} in the place of {first[1]!r}" if first else ""
            raise InputError(
                f"{self.name}: its {len(self.classes):,} classes are not the {len(classes):,} of the set{told}: "
                f"{_OF_THIS_SET}, in the order of its labels"
            )
        if len(self.matrix) != len(classes):
            raise InputError(
                f"{self.name}: the matrix is of {len(self.matrix):,} classes, and the set has {len(classes):,}: "
                f"{_OF_THIS_SET}"
            )
        return self.matrix


def read_transition(path: str) -> TransitionFile:
    """Reads a transition matrix from JSON (`{"classes": [...], "matrix": [[...], ...]}`, or the rows alone) or .npy.

    Raises InputError where there is no such file, and unless the matrix is square with rows of probabilities that sum
    to 1.
    """
    where = shown(path)
    try:
        content = read_bytes(place(path))
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}: name the file of a transition matrix") from error
    try:
        values, classes = _npy(content) if path.endswith(".npy") else _json(content)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{where}: no transition matrix ({message_of(error)}): write JSON {{"classes": [...], "matrix": '
            "[[...], ...]}, or a .npy of numbers"
        ) from error
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise InputError(f"{where}: a matrix of shape {values.shape} is not square: give a row and a column a class")
    if classes is not None and len(classes) != len(values):
        raise InputError(f"{where}: {len(classes)} class names for {len(values)} rows: name each once")
    wrong = np.flatnonzero(~((values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) < _ROUNDING)))
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{where}: row {row} is no distribution (sum {values[row].sum():g}, least {values[row].min():g}): "
            "rows are labels before, columns after, and each row sums to 1"
        )
    matrix = values / values.sum(axis=1, keepdims=True)
    return TransitionFile(PurePath(where).name, hashlib.sha256(content).hexdigest(), matrix, classes)


def _npy(content: bytes) -> tuple[Matrix, None]:
    # Not `load`, which takes other formats for what they are, whatever the file is called.
    values = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if values.dtype.kind not in "fiu":
        raise ValueError(f"values of type {values.dtype}")
    return values.astype(np.float64), None


def _json(content: bytes) -> tuple[Matrix, tuple[str, ...] | None]:
    found = json.loads(content)
    rows, classes = (found["matrix"], found.get("classes")) if isinstance(found, dict) else (found, None)
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ValueError("class names that are not text")
    return np.array(rows, dtype=np.float64), None if classes is None else tuple(classes)
