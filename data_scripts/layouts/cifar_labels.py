"""The human labels of CIFAR-N beside those of the set, and the classes that are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_scripts.layouts.cifar_files import Found
from data_scripts.layouts.cifar_sets import Cifar
from en_bench.data.archives import RawFiles
from en_bench.data.classes import ClassMap
from en_bench.data.pickles import read_mapping
from en_bench.data.prepare import shortened
from en_bench.data.tables import table_bytes
from en_bench.errors import InputError

Labels = NDArray[np.int64]  # (N,) class numbers, -1 where unknown

_ALIGNMENT = {"images": "by class and number of the file, counts per class checked"}


@dataclass(frozen=True)
class HumanLabels:
    """A CIFAR-N file, aligned with the training images.

    Attributes:
        columns: per label column but `clean`, the labels in the order of the images.
        about: the file and its alignment, for the manifest.
    """

    columns: Mapping[str, Labels]
    about: Mapping[str, Any]


def read_human_labels(table: str, raw: RawFiles, found: Found) -> HumanLabels:
    """Reads and aligns a CIFAR-N file, on disk or among the raw files.

    Raises InputError unless its clean labels are the set's own, every one at its place (of image files: as many per
    class), and where it lacks a column or holds a label that is no class.
    """
    content = table_bytes(table, raw)
    mapping = read_mapping(content, table)
    missing = [key for key in found.cifar.noisy if key not in mapping]
    if missing:
        raise InputError(
            f"{table}: lacks {missing[0]!r} (it has {shortened(list(mapping))}): name the CIFAR-N file of "
            f"{found.cifar.name}"
        )
    columns = {column: _as_labels(mapping[key], key, table, found.cifar) for key, column in found.cifar.noisy.items()}
    clean = columns.pop("clean")
    short = [column for column, labels in columns.items() if len(labels) != len(clean)]
    if short:
        raise InputError(
            f"{table}: {len(columns[short[0]]):,} labels {short[0]}, {len(clean):,} clean ones: download it again"
        )
    own = np.array([item.label for item in found.items["train"]], dtype=np.int64)
    places = _places_by_class(own, clean, table, found) if found.form == "images" else _places(own, clean, table)
    about = {
        "file": PurePath(table).name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "aligned": _ALIGNMENT.get(found.form, "by position, every clean label checked"),
    }
    return HumanLabels({column: labels[places] for column, labels in columns.items()}, about)


def _as_labels(values: Any, key: str, table: str, cifar: Cifar) -> Labels:
    labels = np.asarray(values) if isinstance(values, list | np.ndarray) else np.empty(0, dtype=object)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise InputError(f"{table}: {key!r} is no list of class numbers: download it again")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(cifar.classes)))
    if len(wrong):
        raise InputError(
            f"{table}: {key!r} holds {labels[wrong[0]]} at {wrong[0]}, not a class number in 0 .. "
            f"{len(cifar.classes) - 1}: name the CIFAR-N file of {cifar.name}"
        )
    return labels.astype(np.int64)


def _places(own: Labels, clean: Labels, table: str) -> slice:
    """Where the label of each image stands in the file: at its own position, once that is checked."""
    if len(own) != len(clean):
        raise InputError(
            f"{table}: {len(clean):,} labels for {len(own):,} training images: give it the whole training set"
        )
    differing = np.flatnonzero(own != clean)
    if len(differing):
        first = differing[0]
        cure = (
            "the same labels in another order, such as TensorFlow's: use the file in the original order of the python "
            "archive (CIFAR-10_human.pt or .npy, not ..._ordered.npy)"
            if np.array_equal(np.bincount(own, minlength=100), np.bincount(clean, minlength=100))
            else "name the CIFAR-N file of this set"
        )
        raise InputError(
            f"{table}: {len(differing):,} of {len(own):,} clean labels are not those of the set, first at {first} "
            f"({clean[first]}, in the set {own[first]}): {cure}"
        )
    return slice(None)


def _places_by_class(own: Labels, clean: Labels, table: str, found: Found) -> NDArray[np.intp]:
    """The same for image files, which do not tell their position: the k-th of a class is the k-th of that class."""
    if found.unordered:
        raise InputError(f"{table}: the order of the images is not known, as {found.unordered}: use the python archive")
    for number, name in enumerate(found.cifar.classes):
        there, labelled = int((own == number).sum()), int((clean == number).sum())
        if there != labelled:
            raise InputError(
                f"{table}: {labelled:,} clean labels are {name}, {there:,} training images are: give it the whole "
                "training set, or the CIFAR-N file of this set"
            )
    # Stable: among equals the order of the file, and of the images within their class, stays.
    places = np.empty(len(own), dtype=np.intp)
    places[np.argsort(own, kind="stable")] = np.argsort(clean, kind="stable")
    return places


@dataclass(frozen=True)
class Selection:
    """The classes of the prepared set.

    Attributes:
        classes: their names, in label order.
        table: (classes of CIFAR,) the new number of each, -1 of those that are left out.
        about: the options that chose them, for the manifest.
    """

    classes: tuple[str, ...]
    table: Labels
    about: Mapping[str, Any]


def select_classes(cifar: Cifar, names: str | None, class_map: ClassMap | None) -> Selection:
    """All classes; or those in `names`, separated by commas, in the order of the set; or what a class map makes.

    Raises InputError for a name that is no class of the set, or comes twice.
    """
    if names is not None:
        wanted = [name.strip() for name in names.split(",")]
        strange = [name for name in wanted if name not in cifar.classes]
        if strange or len(set(wanted)) != len(wanted):
            wrong = f"{strange[0]!r} is no class of {cifar.name}" if strange else "a class comes twice"
            raise InputError(f"--classes {names}: {wrong}: choose from {', '.join(cifar.classes)}")
        kept = tuple(name for name in cifar.classes if name in wanted)
        return Selection(kept, _table(cifar, {name: name for name in kept}, kept), {"classes": list(kept)})
    if class_map is not None:
        absent = sorted(class_map.mapping.keys() - set(cifar.classes))
        if absent:
            raise InputError(
                f"{class_map.name}: {absent[0]!r} is no class of {cifar.name}: choose from {', '.join(cifar.classes)}"
            )
        table = _table(cifar, class_map.mapping, class_map.classes)
        return Selection(class_map.classes, table, {"class_map": class_map.describe()})
    return Selection(cifar.classes, np.arange(len(cifar.classes)), {})


def _table(cifar: Cifar, mapping: Mapping[str, str], classes: Sequence[str]) -> Labels:
    return np.array([classes.index(mapping[name]) if name in mapping else -1 for name in cifar.classes])
