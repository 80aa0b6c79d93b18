"""Which classes the samples of a listing get: class maps, class lists, and the writing that both lead to."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace

from data_scripts.layouts.listing import Listing, note_uneven_classes, splits_of, tell_apart
from en_bench.data.archives import RawFiles
from en_bench.data.classes import ClassMap, read_class_list, read_class_map
from en_bench.data.places import shown
from en_bench.data.prepare import image_encoder, shortened, write_splits
from en_bench.errors import InputError


def add_class_options(parser: argparse.ArgumentParser) -> None:
    """Adds --class-map and --class-list."""
    parser.add_argument(
        "--class-map",
        metavar="CSV",
        help="columns source,target: the classes to keep, and what they are called; several may become one",
    )
    parser.add_argument(
        "--class-list",
        metavar="CSV",
        help="its first column names all classes in the order of their labels, also those without a file here: "
        "for a set to validate networks of more classes on",
    )


def apply_class_map(listing: Listing, class_map: ClassMap) -> None:
    """Renames the classes of the listing and drops those that the map lacks."""
    mapping, table = class_map.mapping, class_map.name
    found = Counter(item.category for item in listing.items)
    dropped = sorted(found.keys() - mapping.keys())
    listing.items = [
        replace(item, category=mapping[item.category]) for item in listing.items if item.category in mapping
    ]
    listing.classes = list(class_map.classes)
    count = sum(found[category] for category in dropped)
    listing.note(count, f"files of {len(dropped)} classes that {table} does not map", dropped)
    absent = sorted(mapping.keys() - found.keys())
    listing.note(len(absent), f"classes of {table} that have no files", absent)


def write_listing(
    args: argparse.Namespace, raw: RawFiles, listing: Listing, *, dataset: str, source: dict[str, object], layout: str
) -> None:
    """Writes every split of a listing, with the classes that --class-map and --class-list ask for.

    Args:
        args: what a parser with the options of `make_parser`, `add_raw_options` and `add_class_options` returned.
        raw: the raw files.
        listing: what a layout found in them.
        dataset: name for the manifests.
        source: provenance; that of the listing and of the classes is added.
        layout: in words, where images were looked for.
    """
    source = {**source, **listing.source}
    tell_apart(listing)
    if args.class_map:
        class_map = read_class_map(args.class_map, raw)
        apply_class_map(listing, class_map)
        source["class_map"] = class_map.describe()
    found = {item.category for item in listing.items if not item.refusal}
    if not found:
        left_out = f" ({'; '.join(listing.notes)})" if listing.notes else ""
        raise InputError(f"{shown(raw.path)}: no images in {layout}{left_out}: correct --raw, --layout or --class-map")
    classes = listing.classes or sorted(found)
    if args.class_list:
        classes, source["class_list"] = read_class_list(args.class_list, raw)
        strange = sorted(found - set(classes))
        if strange:
            raise InputError(
                f"{args.class_list}: does not name {len(strange)} of the {len(found)} classes found in "
                f"{shown(raw.path)} ({shortened(strange)}): map them with --class-map, or name another list"
            )
    splits = splits_of(listing, raw, classes)
    note_uneven_classes(listing)
    empty = [name for name in classes if name not in found]
    if empty:
        listing.notes.append(f"{len(empty):,} of them have no image here: {shortened(empty)}")
    write_splits(
        args,
        splits,
        dataset=dataset,
        classes=classes,
        source=source,
        encode=image_encoder(args),
        notes=[f"{len(classes):,} classes: {shortened(classes)}" + "".join(f"; {note}" for note in listing.notes)],
    )
