"""Folders that name the classes: `<split>/<class>/<file>`, and `<class>/<file>` of one split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from data_scripts.layouts.listing import Item, Listing, key_of
from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.errors import InputError

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip")

Parts = tuple[str, ...]


def list_tree(raw: RawFiles, split_map: dict[str, str], subfolder: str = "") -> Listing:
    """Places files by their path, `<split>/<class>/...`; a common folder above the splits is passed over.

    Raises InputError where a class is named like a split and its split is not, and where nothing tells whether the
    only top-level folder is a split or a folder above the splits.
    """
    paths, reasons = _paths(raw, subfolder)

    def is_split(part: str) -> bool:
        return part in split_map or part.lower() in _SPLIT_NAMES

    deep = [(name, parts) for name, parts in paths.items() if len(parts) > 2 and name not in reasons]
    misplaced = [(name, parts) for name, parts in deep if is_split(parts[1]) and not is_split(parts[0])]
    single = len({parts[0] for _, parts in deep}) == 1
    wrapped = single and any(len(parts) > 3 for _, parts in misplaced)
    if misplaced and not wrapped:
        name, parts = misplaced[0]
        raise InputError(
            f"{shown(raw.path)}: {name!r} would be of split {parts[0]!r} and class {parts[1]!r}, which is named "
            f"like a split: --raw must hold <split>/<class>/<file>; if {parts[0]!r} is a split, use --split-map "
            f"{parts[0]}=NAME"
        )
    if single and not wrapped and not is_split(deep[0][1][0]) and any(len(parts) > 3 for _, parts in deep):
        top = deep[0][1][0]
        raise InputError(
            f"{shown(raw.path)}: {top!r} may be a split or a folder above the splits: use --split-map {top}=NAME if it "
            "is a split, else --split-map FOLDER=NAME for the splits in it, or name the folder that holds them with "
            "--raw; if its folders are classes, add --split NAME"
        )
    listing, outside = Listing(), []
    for name, parts in paths.items():
        parts = parts[1:] if wrapped else parts
        if len(parts) < 3:
            outside.append(name)
            continue
        split = split_map.get(parts[0], parts[0])
        listing.items.append(Item(name, split, parts[1], key_of(parts[1:]), reasons.get(name, "")))
    listing.note(len(outside), "files that are not in <split>/<class>/", outside)
    return listing


def list_class_folders(raw: RawFiles, split: str, subfolder: str = "") -> Listing:
    """Places all files in one split, by their path `<class>/...`; common folders above the classes are passed over."""
    paths, reasons = _paths(raw, subfolder)
    above = 0  # folders that all images share
    while True:
        deep = {parts[above] for parts in paths.values() if len(parts) > above + 2}
        shallow = {parts[above] for parts in paths.values() if len(parts) == above + 2}
        if len(deep) != 1 or not shallow <= deep:
            break
        above += 1
    listing, outside = Listing(), []
    for name, parts in paths.items():
        parts = parts[above:]
        if len(parts) < 2:
            outside.append(name)
            continue
        listing.items.append(Item(name, split, parts[0], key_of(parts), reasons.get(name, "")))
    listing.note(len(outside), "files that are not in <class>/", outside)
    return listing


def _paths(raw: RawFiles, subfolder: str) -> tuple[dict[str, Parts], dict[str, str]]:
    """Per raw file its path below the subfolder, and the reasons of those that are refused.

    Raises InputError where there is no such subfolder, or where it lies in several folders.
    """
    reasons = {name: reason for name, reason in raw.refused if name not in frozenset(raw.names)}
    paths = {name: _plain(name) for name in [*raw.names, *reasons]}
    wanted = PurePosixPath(subfolder).parts
    if not wanted:
        return paths, reasons
    below: dict[str, Parts] = {}
    above: set[Parts] = set()
    for name, parts in paths.items():
        start = next((i for i in range(len(parts) - len(wanted)) if parts[i : i + len(wanted)] == wanted), None)
        if start is not None:
            below[name] = parts[start + len(wanted) :]
            above.add(parts[:start])
    if not below:
        raise InputError(f"{shown(raw.path)}: no folder {subfolder} with files in it: correct --subfolder")
    if len(above) > 1:
        first, second = ("/".join(parts) or "the top" for parts in sorted(above)[:2])
        raise InputError(
            f"{shown(raw.path)}: {subfolder} lies in {first} and in {second}: say more of its path with --subfolder"
        )
    return below, reasons


def _plain(name: str) -> Parts:
    """Path in which archives count as the folders that they unpack to: `train.tar/train/a` is `train/a`."""
    parts: list[str] = []
    for part in _harmless(PurePosixPath(name).parts):
        if parts and parts[-1].endswith(_ARCHIVES):
            parts[-1] = next(parts[-1].removesuffix(end) for end in _ARCHIVES if parts[-1].endswith(end))
            if parts[-1] == part:
                continue
        parts.append(part)
    return tuple(parts)


def _harmless(parts: Sequence[str]) -> Parts:
    return tuple(part for part in parts if part not in ("/", ".."))
