"""Where WebVision's images lie, whichever way its archives were unpacked, and which variant they are of."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from data_scripts.layouts.webvision_lists import VERSION_2
from en_bench.data.archives import RawFiles
from en_bench.data.images import ImageEncoder, UnreadableImage
from en_bench.data.places import shown
from en_bench.errors import InputError

VALIDATION = "val"
RESIZED_SIDE = 256  # pixels of the shorter side of resized images
_PROBED = 64  # images whose size tells the variant of a folder whose name does not
_QUERY_FOLDER = re.compile(r"q(\d+)")
_SOURCE = re.compile(r"(?<![a-z])(google|flickr)(?![a-z])")
_VALIDATION_FILE = re.compile(r"val\d+\.\w+")
_CLASS_FOLDER = re.compile(r"n\d{8}")
_NAMES_RESIZED = re.compile(rf"resized|(?<!\d){RESIZED_SIDE}(?!\d)")
_ARCHIVES = {"google": "google_resized_256.tar", "flickr": "flickr_resized_256.tar", VALIDATION: "val_images_256.tar"}


@dataclass
class Images:
    """The images of one source, or of the validation set.

    Attributes:
        raw: where they are.
        group: "google", "flickr" or "val".
        files: raw file by the path that lists use, `google/q0001/NAME.jpg` or `val000001.jpg`.
        refused: why a file is not read, by the same path.
        repeated: files that are there more than once.
    """

    raw: RawFiles
    group: str
    files: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    repeated: int = 0


def find_images(raw: RawFiles, groups: Sequence[str], variant: str | None) -> tuple[str, dict[str, Images]]:
    """Finds the images of `groups` by the ends of their paths: all resized ones, or all original ones.

    A folder or archive with "resized" or "256" in its name holds resized images. Of others the images tell: originals
    if one of 64 has a shorter side above 256 pixels.

    Args:
        raw: the files as published.
        groups: of "google", "flickr" and "val".
        variant: "resized" or "original"; None where all are of one.

    Returns:
        The variant, and per group its images.

    Raises InputError where images of a group are missing, where they are of two variants and `variant` is None, and
    for WebVision 2.0.
    """
    places: dict[tuple[str, str], dict[str, str]] = {}
    for name in raw.names:
        folder, _, file = name.rpartition("/")
        group, place, prefix = _locate(folder, _VALIDATION_FILE.fullmatch(file) is not None)
        if group in groups:
            places.setdefault((group, place), {})[prefix + file] = name
    variants: dict[str, dict[str, list[str]]] = {group: {} for group in groups}  # places by group and variant
    for (group, place), files in sorted(places.items()):
        variants[group].setdefault(_variant(raw, place, files), []).append(place)
    chosen = _choose(raw, variants, variant)
    images = {group: Images(raw, group) for group in groups}
    for group, found in images.items():
        for place in variants[group][chosen]:
            files = places.pop((group, place))
            found.repeated += len(found.files.keys() & files.keys()) if found.files else 0
            found.files = {**files, **found.files} if found.files else files
    for name, reason in raw.refused:
        folder, _, file = name.rpartition("/")
        group, _, prefix = _locate(folder, _VALIDATION_FILE.fullmatch(file) is not None)
        if group in images:
            images[group].refused[prefix + file] = reason
    return chosen, images


@functools.lru_cache(maxsize=16)
def _locate(folder: str, named_val: bool) -> tuple[str, str, str]:
    """(group, place, what precedes the file name in lists) for images of a folder; the group is "" of other files."""
    *above, last = folder.split("/")
    query = _QUERY_FOLDER.fullmatch(last)
    if query:
        sources = (_SOURCE.search(part.lower()) for part in reversed(above))
        source = next((found[1] for found in sources if found), "")
        if source and len(last) == len("q00001"):
            raise InputError(f"{folder}: query folders of five digits are {VERSION_2}")
        return source, "/".join(above), f"{source}/{last}/"
    if named_val:
        return VALIDATION, "/".join(above) if _CLASS_FOLDER.fullmatch(last) else folder, ""
    return "", "", ""


def _variant(raw: RawFiles, place: str, files: dict[str, str]) -> str:
    if _NAMES_RESIZED.search(place.lower()):
        return "resized"
    encode = ImageEncoder(verify=False)
    names = list(files.values())
    sides = []
    for name in names[:: -(-len(names) // _PROBED)]:
        try:
            sides.append(min(encode(raw.read(name)).raw_size))
        except (UnreadableImage, OSError):
            continue
    return "resized" if sides and max(sides) <= RESIZED_SIDE else "original"


def _choose(raw: RawFiles, variants: dict[str, dict[str, list[str]]], asked: str | None) -> str:
    """The variant of which all groups have images."""
    for group, found in variants.items():
        if not found:
            raise InputError(
                f"{shown(raw.path)}: no images of {group}: put {_ARCHIVES[group]}, or its folder, there, "
                "or leave it out with --sources or --splits"
            )
    there = sorted({variant for found in variants.values() for variant in found})
    if asked is None and len(there) > 1:
        where = "; ".join(
            f"{variant} {group} in {places[0] or raw.name}"
            for group, found in variants.items()
            for variant, places in sorted(found.items())
        )
        raise InputError(f"{shown(raw.path)}: original and resized images are there ({where}): choose with --variant")
    chosen = asked or there[0]
    lacking = [group for group, found in variants.items() if chosen not in found]
    if lacking:
        raise InputError(
            f"{shown(raw.path)}: {chosen} images of {' and '.join(lacking)} are not there, only {' and '.join(there)} "
            "ones: leave --variant out, or choose --sources and --splits that have them"
        )
    return chosen
