"""Where the manifest of other makers' shards goes, and what the split is called."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from en_bench.data.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    PREPARING,
    SKIPPED_NAME,
    Manifest,
    load_manifest,
)
from en_bench.data.places import Place, is_remote, names_in, place, read_bytes, reason, remove, shown, write_file
from en_bench.data.shard_patterns import Tars
from en_bench.errors import InputError

MADE = "en-bench data index"  # what `source.made` of its manifests says
_OURS = {MANIFEST_NAME, INDEX_NAME, SKIPPED_NAME}
_SKIPPED_HEAD = b"key,origin,reason"
_PROBE = ".en_bench-can-be-written"
_READ_ONLY = ("http", "https", "hf")  # hf: each file that is written would be a commit
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Home:
    """Where the manifest goes.

    Attributes:
        folder: of manifest, index and list of skipped samples.
        location: folder or URL of the shards, where it is another.
    """

    folder: Place
    location: str | None


def is_indexed(manifest: Manifest) -> bool:
    """Whether a manifest was made for shards of other makers."""
    return manifest.source.get("made") == MADE


def home_of(tars: Tars, out: str | None) -> Home:
    """The folder for a manifest: `out`, else that of the tars, if they are alone there and it can be written.

    Raises InputError where there is none, and where it holds what must not be overwritten. Raises OSError where it
    cannot be listed.
    """
    told = shown(tars.folder)
    folder = tars.folder if out is None else place(out)
    beside = _same(folder, tars.folder)
    if out is None and not _can_be_written(folder):
        raise InputError(f"{told}: cannot be written: give the manifest a folder, --out FOLDER")
    if beside and not tars.alone:
        raise InputError(f"{told}: the tars there are not all of this split: give the manifest a folder, --out FOLDER")
    _check_free(folder, tars, beside)
    if beside:
        return Home(folder, None)
    return Home(folder, str(tars.folder) if is_remote(tars.folder) else os.path.abspath(tars.folder))


def default_names(tars: Tars) -> tuple[str, str]:
    """(data set, split) as the names of tars and folder say: imagenet1k-train-{0000..1023}.tar, cifar10/train/0.tar."""
    stem = re.sub(r"[-_.]*[0-9]*$", "", PurePosixPath(tars.names[0]).stem)
    folder = shown(tars.folder if is_remote(tars.folder) else Path(os.path.abspath(tars.folder)))
    parts = [part for part in folder.partition("://")[2 if "://" in folder else 0].split("/") if part]
    words = re.split(r"[-_.]", stem)
    for position in reversed(range(len(words))):
        if words[position].lower() in _SPLITS:
            rest = "-".join(words[:position] + words[position + 1 :])
            return _name(rest or _last_but_splits(parts)), _SPLITS[words[position].lower()]
    split = _SPLITS.get(parts[-1].lower(), "train") if parts else "train"
    return _name(_last_but_splits(parts) or stem), split


def _last_but_splits(parts: list[str]) -> str:
    return next((part for part in reversed(parts) if part.lower() not in _SPLITS), "")


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "unnamed"


def _same(a: Place, b: Place) -> bool:
    if is_remote(a) or is_remote(b):
        return str(a).rstrip("/") == str(b).rstrip("/")
    return os.path.realpath(a) == os.path.realpath(b)


def _can_be_written(folder: Place) -> bool:
    if not is_remote(folder):
        return os.access(folder, os.W_OK | os.X_OK)
    if str(folder).partition("://")[0] in _READ_ONLY:
        return False
    try:
        write_file(folder / _PROBE, b"")
        remove(folder / _PROBE)
    except OSError:
        return False
    return True


def _check_free(folder: Place, tars: Tars, beside: bool) -> None:
    """Raises InputError if something in the folder would be lost."""
    told = shown(folder)
    if not is_remote(folder) and folder.exists() and not folder.is_dir():
        raise InputError(f"{told}: a file: name a folder with --out")
    names = names_in(folder)
    if PREPARING in names:
        raise InputError(f"{told}: an interrupted preparation lies there: choose another folder with --out")
    if MANIFEST_NAME in names:
        _check_own(folder, tars)
    elif _OURS & set(names) and not _left_by_a_kill(folder, names):
        there = sorted(_OURS & set(names))[0]
        raise InputError(f"{told}: holds another {there}, which would be overwritten: choose another folder with --out")
    strange = [name for name in names if name not in _OURS and not name.startswith(".")]
    if strange and not beside:
        raise InputError(
            f"{told}: holds something that is no index ({strange[0]}): choose an empty or new folder with --out"
        )


def _check_own(folder: Place, tars: Tars) -> None:
    try:
        found = load_manifest(folder)
    except InputError as error:
        raise InputError(f"{error}; it is not overwritten: remove it, or choose another folder with --out") from error
    if not is_indexed(found):
        raise InputError(
            f"{shown(folder)}: prepared by a script, and its {MANIFEST_NAME} is not overwritten: it can train as it is"
        )
    if not {shard.name for shard in found.shards} & set(tars.names):
        raise InputError(
            f"{shown(folder)}: holds the index of other tars ({found.shards[0].name}): choose another folder with --out"
        )


def _left_by_a_kill(folder: Place, names: list[str]) -> bool:
    """Whether files without a manifest are those of an index that was cut off while it was written."""
    try:
        return SKIPPED_NAME in names and read_bytes(folder / SKIPPED_NAME).startswith(_SKIPPED_HEAD)
    except OSError as error:
        raise InputError(f"{shown(folder / SKIPPED_NAME)}: {reason(error)}: make it readable") from error
