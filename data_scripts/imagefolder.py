r"""Prepares any folder or archive of images in folders by class, or in another layout that --layout names.

    python data_scripts/imagefolder.py --raw cifar10.tar.xz --out data/cifar7 --dataset cifar7 \
        --class-map data_scripts/classes/cifar7.csv --split-map test=val
    python data_scripts/imagefolder.py --raw photos --out data/mine --dataset mine --csv labels.csv

Each split becomes DIR/<split>. The layouts:

    tree      <split>/<class>/<file>; with --split NAME, <class>/<file>; with --csv, as the CSV says
    cub200    CUB-200-2011: images.txt, image_class_labels.txt, classes.txt, train_test_split.txt, images/
    cars      Stanford Cars: the devkit's .mat files with cars_test_annos_withlabels.mat, cars_train/, cars_test/
    aircraft  FGVC-Aircraft 2013b: data/images, data/images_variant_*.txt, data/variants.txt
    arrays    CIFAR-10.1: NAME_data.npy, NAME_labels.npy; CIFAR-10-C: CORRUPTION.npy, labels.npy

Classes are sorted by name, or as the set publishes them, and the same in all splits. Only `given` labels are known.
docs/datasets.md has a recipe for each.
"""

import argparse
import sys
from collections.abc import Sequence

from data_scripts.layouts.aircraft import list_aircraft
from data_scripts.layouts.arrays import SEVERITIES, list_corruption, list_pair
from data_scripts.layouts.cars import list_cars
from data_scripts.layouts.cub200 import list_cub200
from data_scripts.layouts.listing import Listing
from data_scripts.layouts.naming import add_class_options, write_listing
from data_scripts.layouts.table import list_table
from data_scripts.layouts.tree import list_class_folders, list_tree
from en_bench.data.archives import RawFiles
from en_bench.data.prepare import add_raw_options, make_parser, run_script
from en_bench.errors import InputError
from en_bench.noise.preparing import add_noise_option

_PUBLISHED = {"cub200": list_cub200, "cars": list_cars, "aircraft": list_aircraft}
# Options that only some layouts take, and the layouts: elsewhere they would be passed over without a word.
_ONLY_WITH = {
    "csv": ("tree",),
    "csv_columns": ("tree",),
    "subfolder": ("tree",),
    "split": ("tree", "arrays"),
    "split_map": ("tree", *_PUBLISHED),
    "arrays": ("arrays",),
    "corruption": ("arrays",),
    "severity": ("arrays",),
}


def parse_pairs(text: str, option: str) -> dict[str, str]:
    """Reads "old=new,old=new"."""
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value) or name in pairs:
            raise InputError(f"{option} {text!r}: write it as name=value,name=value with each name once")
        pairs[name] = value
    return pairs


def check_options(args: argparse.Namespace) -> None:
    """Raises InputError for options that do not go together."""
    for name, layouts in _ONLY_WITH.items():
        if getattr(args, name) is not None and args.layout not in layouts:
            raise InputError(f"--{name.replace('_', '-')} means nothing to --layout {args.layout}: leave it out")
    if args.csv_columns and not args.csv:
        raise InputError("--csv-columns means nothing without --csv: leave it out, or name the CSV")
    if args.csv and args.subfolder:
        raise InputError("--csv names every file: leave --subfolder out")
    if args.split and args.split_map:
        raise InputError("--split puts everything into one split: leave --split-map out")
    if args.severity and not args.corruption:
        raise InputError("--severity means nothing without --corruption: name one, such as gaussian_noise")
    if args.corruption and args.arrays:
        raise InputError("--arrays is for CIFAR-10.1, --corruption for CIFAR-10-C: leave one out")


def read_layout(args: argparse.Namespace, raw: RawFiles, split_map: dict[str, str]) -> tuple[Listing, str]:
    """What the layout finds among the raw files, and where it looks for images, in words."""
    if args.layout in _PUBLISHED:
        return _PUBLISHED[args.layout](raw, split_map), f"the layout of {args.layout}"
    if args.layout == "arrays":
        split = args.split or "val"
        if args.corruption:
            return list_corruption(raw, args.corruption, args.severity, split), f"{args.corruption}.npy"
        name = args.arrays or "cifar10.1_v6"
        return list_pair(raw, name, split), f"{name}_data.npy"
    if args.csv:
        renamed = parse_pairs(args.csv_columns, "--csv-columns") if args.csv_columns else {}
        return list_table(raw, args.csv, renamed, split_map, args.split or ""), f"the files that {args.csv} names"
    if args.split:
        return list_class_folders(raw, args.split, args.subfolder or ""), "<class>/"
    return list_tree(raw, split_map, args.subfolder or ""), "<split>/<class>/"


def prepare(args: argparse.Namespace) -> None:
    """Writes every split that the raw files hold."""
    check_options(args)
    split_map = parse_pairs(args.split_map, "--split-map") if args.split_map else {}
    raw = RawFiles(args.raw, nested=True)
    listing, layout = read_layout(args, raw, split_map)
    source: dict[str, object] = {
        "script": "imagefolder.py",
        "raw": raw.name,
        "layout": args.layout,
        "split_map": split_map,
    }
    chosen = ("split", "subfolder", "corruption", "severity")
    source |= {name: getattr(args, name) for name in chosen if getattr(args, name) is not None}
    write_listing(args, raw, listing, dataset=args.dataset, source=source, layout=layout)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_raw_options(parser)
    add_noise_option(parser)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="name of the data set in its manifests")
    parser.add_argument(
        "--layout",
        choices=["tree", *_PUBLISHED, "arrays"],
        default="tree",
        help="how the files lie (%(default)s: <split>/<class>/<file>)",
    )
    add_class_options(parser)
    parser.add_argument("--split", metavar="NAME", help="the one split of files that lie in <class>/<file>")
    parser.add_argument(
        "--subfolder", metavar="PATH", help="use only what lies in the folder of this path, such as motion_blur/1"
    )
    parser.add_argument("--split-map", metavar="PAIRS", help="splits to rename, for example test=val")
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="names path, class and split of each file (no split with --split); on disk or within --raw",
    )
    parser.add_argument(
        "--csv-columns",
        metavar="PAIRS",
        help="what --csv calls its columns path, class and split, for example class=label",
    )
    parser.add_argument(
        "--arrays", metavar="NAME", help="of --layout arrays: NAME_data.npy, NAME_labels.npy (cifar10.1_v6)"
    )
    parser.add_argument("--corruption", metavar="NAME", help="of CIFAR-10-C, such as gaussian_noise")
    parser.add_argument(
        "--severity", type=int, choices=range(1, SEVERITIES + 1), help="of the corruption; by default all of them"
    )
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
