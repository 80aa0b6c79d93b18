"""The manifest of a split: what its shards hold, and where. Imports numpy only when the index is loaded.

A split folder holds shards `<dataset>-<split>-NNNNNN.tar`, `index.npz`, `skipped.csv` and `manifest.json`. Sizes and
class names are read from the manifest, nowhere else; the sha256 of its bytes is the identity of the split.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from en_bench.data.places import Place, is_remote, names_in, place, read_bytes, reason, shown, size_of, write_file
from en_bench.errors import InputError, OutOfReachError

if TYPE_CHECKING:
    from en_bench.data.fetch import Patience
    from en_bench.data.index import Index

FORMAT = "en_bench.split"
VERSION = 2
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.npz"
SKIPPED_NAME = "skipped.csv"
PREPARING = ".preparing"  # subfolder of a split that is being written
GIVEN = "given"  # the label column that training uses; every split has it


@dataclass(frozen=True)
class Shard:
    """One tar file. `name` is relative to the split folder."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json, and where it was read.

    Attributes:
        folder: the split folder.
        digest: sha256 (hex) of manifest.json's bytes; empty for a manifest that was not yet written.
        dataset, split: names.
        classes: class names; a label is a position in them.
        columns: label columns, "given" first, then for example "clean". Empty where masks take the place of labels.
        members: files per sample that are read, "image" first, then "mask" if there is one.
        count: samples in the shards.
        skipped: samples that were offered and could not be used; skipped.csv lists them.
        shards: the tar files, in the order of the index.
        index_sha256: of index.npz.
        inputs_sha256: of the keys and labels that were offered to the writer.
        seed: of the permutation applied when writing; None for shards of other makers, whose order is unknown.
        ignore_index: the value of pixels in masks that no class is asked of; None without masks.
        source: where the samples come from and the options that made them.
        image: how images were encoded, and how many were (`reencoded`); the others have the bytes of their raw files.
        noise: per label column what is known of its noise, such as kind, rate, seed, and the realised rate.
        location: folder or URL that the shards lie in, where it is not `folder`.
    """

    folder: Place
    dataset: str
    split: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    members: tuple[str, ...]
    count: int
    skipped: int
    shards: tuple[Shard, ...]
    index_sha256: str
    inputs_sha256: str
    seed: int | None
    ignore_index: int | None
    source: Mapping[str, Any]
    image: Mapping[str, Any]
    noise: Mapping[str, Mapping[str, Any]]
    location: str | None = None
    digest: str = field(default="", compare=False)

    def place_of(self, shard: Shard) -> Place:
        """Where a shard lies."""
        return (self.folder if self.location is None else place(self.location)) / shard.name

    def load_index(self) -> "Index":
        """Reads index.npz. Raises InputError if it is not the one that this manifest describes."""
        from en_bench.data.index import load_index

        return load_index(self)

    def check_shards(self) -> None:
        """Raises InputError if a shard is missing or not of the recorded size. Reads no content."""
        for shard in self.shards:
            path = shown(self.place_of(shard))
            try:
                found = size_of(self.place_of(shard))
            except OSError as error:
                raise InputError(
                    f"{path}: {error.strerror or error}, {shard.bytes} bytes expected: copy or prepare the split again"
                ) from error
            if found != shard.bytes:
                raise InputError(
                    f"{path}: {found} bytes instead of {shard.bytes}: it is cut off or belongs to another "
                    f"{MANIFEST_NAME}; copy or prepare the split again"
                )


def load_manifest(folder: str | os.PathLike[str], patience: "Patience | None" = None) -> Manifest:
    """Reads the manifest of a split folder, from a URL with `patience` (default: as all that is fetched).

    Raises InputError if there is none that this version can read, OutOfReachError where a URL does not tell.
    """
    folder = place(folder)
    path = shown(folder / MANIFEST_NAME)
    try:
        content = read_bytes(folder / MANIFEST_NAME, patience)
    except OSError as error:
        _complain_of_missing(folder, error)
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}): copy or prepare the split again") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise InputError(f"{path}: not a manifest of en_bench (its format is not {FORMAT!r}): prepare the split again")
    version = fields.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(f"{path}: format version {version!r}, this en_bench reads {VERSION}: update en_bench")
    if version < VERSION:
        raise InputError(f"{path}: format version {version}, this en_bench reads {VERSION}: prepare the split again")
    try:
        return _from_fields(folder, fields, hashlib.sha256(content).hexdigest())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error}): prepare the split again") from error


def save_manifest(manifest: Manifest) -> Manifest:
    """Writes manifest.json into `manifest.folder`, atomically; returns the manifest with its digest."""
    content = (json.dumps(to_fields(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    write_file(manifest.folder / MANIFEST_NAME, content)
    return dataclasses.replace(manifest, digest=hashlib.sha256(content).hexdigest())


def manifest_digest(folder: str | os.PathLike[str], patience: "Patience | None" = None) -> str | None:
    """Identity of the split in `folder` (sha256 of its manifest.json, hex), None if no manifest can be read there.

    A URL is read with `patience` (default: as all that is fetched). Raises OSError for one that is out of reach, where
    nobody can tell.
    """
    where = place(folder)
    try:
        return hashlib.sha256(read_bytes(where / MANIFEST_NAME, patience)).hexdigest()
    except OSError as error:
        if is_remote(where) and not isinstance(error, FileNotFoundError):
            raise
        return None


def classes_digest(classes: Sequence[str]) -> str:
    """Identity of an ordered list of class names (sha256, hex)."""
    return hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()


def require_same_classes(a: Sequence[str], b: Sequence[str], a_name: str, b_name: str) -> None:
    """Raises InputError unless both lists hold the same class names in the same order."""
    if list(a) == list(b):
        return
    cure = "prepare or index both with the same classes (--class-map, --classes)"
    if len(a) != len(b):
        lone = sorted(set(a) ^ set(b))
        first = f", {lone[0]!r} is in one only" if lone else ""
        raise InputError(f"{a_name} has {len(a)} classes, {b_name} has {len(b)}{first}: {cure}")
    differing = [position for position, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    order = " (the same names in another order)" if sorted(a) == sorted(b) else ""
    raise InputError(
        f"{a_name} and {b_name} differ in {len(differing)} of {len(a)} classes{order}, first in class {differing[0]}: "
        f"{a[differing[0]]!r} and {b[differing[0]]!r}: {cure}"
    )


def to_fields(manifest: Manifest) -> dict[str, Any]:
    """The manifest as manifest.json holds it."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "dataset": manifest.dataset,
        "split": manifest.split,
        "classes": list(manifest.classes),
        "columns": list(manifest.columns),
        "members": list(manifest.members),
        "count": manifest.count,
        "skipped": manifest.skipped,
        "shards": [dataclasses.asdict(shard) for shard in manifest.shards],
        "index": {"file": INDEX_NAME, "sha256": manifest.index_sha256},
        "inputs": {"sha256": manifest.inputs_sha256},
        "order": {"seed": manifest.seed},
        "ignore_index": manifest.ignore_index,
        "source": dict(manifest.source),
        "image": dict(manifest.image),
        "noise": {column: dict(what) for column, what in manifest.noise.items()},
        **({} if manifest.location is None else {"location": manifest.location}),
    }


def _from_fields(folder: Place, fields: Mapping[str, Any], digest: str) -> Manifest:
    manifest = Manifest(
        folder=folder,
        dataset=str(fields["dataset"]),
        split=str(fields["split"]),
        classes=tuple(fields["classes"]),
        columns=tuple(fields["columns"]),
        members=tuple(fields["members"]),
        count=int(fields["count"]),
        skipped=int(fields["skipped"]),
        shards=tuple(Shard(**shard) for shard in fields["shards"]),
        index_sha256=str(fields["index"]["sha256"]),
        inputs_sha256=str(fields["inputs"]["sha256"]),
        seed=None if fields["order"]["seed"] is None else int(fields["order"]["seed"]),
        ignore_index=fields["ignore_index"],
        source=dict(fields["source"]),
        image=dict(fields["image"]),
        noise={column: dict(what) for column, what in fields["noise"].items()},
        location=fields.get("location"),
        digest=digest,
    )
    if fields["index"]["file"] != INDEX_NAME:
        raise ValueError(f"index file {fields['index']['file']!r} is not {INDEX_NAME!r}")
    if manifest.members not in (("image",), ("image", "mask")):
        raise ValueError(f"members {manifest.members} are not an image, nor an image and its mask")
    texts = (*manifest.classes, *manifest.columns, *(text for s in manifest.shards for text in (s.name, s.sha256)))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("names that are not text")
    sizes = [number for shard in manifest.shards for number in (shard.samples, shard.bytes)]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError("shards without samples or bytes")
    if GIVEN not in manifest.columns and "mask" not in manifest.members:
        raise ValueError(f"no label column {GIVEN!r}")
    if manifest.count < 1 or sum(shard.samples for shard in manifest.shards) != manifest.count:
        raise ValueError(f"the shards do not hold {manifest.count} samples")
    for shard in manifest.shards:
        if Path(shard.name).name != shard.name or shard.name.startswith("."):
            raise ValueError(f"shard {shard.name!r} is not a file of the split folder")
    return manifest


def _complain_of_missing(folder: Place, error: OSError) -> NoReturn:
    where = shown(folder)
    if is_remote(folder) and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise OutOfReachError(
            f"{where}/{MANIFEST_NAME}: {reason(error)}: check the server, the network and your access, or correct the "
            "URL"
        ) from error
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise InputError(f"{where}/{MANIFEST_NAME}: {error.strerror or error}: make it readable") from error
    try:
        names = names_in(folder)
    except OSError:  # servers that give files may list none
        names = []
    if PREPARING in names:
        raise InputError(
            f"{where}: its preparation has not ended: run the script that began it again, with --resume"
        ) from error
    if is_remote(folder):
        raise InputError(f"{where}: no {MANIFEST_NAME} there: prepare the data set, or correct the URL") from error
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{where}: a file: name the folder of a prepared split") from error
    if not folder.is_dir():
        raise InputError(
            f"{where}: no such folder: prepare the data set, or correct the path (--data.root or EN_BENCH_SHARDS say "
            "where sets lie)"
        ) from error
    found = [
        path.parent.relative_to(folder) for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{MANIFEST_NAME}")
    ]
    splits = sorted(str(split) for split in found if not any(part.startswith(".") for part in split.parts))
    cure = f"name one of its splits: {', '.join(splits)}" if splits else "prepare the data set, or correct the path"
    raise InputError(f"{where}: no {MANIFEST_NAME} in it: {cure}") from error
