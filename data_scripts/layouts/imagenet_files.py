"""Where the images of ILSVRC 2012 are among raw files, told by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from data_scripts.layouts.wordnet import imagenet_classes
from en_bench.data.archives import RawFiles
from en_bench.data.sources import Skipped

PUBLISHED = {"train": 1_281_167, "val": 50_000}  # images of the two labelled splits
SPLITS = tuple(PUBLISHED)
VAL_PREFIX = "ILSVRC2012_val"
_TEST_PREFIX = "ILSVRC2012_test"
_ENDINGS = {"jpeg", "jpg", "png"}
_WNID = re.compile(r"n[0-9]{8}")
_FOLDER_SPLITS = {
    "train": "train",
    "ilsvrc2012_img_train": "train",
    "val": "val",
    "validation": "val",
    "ilsvrc2012_img_val": "val",
}


class Image(NamedTuple):
    """One image: its key, its WordNet id ("" where nothing said it yet) and its name among the raw files."""

    key: str
    wnid: str
    name: str


class Folder(NamedTuple):
    """What a folder, or a tar, says of the images in it.

    Attributes:
        wnid: the class it is named for, or "".
        split: that it or a folder above it is named for, or "".
        below: whether it lies below the folder of a class.
    """

    wnid: str
    split: str
    below: bool


@dataclass
class Listing:
    """What was found.

    Attributes:
        images: per split and folder.
        skipped: per split what cannot be used; under "" what belongs to no split.
        tests: test images.
        others: files that are no images.
        strange: images per WordNet id that is none of the 1,000.
    """

    images: dict[str, dict[str, list[Image]]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    skipped: dict[str, list[Skipped]] = field(default_factory=lambda: {split: [] for split in (*SPLITS, "")})
    tests: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    strange: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """What was left out, in words."""
        listed = (
            (len(self.tests), "test images, which have no published labels", self.tests),
            (
                sum(self.strange.values()),
                f"images of {len(self.strange):,} classes beyond the 1,000",
                list(self.strange),
            ),
            (len(self.skipped[""]), "files that fit nowhere", [item.origin for item in self.skipped[""]]),
        )
        return [f"left out {count:,} {what} (first: {names[0]!r})" for count, what, names in listed if count]


def read_folder(parts: Sequence[str]) -> Folder:
    """What the names on the way to an image say, from the outermost to that which holds it."""
    names = [part.removesuffix(".tar") for part in parts]
    splits = (_FOLDER_SPLITS.get(name.lower(), "") for name in reversed(names))
    wnid = names[-1] if _WNID.fullmatch(names[-1]) else ""
    return Folder(wnid, next(filter(None, splits), ""), not wnid and any(map(_WNID.fullmatch, names)))


def place_image(stem: str, folder: Folder) -> tuple[str, str, str]:
    """Split ("test" too, "" if unknown), WordNet id ("" if unknown) and the reason why it is not used, or "".

    Args:
        stem: the image's file name without its extension.
        folder: what holds it.
    """
    prefix, _, number = stem.rpartition("_")
    split, wnid = "", ""
    if number.isascii() and number.isdigit():
        if prefix == _TEST_PREFIX:
            return "test", "", ""
        if prefix == VAL_PREFIX and len(number) == 8 and 1 <= int(number) <= PUBLISHED["val"]:
            split, wnid = "val", folder.wnid
        elif _WNID.fullmatch(prefix):
            split, wnid = "train", folder.wnid or prefix
    if not split:
        return folder.split or ("train" if folder.wnid else ""), "", "not named like an image of ILSVRC 2012"
    if folder.split and folder.split != split:
        return folder.split, "", f"named like an image of {split}, but lies in {folder.split}"
    if folder.below:
        return split, "", "lies below the folder of a class, not in it (Tiny ImageNet? use tiny_imagenet.py)"
    if split == "train" and wnid != prefix:
        return split, "", f"named for the class {prefix}, but lies in {wnid}"
    return split, wnid, ""


def list_images(raw: RawFiles) -> Listing:
    """Places every file by its name and by the folders or tars that hold it."""
    listing = Listing()
    known = set(imagenet_classes())
    folders: dict[str, Folder] = {}  # of 1.28 million files there are a thousand

    def folder_of(way: str) -> Folder:
        if (folder := folders.get(way)) is None:
            folder = folders[way] = read_folder([raw.name, *way.split("/")] if way else [raw.name])
        return folder

    for name in raw.names:
        way, _, file = name.rpartition("/")
        stem, _, ending = file.rpartition(".")
        if ending.lower() not in _ENDINGS:
            listing.others.append(name)
            if ending != "xml" and folder_of(way).wnid:  # Kaggle's boxes are in folders of classes too
                listing.skipped[folder_of(way).split or "train"].append(Skipped("", name, "not named like an image"))
            continue
        split, wnid, reason = place_image(stem, folder_of(way))
        if split == "test":
            listing.tests.append(name)
        elif reason:
            listing.skipped[split].append(Skipped("", name, reason))
        elif wnid and wnid not in known:
            listing.strange[wnid] += 1
        else:
            key = f"{wnid}/{stem}" if split == "train" else stem
            listing.images[split].setdefault(way, []).append(Image(key, wnid, name))
    for name, reason in raw.refused:
        way, _, file = name.rpartition("/")
        split, _, _ = place_image(file.partition(".")[0], folder_of(way))
        listing.skipped[split if split in SPLITS else ""].append(Skipped("", name, reason))
    return listing


def without_copies(folders: Mapping[str, list[Image]]) -> tuple[list[Image], list[Skipped], str]:
    """One image of each key, sorted by key; what was left out; and a note on folders of nothing but copies, or "".

    Archives often lie beside what was extracted from them. Of two files with one key, that in a folder of its class is
    taken, then that in the folder with more images, then that whose folder comes first by name.
    """
    chosen: dict[str, Image] = {}
    skipped: list[Skipped] = []
    copies: list[str] = []
    copied = 0
    for way, images in sorted(folders.items(), key=lambda item: (not item[1][0].wnid, -len(item[1]), item[0])):
        twice = []
        for image in images:
            if chosen.setdefault(image.key, image) is not image:
                twice.append(image)
        if len(twice) == len(images) > 1:
            copies.append(way)
            copied += len(images)
            reason = f"its {len(images):,} images have the names of others, such as {chosen[images[0].key].name}"
            skipped.append(Skipped("", way, reason))
        else:
            skipped += [Skipped(i.key, i.name, f"has the name of {chosen[i.key].name}, which is used") for i in twice]
    note = ""
    if copies:
        note = f"left out {copied:,} copies in {len(copies):,} folders or tars of nothing else (first: {copies[0]!r})"
    return sorted(chosen.values()), skipped, note
