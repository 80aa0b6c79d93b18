r"""Prepares WebVision 1.0: images that Google and Flickr return for ImageNet's 1,000 classes, with their noisy labels.

    python data_scripts/webvision.py --raw webvision --out data/webvision
    python data_scripts/webvision.py --raw webvision --out data/webvision_mini --mini

--raw is a folder with what was published, tars or extracted, in any folders:

    info.tar                  info/*.txt: synsets, queries_synsets_map, train_filelist_{google,flickr}, val_filelist
    google_resized_256.tar    google/q0001/NAME.jpg: 980,449 images, shorter side 256; or the originals, in several tars
    flickr_resized_256.tar    flickr/q0001/NAME.jpg: 1,459,125 images, the same
    val_images_256.tar        val_images_256/val000001.jpg: 50,000 images, labelled by people; or val_images, originals

A line of a list is `google/q0001/NAME.jpg 0`: the label counts the lines of synsets.txt, from 0. These are the WordNet
ids of ImageNet, so classes and their order are those of imagenet.py. A training label must be one that
queries_synsets_map.txt (`QUERY SYNSET`, both from 1) gives to the image's query folder, or the script stops. What the
lists name becomes DIR/train and DIR/val.

--mini is WebVision-mini: 65,944 of Google's images and 2,500 for validation, of the first 50 lines of synsets.txt. They
must be the ids of classes/webvision_mini.csv, ImageNet's first 50 in sorted order, which as --class-map of imagenet.py
makes the other validation set of that benchmark. WebVision 2.0 (5,000 other classes) is refused.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_scripts.layouts.webvision_images import VALIDATION, Images, find_images
from data_scripts.layouts.webvision_lists import (
    TRAIN_LIST,
    VAL_LIST,
    Info,
    read_queries,
    read_synsets,
    read_train_list,
    read_val_list,
)
from data_scripts.layouts.wordnet import imagenet_classes
from en_bench.data.archives import RawFiles
from en_bench.data.classes import ClassMap, read_class_map
from en_bench.data.prepare import Split, add_raw_options, image_encoder, make_parser, run_script, write_splits
from en_bench.data.sources import Skipped, Source
from en_bench.errors import InputError
from en_bench.noise.preparing import add_noise_option

SOURCES = ("google", "flickr")
SPLITS = ("train", "val")
MINI = Path(__file__).parent / "classes" / "webvision_mini.csv"
_RESOLUTIONS = {"resized": "shorter side 256 px", "original": "as crawled"}


@dataclass
class Listing:
    """Samples of one split, what it lacks, and in words what was left out."""

    samples: list[Source] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        entries: Iterator[tuple[int, str, int]],
        images: Images,
        labels: Sequence[dict[str, int] | None],
    ) -> None:
        """Takes in the images that a list names.

        Args:
            name: of the list.
            entries: its line numbers, paths and labels.
            images: those of one source. Its files are used up.
            labels: label columns by label of the list, None for what is left out.
        """
        missing = left_out = 0
        used: set[str] = set()
        for number, path, label in entries:
            raw_file = images.files.pop(path, None)
            columns = labels[label]
            if columns is None:
                left_out += 1
                continue
            key = path.rpartition(".")[0].replace(".", "_") or path
            if path in images.refused:
                self.skipped.append(Skipped(key, path, images.refused.pop(path)))
            elif raw_file is None and path not in used:
                missing += 1
                self.skipped.append(Skipped(key, path, f"listed in {name}, not among the images"))
            elif raw_file is None:
                self.skipped.append(Skipped(key, path, f"listed again in line {number} of {name}, as label {label}"))
            if raw_file is not None:
                used.add(path)
                self.samples.append(Source(key, columns, images.raw.source(raw_file), path))
        self._note(left_out, f"images of {name} left out with their classes")
        self._note(missing, f"images of {name} are not there")
        self._note(len(images.files), f"{images.group} images that {name} does not name", images.files)
        self._note(images.repeated, f"{images.group} images are there more than once, and used once")

    def _note(self, count: int, what: str, names: dict[str, str] | None = None) -> None:
        if count:
            self.notes.append(f"{count:,} {what}" + (f" (first: {next(iter(names))!r})" if names else ""))


def class_map_of(args: argparse.Namespace, raw: RawFiles, synsets: Sequence[str]) -> ClassMap | None:
    """The class map that --mini or --class-map ask for, checked against the WordNet ids."""
    if not (args.mini or args.class_map):
        return None
    class_map = read_class_map(str(MINI) if args.mini else args.class_map, raw)
    if args.mini and set(class_map.mapping) != set(synsets[: len(class_map.mapping)]):
        raise InputError(f"synsets.txt: its first 50 WordNet ids are not those of {MINI.name}: unpack info.tar again")
    strange = sorted(class_map.mapping.keys() - set(synsets))
    if strange:
        raise InputError(
            f"{args.class_map}: source {strange[0]!r} is none of WebVision's 1,000 WordNet ids: correct it"
        )
    return class_map


def prepare(args: argparse.Namespace) -> None:
    """Writes the splits that are asked for."""
    if args.mini and args.sources not in (None, ["google"]):
        raise InputError(
            f"--mini holds Google's images only: leave --sources {','.join(args.sources)} out, "
            f"or use --class-map {MINI.name} in place of --mini"
        )
    sources = args.sources or (["google"] if args.mini else list(SOURCES))
    raw = RawFiles(args.raw, nested=True)
    info = Info(raw)
    synsets = read_synsets(info)
    class_map = class_map_of(args, raw, synsets)
    classes = class_map.classes if class_map else imagenet_classes()
    number = {name: position for position, name in enumerate(classes)}
    targets = class_map.mapping if class_map else {synset: synset for synset in synsets}
    # One dict per class, shared by its samples: there are millions.
    labels = [{"given": number[targets[synset]]} if synset in targets else None for synset in synsets]
    groups = [*(sources if "train" in args.splits else []), *([VALIDATION] if "val" in args.splits else [])]
    variant, images = find_images(raw, groups, args.variant)

    described: dict[str, Any] = {
        "script": "webvision.py",
        "raw": raw.name,
        "version": "1.0",
        "variant": variant,
        "resolution": _RESOLUTIONS[variant],
        "mini": args.mini,
        "class_map": class_map.describe() if class_map else None,
    }
    listings = {}
    if "train" in args.splits:
        train = Listing()
        queries = read_queries(info, len(synsets))
        for source in sources:
            entries = read_train_list(info, source, synsets, queries)
            train.add(TRAIN_LIST.format(source), entries, images[source], labels)
        files = ["synsets.txt", "queries_synsets_map.txt", *map(TRAIN_LIST.format, sources)]
        listings["train"] = train, {"sources": sources, "lists": info.hashes(*files)}
    if "val" in args.splits:
        val = Listing()
        val.add(VAL_LIST, read_val_list(info, len(synsets)), images[VALIDATION], labels)
        listings["val"] = val, {"lists": info.hashes("synsets.txt", VAL_LIST)}
    where = f" of {' and '.join(sources)}"
    write_splits(
        args,
        # Each split has its own provenance, so that it does not depend on which others are made with it.
        [Split(split, listing.samples, listing.skipped, source=own) for split, (listing, own) in listings.items()],
        dataset="webvision_mini" if args.mini else "webvision",
        classes=classes,
        source=described,
        encode=image_encoder(args),
        notes=[
            "; ".join([f"{split}: {variant} images{where if split == 'train' else ''}", *listing.notes])
            for split, (listing, _) in listings.items()
        ],
    )


def _choices(text: str, known: Sequence[str]) -> list[str]:
    """Reads "google,flickr"; in the order of `known`."""
    chosen = [part.strip() for part in text.split(",")]
    if not set(chosen) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(known)}, with commas between")
    return [name for name in known if name in chosen]


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_raw_options(parser)
    add_noise_option(parser)
    parser.add_argument(
        "--sources",
        type=partial(_choices, known=SOURCES),
        metavar="LIST",
        help="of training images: google,flickr, the default, or one of them (--mini: google)",
    )
    parser.add_argument(
        "--splits", type=partial(_choices, known=SPLITS), default=list(SPLITS), metavar="LIST", help="train,val (both)"
    )
    parser.add_argument("--variant", choices=list(_RESOLUTIONS), help="which images, where both are there")
    subset = parser.add_mutually_exclusive_group()
    subset.add_argument("--mini", action="store_true", help="WebVision-mini: the first 50 classes, Google's images")
    subset.add_argument("--class-map", metavar="FILE", help="CSV source,target of the WordNet ids to keep")
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
