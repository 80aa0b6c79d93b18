"""What the scripts that prepare data share: options, the writing of splits, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import Manifest
from en_bench.data.masks import MaskEncoder
from en_bench.data.order import write_order
from en_bench.data.places import Place, place, shown
from en_bench.data.progress import Progress
from en_bench.data.sources import Skipped, Source
from en_bench.data.split_job import SHARD_BYTES, SHARD_SAMPLES, SPREAD
from en_bench.data.writer import write_split
from en_bench.errors import InputError
from en_bench.noise.preparing import with_noisy_columns

SHORT_SIDE = 352  # pixels; enough for crops at 224 and a third of the bytes of typical photographs


@dataclass(frozen=True)
class Split:
    """What a script found for one split: its samples, what it had to leave out, and for its manifest alone the noise
    of its label columns and additions to the provenance."""

    name: str
    samples: Sequence[Source]
    skipped: Sequence[Skipped] = ()
    noise: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)


def make_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the options of every script: --out, --shards, --workers, --resume and --seed."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "--out", required=True, type=_some, metavar="DIR_OR_URL", help="where to put the splits, a folder or URL"
    )
    parser.add_argument(
        "--shards",
        type=_shards,
        metavar="N",
        help=f"shards per split; auto, the default: about {SHARD_BYTES >> 20} MiB and at most {SHARD_SAMPLES:,} "
        f"samples each, smaller ones for a set that would have less than {SPREAD}",
    )
    parser.add_argument(
        "--workers", type=_positive, default=_cores(), metavar="N", help="processes (%(default)s here, one per core)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what an interrupted run left")
    parser.add_argument(
        "--seed", type=_natural, default=0, help="of the order in the shards and of label noise (%(default)s)"
    )
    return parser


def add_raw_options(parser: argparse.ArgumentParser, short_side: int | None = SHORT_SIDE) -> None:
    """Adds the options of scripts that read published files: --raw, --limit, --no-verify and those of images."""
    parser.add_argument("--raw", required=True, type=_some, metavar="DIR_OR_ARCHIVE", help="the files as published")
    parser.add_argument("--limit", type=_positive, metavar="N", help="at most N samples per split, drawn by --seed")
    default = "keep it" if short_side is None else str(short_side)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--short-side",
        type=_positive,
        default=short_side,
        metavar="PIXELS",
        help=f"reduce larger images to this shorter side ({default})",
    )
    size.add_argument("--original", action="store_true", help="keep the size of images")
    parser.add_argument(
        "--quality", type=int, default=90, help="of JPEGs that must be encoded again, 1 to 95 (%(default)s)"
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="read only the headers of files that are kept as they are"
    )


def image_encoder(args: argparse.Namespace) -> ImageEncoder:
    """The encoder that the image options ask for."""
    return ImageEncoder(
        short_side=None if args.original else args.short_side, quality=args.quality, verify=not args.no_verify
    )


def limited(samples: Sequence[Source], args: argparse.Namespace) -> Sequence[Source]:
    """At most --limit samples, drawn by --seed, in the order of their source."""
    if args.limit is None:
        return samples
    return [samples[position] for position in sorted(write_order(len(samples), args.seed)[: args.limit].tolist())]


def write_splits(
    args: argparse.Namespace,
    splits: Sequence[Split],
    *,
    dataset: str,
    classes: Sequence[str],
    source: Mapping[str, Any],
    encode: ImageEncoder,
    encode_mask: MaskEncoder | None = None,
    notes: Sequence[str] = (),
    out: Place | None = None,
) -> list[Manifest]:
    """Writes <out>/<split> for each split and prints the closing line.

    Args:
        args: what the parser of `make_parser` returned.
        splits: at least one.
        dataset, classes, encode, encode_mask: as for `write_split`.
        source: provenance for the manifests.
        notes: what to say before hours of work, such as what is left out.
        out: the folder of the splits, if it is not `--out` itself.
    """
    out = place(args.out) if out is None else out
    for note in notes:
        print(note, flush=True)
    columns = getattr(args, "label_noise", [])
    if columns and splits and all(split.name != "train" for split in splits):
        raise InputError("--label-noise is for training labels, and there is no split train: leave it out")
    written = []
    for split in splits:
        samples = limited(split.samples, args) if hasattr(args, "limit") else split.samples
        noise = split.noise
        if columns and split.name == "train":
            samples, noise = with_noisy_columns(samples, columns, classes, encode, args.workers, noise)
        with Progress(split.name) as progress:
            manifest = write_split(
                out / split.name,
                samples,
                dataset=dataset,
                split=split.name,
                classes=classes,
                encode=encode,
                encode_mask=encode_mask,
                image=encode.describe(),
                source={**source, **split.source, **({"limit": args.limit} if hasattr(args, "limit") else {})},
                noise=noise,
                seed=args.seed,
                shards=args.shards,
                workers=args.workers,
                resume=args.resume,
                skipped=split.skipped,
                progress=progress,
            )
        written.append(manifest)
    samples_in_all, skipped = sum(m.count for m in written), sum(m.skipped for m in written)
    print(
        f"{shown(out)}: {samples_in_all:,} samples in {len(written)} split{'s' * (len(written) != 1)}, "
        f"{len(classes):,} classes, skipped {skipped:,}"
    )
    return written


def run_script(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None], argv: Sequence[str] | None
) -> int:
    """Parses, works, and returns the exit code: 0, or 1 after one line on stderr. Wrong usage exits with 2."""
    # For torch, before it is imported: an image is too small to share, and threads on a busy machine only wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        args = parser.parse_args(argv)  # --label-noise raises InputError, whose one line argparse would bury in usage
        if sys.getfilesystemencoding().lower() != "utf-8":
            raise InputError(
                f"names of files are read as {sys.getfilesystemencoding()}: set PYTHONUTF8=1, or a UTF-8 locale"
            )
        work(args)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"{parser.prog}: interrupted; run again with --resume: shards that were finished are kept", file=sys.stderr
        )
        return 130
    return 0


def shortened(names: Sequence[str]) -> str:
    """A list of names for a message: all of a few, else the first three and the last."""
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:3])} ... {names[-1]}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shards(text: str) -> int | None:
    return None if text == "auto" else _positive(text)


def _some(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty, as where a variable of the shell is not set")
    return text


def _natural(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not in 0 .. 2**63 - 1")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
