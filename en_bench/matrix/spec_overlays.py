"""Overlays where they stand in a specification: files beside it, or mappings in it."""

import os
from pathlib import Path
from typing import Any

from en_bench.errors import InputError
from en_bench.matrix.closest import did_you_mean_file
from en_bench.matrix.overlays import Config, Overlay, check_plain, read_overlay, settings

_OF_THE_CELL = (("ckpt_path",), ("result",), ("trainer", "default_root_dir"))

Overlays = tuple[Overlay, ...]


def overlays_at(raw: object, path: Path, where: str) -> Overlays:
    """The overlay, or the list of them, that stands at `where` in the specification `path`. Raises InputError."""
    return tuple(_overlay(item, path, where) for item in (raw if isinstance(raw, list) else [raw]))


def _overlay(raw: object, path: Path, where: str) -> Overlay:
    if isinstance(raw, dict):
        check_plain(raw, f"{path}: {where}")
        _check_keys(raw, path, where)
        return Overlay(raw)
    if not isinstance(raw, str) or not raw:
        raise InputError(f"{path}: {where}: an overlay is a file name or a mapping, not {raw!r}")
    file = Path(os.path.normpath(path.parent / raw))
    if not file.is_file():
        raise InputError(f"{path}: {where}: there is no file {raw}{_cure(file, path.parent)}")
    overlay = read_overlay(file)
    _check_keys(overlay.config, path, f"{where}: {raw}")
    return overlay


def _check_keys(config: Config, path: Path, where: str) -> None:
    for dotted in (key for keys, _ in settings(config) for key in keys if "." in key):
        # The training would read it, but it would not add up with the same setting in another overlay.
        raise InputError(f"{path}: {where}: the key {dotted!r} has a dot: write it as nested keys")
    for keys in (keys for keys, _ in settings(config) if keys in _OF_THE_CELL):
        raise InputError(
            f"{path}: {where}: an overlay sets {'.'.join(keys)}, which each cell has of its own: remove it"
        )
    if "root" in data_of(config):
        raise InputError(
            f"{path}: {where}: an overlay sets data.root, a place on one machine: give --data-root or EN_BENCH_SHARDS"
        )


def data_of(config: Config) -> dict[str, Any]:
    """What a configuration says of its data."""
    data = config.get("data")
    return data if isinstance(data, dict) else {}


def _cure(file: Path, start: Path) -> str:
    near = did_you_mean_file(file, start)
    return near or f": overlays are looked for from the specification's folder on: {file} would be it"
