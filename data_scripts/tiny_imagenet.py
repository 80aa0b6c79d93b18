r"""Prepares Tiny ImageNet (200 classes, 64x64) from its zip, from a tar of it or from its folder.

    python data_scripts/tiny_imagenet.py --raw tiny-imagenet-200.zip --out data/tiny_imagenet
    python data_scripts/tiny_imagenet.py --raw tiny-imagenet-200.zip --out data/tiny7 --dataset tiny7 \
        --class-map data_scripts/classes/tiny_cifar7.csv

As published:

    tiny-imagenet-200/wnids.txt                        the 200 WordNet ids
    tiny-imagenet-200/train/<wnid>/images/*.JPEG       500 per class
    tiny-imagenet-200/train/<wnid>/<wnid>_boxes.txt    names them, with boxes
    tiny-imagenet-200/val/images/val_N.JPEG            10,000
    tiny-imagenet-200/val/val_annotations.txt          file, WordNet id and box of each, separated by tabs
    tiny-imagenet-200/test/images/test_N.JPEG          10,000 without labels, passed over

Validation images that somebody sorted into val/<wnid>/ or val/<wnid>/images/ are taken as they lie. Subsets may lack
wnids.txt, and name the classes of their validation images in a labels.csv with columns path and wnid instead. Classes
are the sorted WordNet ids, or what --class-map makes of them. The images are ImageNet's, under its terms.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from data_scripts.layouts.listing import Folder, Item, Listing, find_file, key_of
from data_scripts.layouts.lists import lines_of, read_lines
from data_scripts.layouts.naming import add_class_options, write_listing
from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.data.prepare import add_raw_options, make_parser, run_script, shortened
from en_bench.data.tables import parse_csv, table_bytes
from en_bench.errors import InputError
from en_bench.noise.preparing import add_noise_option

_NAME = "Tiny ImageNet"
_WNID = re.compile(r"n\d{8}")
_ANNOTATIONS = "val_annotations.txt"
_LABELS = "labels.csv"


def list_train(raw: RawFiles, listing: Listing) -> None:
    """Adds what lies in train/<wnid>/, and as refused what the lists of boxes name beyond it."""
    folder = Folder(raw, "train")
    strange: list[str] = []
    for path, name in folder.names.items():
        wnid, *rest = path.split("/")
        if path == f"{wnid}/{wnid}_boxes.txt":
            lines, _ = lines_of(raw, name)
            images = [line.split("\t")[0] for line in lines]
            listing.items += [
                _item(folder, f"{wnid}/images/{image}", "train", wnid, f"{wnid}_boxes.txt")
                for image in images
                if f"{wnid}/images/{image}" not in folder.names and f"{wnid}/{image}" not in folder.names
            ]
        elif _WNID.fullmatch(wnid) and rest:
            listing.items.append(_item(folder, path, "train", wnid, ""))
        else:
            strange.append(name)
    listing.note(len(strange), "files of train/ that are in no folder of a WordNet id", strange)


def list_val(raw: RawFiles, listing: Listing) -> None:
    """Adds the validation images, by their folders or by the list that comes with them.

    Raises InputError where val/images/ comes without a list, or the list is damaged.
    """
    folder = Folder(raw, "val")
    by_folder = {path for path in folder.names if _WNID.fullmatch(path.split("/")[0]) and "/" in path}
    listing.items += [_item(folder, path, "val", path.split("/")[0], "") for path in sorted(by_folder)]
    by_list = {path for path in folder.names if path.startswith("images/")}
    if by_list:
        table, wnids = _val_labels(raw, listing)
        listing.items += [
            _item(folder, f"images/{image}", "val", wnid, table)
            for image, wnid in wnids.items()
            if f"images/{image}" in by_list or not by_folder
        ]
        rest = sorted(folder.names[path] for path in by_list if path.removeprefix("images/") not in wnids)
        listing.note(len(rest), f"files of val/ that {table} does not list", rest)
    if not by_list and not by_folder:
        listing.notes.append("no folder val/images, so no split val")


def _val_labels(raw: RawFiles, listing: Listing) -> tuple[str, dict[str, str]]:
    """The list that names the classes of the images in val/images, and the WordNet id by file name."""
    names = {name.rpartition("/")[2] for name in raw.names}
    wnids: dict[str, str] = {}
    if _ANNOTATIONS in names or _LABELS not in names:
        table = _ANNOTATIONS
        lines, digest = read_lines(raw, table, _NAME)
        rows = [(image, rest.partition("\t")[0]) for image, _, rest in (line.partition("\t") for line in lines)]
    else:
        table = _LABELS
        _, digest = read_lines(raw, table, _NAME)
        found = parse_csv(table_bytes(find_file(raw, table, _NAME), raw), table, ["path", "wnid"])
        paths = [(row["path"].split("/"), row["wnid"]) for row in found]
        rows = [(parts[-1], wnid) for parts, wnid in paths if parts[-3:-1] == ["val", "images"]]
    for image, wnid in rows:
        if not _WNID.fullmatch(wnid):
            raise InputError(f"{shown(raw.path)}: {table}: {wnid!r} of {image!r} is no WordNet id: download it again")
        if image in wnids:
            raise InputError(f"{shown(raw.path)}: {table}: lists {image!r} twice: download it again")
        wnids[image] = wnid
    listing.source[f"{table}_sha256"] = digest
    return table, wnids


def _item(folder: Folder, path: str, split: str, wnid: str, table: str) -> Item:
    return folder.item(path, split, wnid, key_of([wnid, path.rpartition("/")[2]]), table)


def list_tiny_imagenet(raw: RawFiles) -> Listing:
    """Everything that has a label.

    Raises InputError where there are no training images, or the WordNet ids of the parts do not fit together.
    """
    listing = Listing()
    list_train(raw, listing)
    trained = {item.category for item in listing.items}
    if not trained:
        raise InputError(
            f"{shown(raw.path)}: no train/<WordNet id>/ in it: name the zip, a tar or the folder of {_NAME}"
        )
    wanted, where = trained, "train/"
    if any(name.rpartition("/")[2] == "wnids.txt" for name in raw.names):
        lines, listing.source["wnids_sha256"] = read_lines(raw, "wnids.txt", _NAME)
        wanted, where = set(lines), "wnids.txt"
        if lone := sorted(wanted ^ trained):
            raise InputError(
                f"{shown(raw.path)}: train/ has {len(trained):,} classes, wnids.txt {len(wanted):,}; in one only: "
                f"{shortened(lone)}: unpack or download it again"
            )
    list_val(raw, listing)
    if strange := sorted({item.category for item in listing.items} - wanted):
        raise InputError(
            f"{shown(raw.path)}: val/ has classes that {where} lacks: {shortened(strange)}: take both from one"
        )
    listing.classes = sorted(wanted)
    unlabelled = sorted(Folder(raw, "test").names.values())
    listing.note(len(unlabelled), "files of test/, which are published without labels", unlabelled)
    return listing


def prepare(args: argparse.Namespace) -> None:
    """Writes train and val."""
    raw = RawFiles(args.raw, nested=True)
    source: dict[str, object] = {"script": "tiny_imagenet.py", "raw": raw.name}
    write_listing(
        args, raw, list_tiny_imagenet(raw), dataset=args.dataset, source=source, layout="train/<WordNet id>/images/"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_raw_options(parser, short_side=None)
    add_noise_option(parser)
    parser.add_argument(
        "--dataset", default="tiny_imagenet", metavar="NAME", help="name in its manifests (%(default)s)"
    )
    add_class_options(parser)
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
