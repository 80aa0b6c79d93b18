"""FGVC-Aircraft 2013b: `data/images/<id>.jpg` with lists of `id variant` for each split."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import replace

from PIL import Image

from data_scripts.layouts.listing import Folder, Listing
from data_scripts.layouts.lists import read_lines, read_pairs
from en_bench.data.archives import RawFiles
from en_bench.data.images import ImageEncoder, UnreadableImage
from en_bench.data.places import shown
from en_bench.errors import InputError

_NAME = "FGVC-Aircraft 2013b"
BANNER = 20  # pixels of copyright notice at the bottom of every image, which by convention no network may read


def list_aircraft(raw: RawFiles, split_map: dict[str, str]) -> Listing:
    """Places the images that images_variant_{train,val,test}.txt list, without the banner at their bottom.

    The published `trainval` is train and val together: with `trainval` in the split map it takes their place.

    Raises InputError where a list is missing or names a variant that variants.txt lacks.
    """
    classes, digest = read_lines(raw, "variants.txt", _NAME)
    digests = {"variants.txt": digest}
    listing = Listing(classes=classes, source={"lists_sha256": digests, "banner": f"bottom {BANNER} pixels cut off"})
    folder = Folder(raw, "images")
    for split in ("trainval", "test") if "trainval" in split_map else ("train", "val", "test"):
        table = f"images_variant_{split}.txt"
        variants, digests[table] = read_pairs(raw, table, _NAME)
        for number, variant in variants.items():
            if variant not in classes:
                raise InputError(
                    f"{shown(raw.path)}: {table}: {variant!r} is not in variants.txt: take both from one archive"
                )
            item = folder.item(f"{number}.jpg", split_map.get(split, split), variant, number, table)
            if not item.refusal:
                item = replace(item, load=functools.partial(without_banner, folder.load(item)))
            listing.items.append(item)
    folder.note_rest(listing, "images_variant_*.txt")
    return listing


def without_banner(load: Callable[[], bytes]) -> bytes:
    """An image without its banner, uncompressed (PPM): it is then encoded once, whatever its size.

    Raises UnreadableImage, with the reason.
    """
    upright = ImageEncoder(encoding="png")(load()).payload
    with Image.open(io.BytesIO(upright)) as image:
        width, height = image.size
        if height <= BANNER:
            raise UnreadableImage(f"{height} pixels high, of which {BANNER} are the banner")
        out = io.BytesIO()
        image.crop((0, 0, width, height - BANNER)).save(out, "PPM")
    return out.getvalue()
