"""What is to be measured of the stream, from the flags."""

from __future__ import annotations

import argparse
import difflib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from en_bench.benchmark.data_recipe import Recipe
from en_bench.benchmark.verbs import DATA_SECTIONS
from en_bench.data.manifest import Manifest, load_manifest
from en_bench.data.reader import ShardReader
from en_bench.data.targets import labelled_rows
from en_bench.errors import InputError, message_of

REPEATS, SECONDS, BATCH = 5, 1.0, 128
NORM = "bn"
SAMPLES = {False: 3_000, True: 50_000}  # by whether images are small
EPOCHS = 20  # over which memory is watched
_SMALL = 64  # pixels: images that are no larger, and all of one size, are shifted and not resized
_LOOKED_AT = 32  # images from which that is told
_QUICK = {"samples": 96, "repeats": 1, "seconds": 0.01, "batch": 16, "epochs": 4}


@dataclass(frozen=True)
class Settings:
    """What is measured, on what.

    Attributes:
        sections: names, in the order in which they are measured.
        shards: the split; None where only synthetic ones are measured.
        original: a split of the same images with their original files, for the standard recipe; None: the same split.
        recipe: of the augmentation.
        samples: images of a reading, drawn from a split or repeated.
        batch, workers: of the loaders.
        repeats: readings of which a median is taken.
        seconds: that a reading of warm epochs lasts at least.
        epochs: over which memory is watched.
        model: timm's name of the network whose training is watched, or None.
        norm: of its layers: "bn", "en", ...
        training_workers: numbers of loading processes for it.
        scratch: folder for what is written meanwhile; None: the system's.
        quick: too little of everything for a verdict.
    """

    sections: tuple[str, ...]
    shards: Path | None
    original: Path | None
    recipe: Recipe
    samples: int
    batch: int
    workers: tuple[int, ...]
    repeats: int
    seconds: float
    epochs: int
    model: str | None
    norm: str
    training_workers: tuple[int, ...]
    scratch: Path | None
    quick: bool

    def facts(self) -> dict[str, Any]:
        """For the record."""
        return {
            "recipe": self.recipe.describe(),
            "padded": self.recipe.padded,
            "size": self.recipe.size,
            "samples": self.samples,
            "batch": self.batch,
            "workers": self.workers,
            "repeats": self.repeats,
            "seconds": self.seconds,
            "epochs": self.epochs,
            "model": self.model,
            "norm": self.norm,
        }


def settings_of(args: argparse.Namespace) -> Settings:
    """Raises InputError for what cannot be measured."""
    sections = _sections(args)
    if args.shards is None and sections != ("scale",):
        raise InputError("no split was given: name the folder of a prepared split, or use --sections scale")
    for flag, value in (("--samples", args.samples), ("--repeats", args.repeats), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{flag} {value} is too small: use 1 or more")
    if args.seconds is not None and not 0 < args.seconds < float("inf"):
        raise InputError(f"--seconds {args.seconds:g} is no time: give seconds above 0")
    if args.scratch is not None and not args.scratch.is_dir():
        raise InputError(f"--scratch {args.scratch} is no folder: give one with room for the images several times over")
    if args.train is not None:
        _check_model(args.train, args.norm or NORM)
    else:
        for flag, value in (("--norm", args.norm), ("--train-workers", args.train_workers)):
            if value is not None:
                raise InputError(f"{flag} {value} is of a training: name its network with --train MODEL")
    recipe = _recipe(args)
    batch = args.batch_size or (_QUICK["batch"] if args.quick else BATCH)
    samples = args.samples or (_QUICK["samples"] if args.quick else SAMPLES[recipe.padded])
    if samples < 4 * batch:
        raise InputError(f"--samples {samples} are less than four batches of {batch}: use more, or --batch-size")
    return Settings(
        sections=sections,
        shards=args.shards,
        original=args.original,
        recipe=recipe,
        samples=int(samples),
        batch=int(batch),
        workers=_workers("--workers", args.workers) or (0, 1, 2),
        repeats=int(args.repeats or (_QUICK["repeats"] if args.quick else REPEATS)),
        seconds=args.seconds or (_QUICK["seconds"] if args.quick else SECONDS),
        epochs=int(_QUICK["epochs"] if args.quick else EPOCHS),
        model=args.train,
        norm=args.norm or NORM,
        training_workers=_workers("--train-workers", args.train_workers) or (_cores(),),
        scratch=args.scratch,
        quick=args.quick,
    )


def open_split(folder: Path) -> Manifest:
    """The manifest of a split whose images and labels can be read. Raises InputError."""
    manifest = load_manifest(folder)
    manifest.check_shards()
    labelled_rows(manifest, manifest.load_index(), "given")
    return manifest


def _sections(args: argparse.Namespace) -> tuple[str, ...]:
    chosen = tuple(DATA_SECTIONS)
    if args.sections is not None:
        chosen = tuple(dict.fromkeys(part.strip() for part in args.sections.split(",")))
        for name in chosen:
            if name not in DATA_SECTIONS:
                raise InputError(f"--sections {args.sections}: there is no {name!r}, only {', '.join(DATA_SECTIONS)}")
    return (*chosen, *(["peers"] if args.peers else []), *(["training"] if args.train is not None else []))


def _recipe(args: argparse.Namespace) -> Recipe:
    if args.size is not None and args.size < 8:
        raise InputError(f"--size {args.size} is too small for a crop: use 8 or more pixels")
    if args.shards is None:
        return Recipe(args.size or 224, padded=False)
    sizes = _sizes(open_split(args.shards))
    if args.original is not None:
        open_split(args.original)
    (width, height) = max(sizes)
    small = len(sizes) == 1 and width == height <= _SMALL
    return Recipe(args.size or (width if small else 224), padded=small and args.size in (None, width))


def _sizes(manifest: Manifest) -> set[tuple[int, int]]:
    """Width and height of some images, drawn evenly."""
    index = manifest.load_index()
    found = set()
    with ShardReader(manifest, index) as reader:
        for row in range(0, len(index), max(1, len(index) // _LOOKED_AT)):
            try:
                with Image.open(io.BytesIO(reader.read(row))) as image:
                    found.add(image.size)
            except OSError as error:
                raise InputError(f"{reader.where(row)} is no image: {message_of(error)}") from None
    return found


def _check_model(model: str, norm: str) -> None:
    import timm  # this and the next take long to import

    from en_bench.norms_table import chosen

    if not timm.is_model(model):
        close = difflib.get_close_matches(model, timm.list_models(), n=1)
        cure = f"did you mean {close[0]}?" if close else "see timm.list_models()"
        raise InputError(f"--train {model}: timm has no such network: {cure}")
    if len(chosen(norm)) != 1:
        raise InputError(f"--norm {norm}: give one normaliser, such as bn or en")


def _workers(flag: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"{flag} {text}: expected numbers of processes such as 0,1,2")
    return tuple(sorted({int(part) for part in parts}))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
