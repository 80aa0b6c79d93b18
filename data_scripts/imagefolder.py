r"""Prepares any folder or tar of `<split>/<class>/<file>` images, or of images that a CSV lists.

    python data_scripts/imagefolder.py --raw cifar10.tar.xz --out data/cifar7 --dataset cifar7 \
        --class-map seven.csv --split-map test=val
    python data_scripts/imagefolder.py --raw tiny.tar.xz --out data/tiny7 --dataset tiny7 --short-side 32 \
        --csv labels.csv --csv-columns class=cifar10_class

Each split becomes DIR/<split>. Classes are sorted by name and the same in all splits. Only `given` labels are known.
"""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from en_bench.data.archives import RawFiles
from en_bench.data.classes import ClassMap, read_class_map
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
from en_bench.data.tables import parse_csv, table_bytes
from en_bench.errors import InputError

_CSV_COLUMNS = ("path", "class", "split")
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}


@dataclass(frozen=True)
class Item:
    """One file with its place in the data set. `refusal` says why it cannot be read, empty if it can."""

    name: str
    split: str
    category: str
    key: str
    refusal: str = ""


@dataclass
class Listing:
    """What was found, and in words what was left out."""

    items: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, count: int, what: str, names: Iterable[str] = ()) -> None:
        if count:
            first = next(iter(names), None)
            self.notes.append(f"left out {count:,} {what}" + (f" (first: {first!r})" if first is not None else ""))


def list_tree(raw: RawFiles, split_map: dict[str, str]) -> Listing:
    """Places files by their path, `<split>/<class>/...`; a common folder above the splits is passed over.

    Raises InputError where a class is named like a split and its split is not, and where nothing tells whether the
    only top-level folder is a split or a folder above the splits.
    """
    paths = {name: PurePosixPath(name).parts for name in raw.names}
    reasons = dict(raw.refused)
    refused = {name: tuple(p for p in PurePosixPath(name).parts if p not in ("/", "..")) for name in reasons}

    def is_split(part: str) -> bool:
        return part in split_map or part.lower() in _SPLIT_NAMES

    deep = [(name, parts) for name, parts in paths.items() if len(parts) > 2]
    misplaced = [(name, parts) for name, parts in deep if is_split(parts[1]) and not is_split(parts[0])]
    single = len({parts[0] for _, parts in deep}) == 1
    wrapped = single and any(len(parts) > 3 for _, parts in misplaced)
    if misplaced and not wrapped:
        name, parts = misplaced[0]
        raise InputError(
            f"{raw.path}: {name!r} would be of split {parts[0]!r} and class {parts[1]!r}, which is named like a split: "
            f"--raw must hold <split>/<class>/<file>; if {parts[0]!r} is a split, use --split-map {parts[0]}=NAME"
        )
    if single and not wrapped and not is_split(deep[0][1][0]) and any(len(parts) > 3 for _, parts in deep):
        top = deep[0][1][0]
        raise InputError(
            f"{raw.path}: {top!r} may be a split or a folder above the splits: use --split-map {top}=NAME if it is a "
            "split, else --split-map FOLDER=NAME for the splits in it, or name the folder that holds them with --raw"
        )
    listing, outside = Listing(), []
    for name, parts in [*paths.items(), *refused.items()]:
        parts = parts[1:] if wrapped else parts
        if len(parts) < 3:
            outside.append(name)
            continue
        key = _key(parts[1:])
        listing.items.append(Item(name, split_map.get(parts[0], parts[0]), parts[1], key, reasons.get(name, "")))
    listing.note(len(outside), "files that are not in <split>/<class>/", outside)
    return listing


def list_table(raw: RawFiles, table: str, columns: dict[str, str], split_map: dict[str, str]) -> Listing:
    """Places the files that a CSV names."""
    rows = parse_csv(table_bytes(table, raw), table, list(columns.values()))
    known, reasons = set(raw.names), dict(raw.refused)
    listing = Listing()
    listed = set()
    for row in rows:
        name = str(PurePosixPath(row[columns["path"]]))
        split = row[columns["split"]]
        refusal = reasons.get(name, "" if name in known else f"listed in {table}, not in {raw.path.name}")
        key = _key(PurePosixPath(name).parts)
        listing.items.append(Item(name, split_map.get(split, split), row[columns["class"]], key, refusal))
        listed.add(name)
    others = sorted((known | set(reasons)) - listed - {table})
    listing.note(len(others), f"files that {table} does not list", others)
    return listing


def tell_apart(listing: Listing) -> None:
    """Adds the extension to the keys of files that differ in nothing else: `a_jpg` and `a_png`."""
    longer = [item.key + PurePosixPath(item.name).suffix.replace(".", "_") for item in listing.items]
    while True:
        uses = Counter((item.split, item.key) for item in listing.items)
        changed = False
        for position, item in enumerate(listing.items):
            if uses[item.split, item.key] > 1 and item.key != longer[position]:
                listing.items[position] = replace(item, key=longer[position])
                changed = True
        if not changed:  # a longer key may meet another file's, which then becomes longer too
            return


def note_uneven_classes(listing: Listing) -> None:
    """Says which classes occur in some of the splits only. Subsets may be so; misread folders are."""
    splits: dict[str, set[str]] = {}
    for item in listing.items:
        if not item.refusal:
            splits.setdefault(item.category, set()).add(item.split)
    every = set().union(*splits.values())
    groups: dict[tuple[str, ...], list[str]] = {}
    for category in sorted(splits):
        if splits[category] != every:
            groups.setdefault(tuple(sorted(splits[category])), []).append(category)
    for where, names in sorted(groups.items()):
        listing.notes.append(f"{len(names):,} classes occur in {' and '.join(where)} only: {shortened(names)}")


def apply_class_map(listing: Listing, class_map: ClassMap) -> None:
    """Renames the classes of the listing and drops those that the map lacks."""
    mapping, table = class_map.mapping, class_map.name
    found = Counter(item.category for item in listing.items)
    dropped = sorted(found.keys() - mapping.keys())
    listing.items = [
        replace(item, category=mapping[item.category]) for item in listing.items if item.category in mapping
    ]
    count = sum(found[category] for category in dropped)
    listing.note(count, f"files of {len(dropped)} classes that {table} does not map", dropped)
    absent = sorted(mapping.keys() - found.keys())
    listing.note(len(absent), f"classes of {table} that have no files", absent)


def parse_pairs(text: str, option: str) -> dict[str, str]:
    """Reads "old=new,old=new"."""
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value) or name in pairs:
            raise InputError(f"{option} {text!r}: write it as name=value,name=value with each name once")
        pairs[name] = value
    return pairs


def prepare(args: argparse.Namespace) -> None:
    """Writes every split that the raw files hold."""
    split_map = parse_pairs(args.split_map, "--split-map") if args.split_map else {}
    raw = RawFiles(args.raw)
    source: dict[str, object] = {
        "script": "imagefolder.py",
        "raw": raw.path.resolve().name,
        "split_map": split_map,
    }
    if args.csv:
        renamed = parse_pairs(args.csv_columns, "--csv-columns") if args.csv_columns else {}
        columns = {name: name for name in _CSV_COLUMNS} | renamed
        if set(columns) != set(_CSV_COLUMNS):
            raise InputError(f"--csv-columns {args.csv_columns}: only path, class and split can be called otherwise")
        listing = list_table(raw, args.csv, columns, split_map)
        source |= {"csv_sha256": hashlib.sha256(table_bytes(args.csv, raw)).hexdigest(), "csv_columns": columns}
    else:
        listing = list_tree(raw, split_map)
    tell_apart(listing)
    classes = sorted({item.category for item in listing.items if not item.refusal})
    if args.class_map:
        class_map = read_class_map(args.class_map, raw)
        apply_class_map(listing, class_map)
        classes = list(class_map.classes)
        source["class_map"] = class_map.describe()
    readable = {item.split for item in listing.items if not item.refusal}
    if not readable:
        left_out = f" ({'; '.join(listing.notes)})" if listing.notes else ""
        raise InputError(f"{raw.path}: no images in <split>/<class>/{left_out}: correct --raw, or use --csv")
    strays = [item.name for item in listing.items if item.split not in readable]
    listing.note(len(strays), "files of splits in which nothing can be read", strays)
    note_uneven_classes(listing)
    number = {name: position for position, name in enumerate(classes)}
    splits = []
    for split in sorted(readable):
        items = [item for item in listing.items if item.split == split]
        samples = [
            Source(item.key, {"given": number[item.category]}, raw.source(item.name), item.name)
            for item in items
            if not item.refusal
        ]
        splits.append(Split(split, samples, [Skipped(i.key, i.name, i.refusal) for i in items if i.refusal]))
    write_splits(
        args,
        splits,
        dataset=args.dataset,
        classes=classes,
        source=source,
        encode=image_encoder(args),
        notes=[f"{len(classes)} classes: {shortened(classes)}" + "".join(f"; {note}" for note in listing.notes)],
    )


def _key(parts: Sequence[str]) -> str:
    """Path without its extension; further dots of the file's name would look like extensions to readers of shards."""
    *folders, file = parts
    return "/".join([*folders, file.rpartition(".")[0].replace(".", "_") or file])


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_raw_options(parser)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="name of the data set in its manifests")
    places = parser.add_mutually_exclusive_group()
    places.add_argument(
        "--csv", metavar="FILE", help="names path, class and split of each file; on disk or within --raw"
    )
    places.add_argument("--class-map", metavar="FILE", help="CSV source,target of the classes to keep")
    parser.add_argument(
        "--csv-columns",
        default="",
        metavar="PAIRS",
        help="what --csv calls its columns path, class and split, for example class=label",
    )
    parser.add_argument("--split-map", metavar="PAIRS", help="splits to rename, for example test=val")
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
