"""The verb `en-bench data index URL`: its options and what it prints, without numpy."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence

from en_bench.data.manifest import GIVEN, SKIPPED_NAME
from en_bench.data.places import shown
from en_bench.duration import duration
from en_bench.errors import InputError

_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `index`."""
    parser.add_argument("--out", metavar="FOLDER", help="of the manifest (default: that of the tars)")
    parser.add_argument("--dataset", metavar="NAME", help="of the set (default: as tars or folder are called)")
    parser.add_argument(
        "--split", metavar="NAME", help="of the split (default: as tars or folder are called, or train)"
    )
    parser.add_argument(
        "--labels",
        default="auto",
        metavar="WHERE",
        help="cls, json, key, or another extension; auto, the default: the first of these three that samples have",
    )
    parser.add_argument("--field", metavar="NAME", help="of .json that holds the label, a.b within another (label)")
    parser.add_argument(
        "--pattern",
        metavar="REGEX",
        help="of keys, its group 1 is the class (default: their folder, else what stands before the first underscore)",
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=WHERE",
        help="a further label column, such as clean=json:clean_label; may be given several times",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="class names in the order of their numbers: one a line, or a CSV; columns source,target map labels",
    )
    parser.add_argument("--image", metavar="EXT", help="extension of the images (default: jpg, jpeg, png or webp)")
    parser.add_argument("--verify", action="store_true", help="decode every image, skip those that cannot be")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")


def run(args: argparse.Namespace, workers: int) -> int:
    """Makes the index and prints the closing line. Raises InputError."""
    labels, columns, image = _labels(args), _columns(args.column), _image(args.image)
    if args.out == "":
        raise InputError("--out is empty, as where a variable of the shell is not set: name a folder")
    for option, name in (("--dataset", args.dataset), ("--split", args.split)):
        if name is not None and not _NAME.fullmatch(name):
            raise InputError(f"{option} {name!r}: no name of a set: use letters, digits, '_', '-' and '.'")
    from en_bench.data.foreign_images import EXTENSIONS
    from en_bench.data.foreign_index import IndexOptions, index_tars
    from en_bench.data.progress import ScanProgress

    options = IndexOptions(
        out=args.out,
        dataset=args.dataset,
        split=args.split,
        labels=labels,
        columns=columns,
        classes=args.classes,
        images=EXTENSIONS if image is None else (image,),
        decode=args.verify,
        workers=workers,
    )
    began = time.monotonic()
    with ScanProgress("index") as progress:

        def advance(done: int, total: int, samples: int, size: int) -> None:
            progress.samples = samples
            progress(done, total, size)

        manifest = index_tars(args.url, options, advance)
    size = sum(shard.bytes for shard in manifest.shards)
    folder = shown(manifest.folder)
    print(
        f"{folder}: indexed {_counted(manifest.count, 'sample')} of {len(manifest.classes):,} "
        f"class{'' if len(manifest.classes) == 1 else 'es'} in {_counted(len(manifest.shards), 'shard')}, "
        f"{size / 1e6:,.1f} MB, in {duration(time.monotonic() - began)}; skipped {manifest.skipped:,}"
        + (f", see {folder}/{SKIPPED_NAME}" if manifest.skipped else "")
    )
    return 0


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _labels(args: argparse.Namespace) -> str:
    """Where labels stand, as LabelRule.parse takes it. --field and --pattern say that it is JSON, or the key."""
    where = str(args.labels)
    if args.field is not None and args.pattern is not None:
        raise InputError("--field is for labels in JSON, --pattern for those in keys: leave out one of them")
    for option, detail, source in (("--field", args.field, "json"), ("--pattern", args.pattern, "key")):
        if detail is None:
            continue
        fits = where in ("auto", source) or (source == "json" and where.endswith(".json"))
        if not detail or not fits:
            raise InputError(f"{option} {detail!r}: goes with --labels {source}: leave out one of them")
        return f"{source if where == 'auto' else where}:{detail}"
    return where


def _columns(given: Sequence[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for text in given:
        name, equals, where = text.partition("=")
        if not equals or not where or not _COLUMN.fullmatch(name):
            raise InputError(f"--column {text!r}: write NAME=WHERE, such as clean=json:clean_label")
        if name in columns or name == GIVEN:
            cure = "--labels says where it stands" if name == GIVEN else "give it once"
            raise InputError(f"--column {text!r}: column {name!r} is there already: {cure}")
        columns[name] = where
    return columns


def _image(extension: str | None) -> str | None:
    if extension is None:
        return None
    extension = extension.removeprefix(".").lower()
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", extension):
        raise InputError(f"--image {extension!r}: no extension: write jpg, or image.png")
    return extension
