r"""Prepares ImageNet (ILSVRC 2012, 1,000 classes) from its published archives, packed or extracted.

    python data_scripts/imagenet.py --raw ILSVRC2012 --out data/imagenet --short-side 352 --quality 90
    python data_scripts/imagenet.py --raw ILSVRC2012 --out data/imagenet_mini \
        --class-map data_scripts/classes/webvision_mini.csv

--raw is a folder with any of these, at any depth, or one of the tars:

- `ILSVRC2012_img_train.tar`, a tar of 1,000 tars `n01440764.tar` with `n01440764_18.JPEG`; or `train/<wnid>/*.JPEG`, or
  the class tars alone, or some of them;
- `ILSVRC2012_img_val.tar` with `ILSVRC2012_val_00000001.JPEG`, or a folder of these, beside the development kit
  `ILSVRC2012_devkit_t12.tar.gz` (its `data/meta.mat` and `data/ILSVRC2012_validation_ground_truth.txt`) or beside
  Kaggle's `LOC_val_solution.csv`;
- `val/<wnid>/ILSVRC2012_val_00000001.JPEG`, sorted already, which needs no development kit;
- Kaggle's `ILSVRC/Data/CLS-LOC/{train,val}`.

They become DIR/train and DIR/val. A label is the place of the class's WordNet id among the sorted 1,000, the order of
torchvision and timm; not the ILSVRC2012_ID of the development kit. The class of a training image is that of its name
and its folder, which must agree; that of a validation image is told by the number in its name or by its folder. The
unlabelled test images are left out. The images may be used for non-commercial research, under ImageNet's own terms.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_scripts.layouts.imagenet_files import PUBLISHED, SPLITS, Image, list_images, without_copies
from data_scripts.layouts.imagenet_labels import (
    Companions,
    Synsets,
    label_val,
    read_devkit,
    read_solution,
    read_synsets,
)
from data_scripts.layouts.wordnet import imagenet_classes
from en_bench.data.archives import RawFiles
from en_bench.data.classes import ClassMap, read_class_map
from en_bench.data.places import shown
from en_bench.data.prepare import (
    Split,
    add_raw_options,
    image_encoder,
    make_parser,
    run_script,
    shortened,
    write_splits,
)
from en_bench.data.sources import Skipped, Source
from en_bench.errors import InputError
from en_bench.noise.preparing import add_noise_option

VAL_PER_CLASS = 50


@dataclass(frozen=True)
class Labelled:
    """A split on its way: its images with their classes, what cannot be used, provenance, and what is to be said."""

    name: str
    images: Sequence[Image]
    skipped: Sequence[Skipped]
    source: Mapping[str, Any]
    notes: Sequence[str]


def completeness(split: str, images: Sequence[Image], published: Mapping[str, int]) -> str:
    """In words how much of the published split is there. `published`: images by class, as far as known."""
    found = Counter(image.wnid for image in images)
    empty = [wnid for wnid in imagenet_classes() if wnid not in found]
    short = [wnid for wnid in sorted(found) if found[wnid] < published.get(wnid, 0)]
    missing = PUBLISHED[split] - len(images)
    words = [f"{split}: {len(images):,} images of {len(found):,} of 1,000 classes"]
    if missing > 0:
        words.append(f"{missing:,} of the published {PUBLISHED[split]:,} are missing")
    elif missing < 0:
        words.append(f"{-missing:,} more than the published {PUBLISHED[split]:,}")
    if empty:
        words.append(f"{len(empty):,} classes have none: {shortened(empty)}")
    if short:
        first = f"{short[0]}, {found[short[0]]:,} of {published[short[0]]:,}"
        words.append(f"{len(short):,} classes have fewer than were published (first: {first})")
    return "; ".join([*words, "complete"] if len(words) == 1 else words)


def labels_by_wnid(class_map: ClassMap | None) -> tuple[Sequence[str], dict[str, dict[str, int]]]:
    """Classes of the set, and by WordNet id the labels that all images of a class share."""
    known = imagenet_classes()
    if class_map is None:
        return known, {wnid: {"given": number} for number, wnid in enumerate(known)}
    strange = [wnid for wnid in class_map.mapping if wnid not in set(known)]
    if strange:
        raise InputError(
            f"{class_map.name}: its sources {shortened(strange)} are none of ImageNet's 1,000 WordNet ids: correct them"
        )
    number = {name: position for position, name in enumerate(class_map.classes)}
    return class_map.classes, {wnid: {"given": number[name]} for wnid, name in class_map.mapping.items()}


def parse_splits(text: str | None) -> tuple[str, ...]:
    """The splits asked for; none where the option is not given."""
    names = tuple(text.split(",")) if text is not None else ()
    if len(set(names)) != len(names) or not set(names) <= set(SPLITS):
        raise InputError(f"--splits {text}: write train, val or train,val")
    return names


def find_splits(raw: RawFiles, asked: Sequence[str]) -> list[Labelled]:
    """The splits that are there, or those asked for, each with what must be said of it.

    Raises InputError where one that is asked for has no images, and where validation images have no labels.
    """
    listing = list_images(raw)
    companions = Companions.among(raw, listing.others)
    synsets = read_synsets(companions)
    found: list[Labelled] = []
    general = listing.notes()
    for split in asked or SPLITS:
        chosen, copies, note = without_copies(listing.images[split])
        skipped = [*sorted(listing.skipped[split], key=lambda item: item.origin), *copies]
        if chosen:
            images, source = label(split, chosen, companions, synsets)
            per_class = synsets.train_images if synsets is not None else {}
            if split == "val":
                per_class = dict.fromkeys(imagenet_classes(), VAL_PER_CLASS)
            notes = [completeness(split, images, per_class), *([note] if note else [])]
            found.append(Labelled(split, images, skipped, source, notes))
        elif asked:
            reason = f" (of {len(skipped):,} files none can be used, first {_why(skipped[0])})" if skipped else ""
            raise InputError(f"{shown(raw.path)}: no images of {split}{reason}: correct --raw or --splits")
        elif skipped:
            general.append(f"left out {len(skipped):,} files of {split}, none can be used (first: {_why(skipped[0])})")
        else:
            general.append(f"no {split}: none of its images is there")
    if not found:
        raise InputError(
            f"{shown(raw.path)}: no images named like those of ILSVRC 2012 (n01440764_18.JPEG, "
            f"ILSVRC2012_val_00000001.JPEG){''.join(f'; {note}' for note in general)}: "
            "name their folder or tar with --raw"
        )
    found[-1] = replace(found[-1], notes=[*found[-1].notes, *general])
    return found


def label(
    split: str, images: Sequence[Image], companions: Companions, synsets: Synsets | None
) -> tuple[Sequence[Image], dict[str, Any]]:
    """The images with their classes, and where these are from, for the manifest."""
    if split == "train":
        return images, {}
    tables = [t for t in (read_devkit(companions, synsets, len(images)), read_solution(companions)) if t is not None]
    folders = any(image.wnid for image in images)
    sha256 = {name: digest for table in tables for name, digest in table.sha256.items()}
    told_by = [*(["class folders"] if folders else []), *(table.name for table in tables)]
    return label_val(images, tables, companions), {"labels": {"from": told_by, "sha256": sha256}}


def _why(skipped: Skipped) -> str:
    return f"{skipped.origin!r}: {skipped.reason}"


def prepare(args: argparse.Namespace) -> None:
    """Writes the splits that are there, or those asked for."""
    asked = parse_splits(args.splits)
    raw = RawFiles(args.raw, nested=True)
    class_map = read_class_map(args.class_map, raw) if args.class_map else None
    classes, labels = labels_by_wnid(class_map)
    common: dict[str, Any] = {"script": "imagenet.py", "raw": raw.name}
    if class_map is not None:
        common["class_map"] = class_map.describe()
    found = find_splits(raw, asked)
    for split in found:
        if not any(image.wnid in labels for image in split.images):
            raise InputError(f"{args.class_map}: keeps no image of {split.name}: add its classes, or use --splits")
    splits: list[Split] = []
    notes: list[str] = []
    for split in found:
        samples = [
            Source(image.key, labels[image.wnid], raw.source(image.name), image.name)
            for image in split.images
            if image.wnid in labels
        ]
        notes += split.notes
        if len(samples) < len(split.images):
            notes.append(f"left out {len(split.images) - len(samples):,} images of classes that {args.class_map} lacks")
        # Each with its own provenance: training images do not become others because a development kit joins them.
        splits.append(Split(split.name, samples, split.skipped, source=split.source))
    write_splits(
        args,
        splits,
        dataset="imagenet",
        classes=classes,
        source=common,
        encode=image_encoder(args),
        notes=notes,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_raw_options(parser)
    add_noise_option(parser)
    parser.add_argument("--splits", metavar="NAMES", help="train, val or train,val (default: those that are there)")
    parser.add_argument("--class-map", metavar="FILE", help="CSV source,target of the WordNet ids to keep or to merge")
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
