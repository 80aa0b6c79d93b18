"""Stanford Cars: `cars_train/` and `cars_test/` with annotations in MATLAB files."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from data_scripts.layouts.listing import Folder, Listing, find_file, key_of
from data_scripts.layouts.mat_files import load_mat
from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.errors import InputError, message_of

_NAME = "Stanford Cars"
_SPLITS = {
    "train": ("cars_train", "cars_train_annos.mat"),
    "val": ("cars_test", "cars_test_annos_withlabels.mat"),
}


def list_cars(raw: RawFiles, split_map: dict[str, str]) -> Listing:
    """Places the images that the annotations list: cars_train/ is `train`, cars_test/ is `val`.

    A half of the set whose folder is not there is left out, with a note.

    Raises InputError where an annotation file is missing, or holds something else.
    """
    content, digest = _variable(raw, "cars_meta.mat", "class_names")
    classes = [str(name) for name in content]
    digests = {"cars_meta.mat": digest}
    listing = Listing(classes=classes, source={"lists_sha256": digests})
    for split, (name, table) in _SPLITS.items():
        folder = Folder(raw, name)
        if not folder.names:
            listing.notes.append(f"no folder {name}, so no split {split_map.get(split, split)}")
            continue
        records, digests[table] = _variable(raw, table, "annotations")
        for path, number in _labels(raw, table, records):
            if not 1 <= number <= len(classes):
                raise InputError(
                    f"{shown(raw.path)}: {table}: {path} is of class {number}, cars_meta.mat has {len(classes)}: "
                    "take both from the same devkit"
                )
            key = key_of([name, path])
            listing.items.append(folder.item(path, split_map.get(split, split), classes[number - 1], key, table))
        folder.note_rest(listing, table)
    return listing


def _labels(raw: RawFiles, table: str, records: np.ndarray[Any, Any]) -> list[tuple[str, int]]:
    """(file name, class from 1) of each record."""
    missing = [name for name in ("fname", "class") if name not in (records.dtype.names or ())]
    if missing:
        raise InputError(
            f"{shown(raw.path)}: {table}: its records have no {missing[0]!r}: for cars_test/ it is "
            "cars_test_annos_withlabels.mat that has the labels"
        )
    try:
        return [(str(record["fname"]), int(record["class"])) for record in records]
    except (TypeError, ValueError) as error:
        raise InputError(f"{shown(raw.path)}: {table}: damaged ({error}): download it again") from error


def _variable(raw: RawFiles, name: str, variable: str) -> tuple[np.ndarray[Any, Any], str]:
    """A variable of a .mat file as a one-dimensional array, and the file's sha256."""
    path = find_file(raw, name, _NAME)
    try:
        content = raw.read(path)
        found = load_mat(content, [variable])
    except Exception as error:  # scipy raises nearly any type on a damaged file
        reason = message_of(error)
        raise InputError(f"{shown(raw.path)}: {path}: not a MATLAB file ({reason}): download it again") from error
    if variable not in found:
        raise InputError(f"{shown(raw.path)}: {path}: holds no {variable!r}: name the devkit of {_NAME}")
    return np.atleast_1d(found[variable]), hashlib.sha256(content).hexdigest()
