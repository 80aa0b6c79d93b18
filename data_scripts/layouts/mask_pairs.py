"""Segmentation sets: which image belongs to which mask, what is left over, and the classes of the masks."""

from __future__ import annotations

import argparse
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from en_bench.data.archives import RawFiles
from en_bench.data.classes import ClassMap, read_class_map
from en_bench.data.masks import IGNORE, MaskEncoder
from en_bench.data.places import shown
from en_bench.data.prepare import Split, image_encoder, write_splits
from en_bench.data.sources import Skipped, Source
from en_bench.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # their content decides what they are


class Role(NamedTuple):
    """What a raw file is for its set: image or mask of the sample `key` in `split`."""

    kind: Literal["image", "mask"]
    split: str
    key: str


@dataclass(frozen=True)
class Layout:
    """How a set is laid out.

    Attributes:
        role: the role that a file has by its name, None of one that has none.
        images, masks: where they lie, for messages.
        counts: published pairs per split, in the order in which splits are written.
        cure: what to do about files that are missing, for messages.
        tables: names of further files that are read.
        unused: why further splits, which `role` knows too, are not prepared.
    """

    role: Callable[[str], Role | None]
    images: str
    masks: str
    counts: Mapping[str, int]
    cure: str
    tables: Collection[str] = ()
    unused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleList:
    """A file of the set that says which samples a split has.

    Attributes:
        name: of the raw file.
        keys: of the samples.
    """

    name: str
    keys: Collection[str]


def sample_key(parts: Sequence[str]) -> str:
    """Folders and file without its extension; further dots would look like extensions to readers of shards."""
    *folders, file = parts
    return "/".join([*folders, (file.rpartition(".")[0] or file).replace(".", "_")])


def mask_classes(table: str, ignored: Iterable[int]) -> tuple[ClassMap, MaskEncoder]:
    """The class map of a set, from published mask value to class name in the order of labels, and its encoder.

    Args:
        table: name of the file in `classes`.
        ignored: further published values, of pixels that no class is asked of.
    """
    class_map = read_class_map(str(Path(__file__).parents[1] / "classes" / table))
    numbers = {int(value): number for number, value in enumerate(class_map.mapping)}
    return class_map, MaskEncoder({**dict.fromkeys(ignored, IGNORE), **numbers}, len(numbers))


def pair_masks(
    raw: RawFiles, layout: Layout, listed: Mapping[str, SampleList] | None = None
) -> tuple[list[Split], list[str]]:
    """The splits that the raw files hold, and notes on what else there is.

    Args:
        raw: the files.
        layout: of the set.
        listed: per split the list of its samples, where the set comes with one. Files that it lacks are skipped.

    Raises InputError where images or masks are missing altogether, or the set is there twice.
    """
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    others = []
    for name in raw.names:
        role = layout.role(name)
        if role is not None:
            found[role.split, role.kind][role.key].append(name)
        elif PurePosixPath(name).name not in layout.tables:
            others.append(name)
    notes = _notes(found, others, layout)
    splits = []
    for split in layout.counts:
        images, masks = found[split, "image"], found[split, "mask"]
        if images or masks:
            splits.append(_pair_split(raw, layout, split, images, masks, (listed or {}).get(split)))
            if (count := len(splits[-1].samples)) != layout.counts[split]:
                notes.append(f"{split}: found {count:,} pairs; published are {layout.counts[split]:,}")
        else:
            notes.append(f"{split}: no images and no masks in {shown(raw.path)}")
    if not splits:
        raise InputError(f"{shown(raw.path)}: no {layout.images}: {layout.cure}")
    return splits, notes


def write_pairs(
    args: argparse.Namespace,
    raw: RawFiles,
    pairs: tuple[list[Split], list[str]],
    classes: tuple[ClassMap, MaskEncoder],
    *,
    dataset: str,
    variant: str,
    lists: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Writes the splits of a set.

    Args:
        args: the options of its script, DATASET.py.
        raw: the files.
        pairs: what `pair_masks` found in them.
        classes: of `mask_classes`.
        dataset, variant: the names that the manifests hold.
        lists: identities of the lists and tables that were read; None of a set that has none.
    """
    (splits, notes), (class_map, encode_mask) = pairs, classes
    source = {
        "script": f"{dataset}.py",
        "raw": raw.name,
        "variant": variant,
        "class_map": class_map.describe(),
        **({} if lists is None else {"lists": list(lists)}),
    }
    write_splits(
        args,
        splits,
        dataset=dataset,
        classes=list(class_map.mapping.values()),
        source=source,
        encode=image_encoder(args),
        encode_mask=encode_mask,
        notes=notes,
    )


def _pair_split(
    raw: RawFiles,
    layout: Layout,
    split: str,
    images: Mapping[str, list[str]],
    masks: Mapping[str, list[str]],
    listed: SampleList | None,
) -> Split:
    for files, others, there, missing in ((images, masks, "images", "masks"), (masks, images, "masks", "images")):
        if files and not others:
            where = layout.masks if missing == "masks" else layout.images
            raise InputError(
                f"{shown(raw.path)}: {split} has {len(files):,} {there} and no {missing} ({where}): {layout.cure}"
            )
        _refuse_second_copy(raw, files)
    skipped, refused = [], set()
    for name, reason in raw.refused:
        role = layout.role(name)
        if role is not None and role.split == split:
            skipped.append(Skipped(role.key, name, reason))
            refused.add(role.key)
    samples = []
    for key in sorted(images.keys() | masks.keys()):
        names = [*images.get(key, ()), *masks.get(key, ())]
        if reason := _unfit(key, images, masks, listed):
            skipped += [Skipped(key, name, reason) for name in names]
        else:
            image, mask = names
            samples.append(Source(key, {}, raw.source(image), image, mask=raw.source(mask)))
    if listed is not None:
        absent = sorted(set(listed.keys) - images.keys() - masks.keys() - refused)
        skipped += [Skipped(key, key, f"listed in {listed.name}, not in {raw.name}") for key in absent]
    return Split(split, samples, skipped)


def _unfit(key: str, images: Mapping[str, list[str]], masks: Mapping[str, list[str]], listed: SampleList | None) -> str:
    """Why the files of a key are no pair; empty if they are one."""
    if listed is not None and key not in listed.keys:
        return f"not listed in {listed.name}"
    if key not in masks:
        return "an image without a mask"
    if key not in images:
        return "a mask without an image"
    for what, files in (("image", images[key]), ("mask", masks[key])):
        if len(files) > 1:
            return f"more than one {what} of this name: {', '.join(PurePosixPath(name).name for name in files)}"
    return ""


def _refuse_second_copy(raw: RawFiles, files: Mapping[str, list[str]]) -> None:
    for names in files.values():
        if len({PurePosixPath(name).parent for name in names}) > 1:
            raise InputError(
                f"{shown(raw.path)}: holds the set more than once, {names[0]} and {names[1]}: "
                "name one of them, or move the other away"
            )


def _notes(
    found: Mapping[tuple[str, str], Mapping[str, list[str]]], others: Sequence[str], layout: Layout
) -> list[str]:
    notes = []
    for split, reason in layout.unused.items():
        images, masks = (len(found.get((split, kind), {})) for kind in ("image", "mask"))
        if images or masks:
            notes.append(f"{split}: {images:,} images and {masks:,} masks are not prepared: {reason}")
    if others:
        notes.append(f"passed over {len(others):,} other files (first: {others[0]!r})")
    return notes


def only_file(raw: RawFiles, name: str) -> str | None:
    """The raw file whose last part is `name`, None if there is none. Raises InputError for several."""
    found = [candidate for candidate in raw.names if PurePosixPath(candidate).name == name]
    if len(found) > 1:
        raise InputError(
            f"{shown(raw.path)}: holds {found[0]} and {found[1]}: leave the one that belongs to the images"
        )
    return found[0] if found else None


def text_lines(raw: RawFiles, name: str) -> tuple[list[str], dict[str, Any]]:
    """Lines of a text file of the set that hold something, and its identity for the manifest.

    Raises InputError if it cannot be read.
    """
    try:
        content = raw.read(name)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name} in {shown(raw.path)}: cannot be read as text ({error}): download it again") from error
    identity = {"file": PurePosixPath(name).name, "sha256": hashlib.sha256(content).hexdigest()}
    return [line for line in text.splitlines() if line.strip()], identity
