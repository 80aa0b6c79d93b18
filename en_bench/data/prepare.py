"""What the scripts that prepare data share: options, progress, exit codes."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import Manifest
from en_bench.errors import InputError

_SECONDS_PER_LINE = 10.0  # between progress lines where there is no terminal
_SECONDS_PER_BAR = 0.1


def make_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the options of every script: --out and --seed."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to put the splits in")
    parser.add_argument(
        "--seed", type=_natural, default=0, help="of the order in the shards and of label noise (%(default)s)"
    )
    return parser


def add_raw_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of scripts that read published files: --raw, --limit and the image options."""
    parser.add_argument("--raw", required=True, metavar="DIR_OR_TAR", help="the files as published")
    parser.add_argument("--limit", type=_positive, metavar="N", help="at most N samples per split, drawn by --seed")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--short-side", type=_positive, metavar="PIXELS", help="reduce larger images to this shorter side"
    )
    size.add_argument("--original", action="store_true", help="keep the size of images (the default)")
    parser.add_argument("--quality", type=int, default=90, help="of JPEGs that must be encoded again (%(default)s)")


def image_encoder(args: argparse.Namespace) -> ImageEncoder:
    """The encoder that the image options ask for."""
    return ImageEncoder(short_side=args.short_side, quality=args.quality)


def run_script(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None], argv: Sequence[str] | None
) -> int:
    """Parses, works, and returns the exit code: 0, or 1 after one line on stderr. Wrong usage exits with 2."""
    args = parser.parse_args(argv)
    try:
        work(args)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted, nothing was kept of the split being written", file=sys.stderr)
        return 130
    return 0


def closing_line(out: str, written: Sequence[Manifest]) -> str:
    """The last line of a script: what lies in `out` now, and how many files could not be used."""
    samples = sum(manifest.count for manifest in written)
    return f"{out}: {samples:,} samples in {len(written)} splits, skipped {sum(m.skipped for m in written):,}"


class Progress:
    """Shows (done, total) of one split on stderr: a bar on a terminal, else now and then a line."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._terminal = sys.stderr.isatty()
        self._start = self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        finished = done == total
        if not finished and now - self._shown < (_SECONDS_PER_BAR if self._terminal else _SECONDS_PER_LINE):
            return
        self._shown = now
        rate = done / max(now - self._start, 1e-9)
        text = f"{self._split}: {done:,} of {total:,} samples, {rate:,.0f}/s"
        if self._terminal:
            filled = 30 * done // total
            print(
                f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}\033[K", end="\n" if finished else "", file=sys.stderr
            )
        else:
            print(text, file=sys.stderr, flush=True)


def _natural(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not in 0 .. 2**63 - 1")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
