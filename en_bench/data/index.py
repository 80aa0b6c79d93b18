"""Where each sample of a split lies and what its labels are, as arrays."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from en_bench.data.manifest import INDEX_NAME, MANIFEST_NAME, Manifest
from en_bench.data.places import read_bytes, shown
from en_bench.errors import InputError

_LABEL = "label_"


@dataclass(frozen=True, eq=False)
class Index:
    """One row per sample, in the order of the shards. N samples, M members (files per sample that are read).

    Attributes:
        keys: (N,) fixed-width bytes, UTF-8.
        shard: (N,) int32, position in the manifest's list of shards.
        offset: (N, M) int64, bytes from the start of the tar to the member's payload.
        size: (N, M) int64, bytes of the payload.
        labels: per label column (N,) int32, -1 where unknown.
    """

    keys: NDArray[np.bytes_]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    labels: Mapping[str, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, sample: int) -> str:
        """Key of one sample as text."""
        return bytes(self.keys[sample]).decode()


def index_bytes(index: Index) -> bytes:
    """An uncompressed .npz whose bytes depend on the content alone."""
    arrays: dict[str, NDArray[Any]] = {
        "keys": index.keys,
        "shard": index.shard,
        "offset": index.offset,
        "size": index.size,
        **{_LABEL + column: values for column, values in index.labels.items()},
    }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def load_index(manifest: Manifest) -> Index:
    """Reads the index of a split. Raises InputError if it is not the one that the manifest describes."""
    path = shown(manifest.folder / INDEX_NAME)
    try:
        content = read_bytes(manifest.folder / INDEX_NAME)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}: copy or prepare the split again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.index_sha256:
        raise InputError(
            f"{path}: sha256 {found[:12]}… instead of {manifest.index_sha256[:12]}…: it is damaged or belongs to "
            f"another {MANIFEST_NAME}; copy or prepare the split again"
        )
    try:
        index = _parse(content)
        _check(index, manifest)
    except ValueError as error:
        raise InputError(f"{path}: {error}: prepare the split again") from error
    return index


def _parse(content: bytes) -> Index:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile and numpy raise half a dozen types on foreign bytes
        raise ValueError(f"not an index: {error}") from error
    wanted = {"keys": ("S", 1), "shard": ("int32", 1), "offset": ("int64", 2), "size": ("int64", 2)}
    wanted |= {name: ("int32", 1) for name in found if name.startswith(_LABEL)}
    for name, (dtype, dimensions) in wanted.items():
        array = found.get(name)
        if array is None:
            raise ValueError(f"array {name!r} is missing")
        if array.ndim != dimensions or not (array.dtype == dtype or (dtype == "S" and array.dtype.kind == "S")):
            raise ValueError(f"array {name!r} is {array.dtype} with {array.ndim} axes, not {dtype} with {dimensions}")
    labels = {name.removeprefix(_LABEL): array for name, array in found.items() if name.startswith(_LABEL)}
    return Index(found["keys"], found["shard"], found["offset"], found["size"], labels)


def _check(index: Index, manifest: Manifest) -> None:
    shape = (manifest.count, len(manifest.members))
    shapes = {
        "keys": (index.keys.shape, shape[:1]),
        "shard": (index.shard.shape, shape[:1]),
        "offset": (index.offset.shape, shape),
        "size": (index.size.shape, shape),
        **{f"label {column}": (values.shape, shape[:1]) for column, values in index.labels.items()},
    }
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise ValueError(f"{name} has shape {found}, the manifest says {expected}")
    if set(index.labels) != set(manifest.columns):
        raise ValueError(f"label columns {sorted(index.labels)}, the manifest says {sorted(manifest.columns)}")
    first = 0
    for position, shard in enumerate(manifest.shards):
        rows = slice(first, first + shard.samples)
        if (index.shard[rows] != position).any():
            raise ValueError(f"samples {first} to {rows.stop - 1} are not all in {shard.name}")
        outside = (index.offset[rows] < tarfile.BLOCKSIZE) | (index.size[rows] < 0)
        if (outside | (index.offset[rows] + index.size[rows] > shard.bytes)).any():
            raise ValueError(f"a sample lies outside {shard.name}")
        first = rows.stop
    for column, values in index.labels.items():
        if ((values < -1) | (values >= len(manifest.classes))).any():
            raise ValueError(f"label {column} has values outside -1 .. {len(manifest.classes) - 1}")
