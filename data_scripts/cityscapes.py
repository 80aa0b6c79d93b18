"""Prepares Cityscapes with fine annotations: 19 classes of pixels in streets of German and Swiss cities.

    python data_scripts/cityscapes.py --raw folder_of_the_two_zips --out data/cityscapes

--raw is a folder with `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip`, or with what is in them:

    leftImg8bit/{train,val,test}/<city>/<city>_000000_000019_leftImg8bit.png
    gtFine/{train,val,test}/<city>/<city>_000000_000019_gtFine_labelIds.png     beside _color, _instanceIds, _polygons

They become DIR/train (2,975 pairs) and DIR/val (500), with keys <city>/<city>_000000_000019. Label ids become train ids
by the official table; ids that have none are ignored (255), as are license plates (-1). The labels of test are withheld
and its masks dummies: it is not prepared. Images keep their bytes, 2048x1024 in PNG of about 2.3 MB (8 GB in all);
with --short-side 512 they become JPEGs, and masks are reduced by nearest neighbour. Licence: non-commercial, by
registration; images must not be passed on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath

from data_scripts.layouts.mask_pairs import IMAGE_SUFFIXES, Layout, Role, mask_classes, pair_masks, write_pairs
from en_bench.data.archives import RawFiles
from en_bench.data.prepare import add_raw_options, make_parser, run_script

# Label ids without a train id. The others stand in classes/cityscapes19.csv.
IGNORED = {
    0: "unlabeled",
    1: "ego vehicle",
    2: "rectification border",
    3: "out of roi",
    4: "static",
    5: "dynamic",
    6: "ground",
    9: "parking",
    10: "rail track",
    14: "guard rail",
    15: "bridge",
    16: "tunnel",
    18: "polegroup",
    29: "caravan",
    30: "trailer",
    255: "license plate",  # id -1, in the 8 bits of a mask
}
_UNUSED = {
    "test": "its labels are withheld and the masks dummies",
    "train_extra": "it has coarse annotations only",
}
_SPLITS = {"train": 2_975, "val": 500}
_MASK_ENDING = "_gtFine_labelIds.png"
_IMAGE_ENDING = "_leftImg8bit"


def role(name: str) -> Role | None:
    """By the ending of a name, the city that it lies in, and the split above."""
    *_, split, city, file = ("", "", *PurePosixPath(name).parts)
    if split not in _SPLITS and split not in _UNUSED:
        return None
    stem, dot, suffix = file.rpartition(".")
    if stem.endswith(_IMAGE_ENDING) and f"{dot}{suffix}".lower() in IMAGE_SUFFIXES:
        return Role("image", split, f"{city}/{stem.removesuffix(_IMAGE_ENDING)}")
    if file.endswith(_MASK_ENDING):
        return Role("mask", split, f"{city}/{file.removesuffix(_MASK_ENDING)}")
    return None


LAYOUT = Layout(
    role,
    images="leftImg8bit/{train,val}/<city>/*_leftImg8bit.png",
    masks="gtFine/{train,val}/<city>/*_gtFine_labelIds.png",
    counts=_SPLITS,
    cure="name a folder with both leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, or what is in them",
    unused=_UNUSED,
)


def prepare(args: argparse.Namespace) -> None:
    """Writes train and val, as far as they are there."""
    classes = mask_classes("cityscapes19.csv", ignored=IGNORED)
    raw = RawFiles(args.raw, nested=True)
    pairs = pair_masks(raw, LAYOUT)
    write_pairs(args, raw, pairs, classes, dataset="cityscapes", variant="gtFine")


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_raw_options(parser, short_side=None)
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
