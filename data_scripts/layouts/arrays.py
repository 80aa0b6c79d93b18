"""Images in numpy arrays: CIFAR-10.1, and CIFAR-10-C with its five severities below each other."""

from __future__ import annotations

import functools
import hashlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_scripts.layouts.listing import Item, Listing, find_file
from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.errors import InputError, message_of

SEVERITIES = 5


def list_pair(raw: RawFiles, name: str, split: str) -> Listing:
    """The images of NAME_data.npy with the labels of NAME_labels.npy, as CIFAR-10.1 has them.

    Raises InputError where one is missing or they do not fit together.
    """
    images, images_name, _ = _array(raw, f"{name}_data.npy")
    labels, labels_name, digest = _array(raw, f"{name}_labels.npy")
    _check(raw, images, images_name, labels, labels_name)
    items = _items(images, labels, images_name, range(len(labels)), f"{name.replace('.', '_')}/", split)
    return Listing(items, source={"arrays": [images_name, labels_name], "labels_sha256": digest})


def list_corruption(raw: RawFiles, corruption: str, severity: int | None, split: str) -> Listing:
    """The images of CORRUPTION.npy with the labels of labels.npy, as CIFAR-10-C has them; all severities if None.

    Raises InputError where one is missing or they do not fit together.
    """
    try:
        images, images_name, _ = _array(raw, f"{corruption}.npy")
    except InputError as error:
        there = sorted({name.rpartition("/")[2][:-4] for name in raw.names if name.endswith(".npy")} - {"labels"})
        raise InputError(f"{error}; there are {', '.join(there) or 'none'}") from error
    labels, labels_name, digest = _array(raw, "labels.npy")
    _check(raw, images, images_name, labels, labels_name)
    each, rest = divmod(len(labels), SEVERITIES)
    if rest or not np.array_equal(labels, np.tile(labels[:each], SEVERITIES)):
        raise InputError(f"{shown(raw.path)}: {labels_name}: not the same labels {SEVERITIES} times: download it again")
    listing = Listing(source={"arrays": [images_name, labels_name], "labels_sha256": digest})
    for level in range(1, SEVERITIES + 1) if severity is None else [severity]:
        rows = range((level - 1) * each, level * each)
        listing.items += _items(images, labels, images_name, rows, f"{corruption}/{level}/", split)
    return listing


def png_of(pixels: bytes, shape: tuple[int, int, int]) -> bytes:
    """PNG of (height, width, 3) pixels."""
    out = io.BytesIO()
    Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(shape)).save(out, "PNG")
    return out.getvalue()


def _items(
    images: NDArray[np.uint8], labels: NDArray[np.integer[Any]], name: str, rows: range, prefix: str, split: str
) -> list[Item]:
    """Samples of some rows, numbered from the first of them. Their class is called by its number."""
    shape = images.shape[1:]
    return [
        Item(
            f"{name}[{row}]",
            split,
            str(labels[row]),
            f"{prefix}{row - rows.start:05d}",
            load=functools.partial(png_of, images[row].tobytes(), shape),
        )
        for row in rows
    ]


def _array(raw: RawFiles, name: str) -> tuple[NDArray[Any], str, str]:
    """An array, the raw file that holds it, and that file's sha256. What would need unpickling is refused."""
    path = find_file(raw, name, "the arrays")
    try:
        content = raw.read(path)
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        reason = message_of(error)
        raise InputError(f"{shown(raw.path)}: {path}: not a whole array ({reason}): download it again") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{shown(raw.path)}: {path}: an archive of arrays, not one: download it again")
    return array, path, hashlib.sha256(content).hexdigest()


def _check(raw: RawFiles, images: NDArray[Any], images_name: str, labels: NDArray[Any], labels_name: str) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise InputError(
            f"{shown(raw.path)}: {images_name}: {images.dtype} of shape {images.shape}, not uint8 of "
            "(n, height, width, 3): name arrays of images"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(images):
        raise InputError(
            f"{shown(raw.path)}: {labels_name}: {labels.dtype} of shape {labels.shape} cannot label {len(images):,} "
            "images: take both from the same download"
        )
