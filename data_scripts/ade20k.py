"""Prepares ADE20K's SceneParse150: 150 classes of pixels in scenes of every kind.

    python data_scripts/ade20k.py --raw ADEChallengeData2016.zip --out data/ade20k

--raw is `ADEChallengeData2016.zip`, a tar of it, or the extracted folder:

    ADEChallengeData2016/images/{training,validation}/ADE_train_00000001.jpg
    ADEChallengeData2016/annotations/{training,validation}/ADE_train_00000001.png
    ADEChallengeData2016/objectInfo150.txt      names of the classes, which must be those of classes/ade20k150.csv
    ADEChallengeData2016/sceneCategories.txt    the samples; those without files are listed as skipped

They become DIR/train (20,210 pairs) and DIR/val (2,000). Mask values 1 to 150 are classes 0 to 149; 0, "other", is
ignored (255). Images keep their size and bytes unless --short-side is given; masks are reduced with them by nearest
neighbour. A mask belongs to its image as that is upright. The whole ADE20K with its thousands of names is another set,
and refused. Licence: annotations BSD 3-clause; images for non-commercial research and education.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from data_scripts.layouts.mask_pairs import (
    IMAGE_SUFFIXES,
    Layout,
    Role,
    SampleList,
    mask_classes,
    only_file,
    pair_masks,
    sample_key,
    text_lines,
    write_pairs,
)
from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.data.prepare import add_raw_options, make_parser, run_script
from en_bench.errors import InputError

SPLITS = {"training": "train", "validation": "val"}
OTHER = 0  # the mask value of what is none of the 150 classes


def role(name: str) -> Role | None:
    """By the last folders `images/training`, `annotations/validation` and so on that a name goes through."""
    parts = PurePosixPath(name).parts
    for position in range(len(parts) - 3, -1, -1):
        folder, split = parts[position], SPLITS.get(parts[position + 1])
        if split is None or folder not in ("images", "annotations"):
            continue
        suffix = PurePosixPath(name).suffix.lower()
        if folder == "images" and suffix in IMAGE_SUFFIXES:
            return Role("image", split, sample_key(parts[position + 2 :]))
        if folder == "annotations" and suffix == ".png":
            return Role("mask", split, sample_key(parts[position + 2 :]))
    return None


LAYOUT = Layout(
    role,
    images="images/{training,validation}/*.jpg",
    masks="annotations/{training,validation}/*.png",
    counts={"train": 20_210, "val": 2_000},
    cure="name ADEChallengeData2016.zip or the folder in it",
    tables=("objectInfo150.txt", "sceneCategories.txt"),
)


def refuse_full_set(raw: RawFiles) -> None:
    """Raises InputError for the whole ADE20K, whose masks are colours beside the images."""
    for name in raw.names:
        if PurePosixPath(name).stem.endswith("_seg"):
            raise InputError(
                f"{shown(raw.path)}: {name} is a mask of the whole ADE20K, this is for SceneParse150: {LAYOUT.cure}"
            )


def check_names(raw: RawFiles, classes: Mapping[str, str], table: str) -> list[dict[str, Any]]:
    """Identity of objectInfo150.txt, if there is one.

    It is published in two versions, which list the names of some classes in different orders.

    Args:
        raw: where it is.
        classes: by mask value.
        table: from which `classes` are, for messages.

    Raises InputError unless each class is among the names that the file has for its value, and no value is left over.
    """
    name = only_file(raw, "objectInfo150.txt")
    if name is None:
        return []
    lines, identity = text_lines(raw, name)
    header = [column.strip() for column in lines[0].split("\t")] if lines else []
    try:
        index, label = header.index("Idx"), header.index("Name")
        rows = [[cell.strip() for cell in line.split("\t")] for line in lines[1:]]
        found = {row[index]: row[label] for row in rows}
    except (ValueError, IndexError):
        raise InputError(
            f"{name} in {shown(raw.path)}: not a table with columns Idx and Name: download the set again"
        ) from None
    for value in sorted(classes.keys() | found.keys(), key=lambda text: (len(text), text)):
        names = [name.strip() for name in found.get(value, "").split(",")]
        if value not in found or classes.get(value) not in names:
            raise InputError(
                f"{name} in {shown(raw.path)}: class {value} is {found.get(value)!r}, "
                f"in {table} {classes.get(value)!r}: not the 150 classes of SceneParse150; {LAYOUT.cure}"
            )
    return [identity]


def listed_samples(raw: RawFiles) -> tuple[dict[str, SampleList], list[dict[str, Any]]]:
    """Per split the samples that sceneCategories.txt names, and its identity. Both empty if there is no such file."""
    name = only_file(raw, "sceneCategories.txt")
    if name is None:
        return {}, []
    lines, identity = text_lines(raw, name)
    keys: dict[str, set[str]] = {"train": set(), "val": set()}
    for line in lines:
        key = line.split()[0]
        split = next((split for split in keys if key.startswith(f"ADE_{split}_")), None)
        if split is None:
            raise InputError(
                f"{name} in {shown(raw.path)}: {key!r} is not ADE_train_N or ADE_val_N: download the set again"
            )
        keys[split].add(key)
    return {split: SampleList(identity["file"], listed) for split, listed in keys.items()}, [identity]


def prepare(args: argparse.Namespace) -> None:
    """Writes train and val, as far as they are there."""
    classes = mask_classes("ade20k150.csv", ignored=[OTHER])
    raw = RawFiles(args.raw, nested=True)
    refuse_full_set(raw)
    files = check_names(raw, classes[0].mapping, classes[0].name)
    listed, identity = listed_samples(raw)
    pairs = pair_masks(raw, LAYOUT, listed)
    write_pairs(args, raw, pairs, classes, dataset="ade20k", variant="SceneParse150", lists=files + identity)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_raw_options(parser, short_side=None)
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
