"""What is to be measured, from the flags."""

import argparse
import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from en_bench.benchmark.verbs import SECTIONS
from en_bench.errors import InputError
from en_bench.norms import Norm
from en_bench.norms_table import chosen, norm_classes

Shape = tuple[int, int, int, int]

SHAPES: tuple[Shape, ...] = (  # four widths of a ResNet's bottlenecks, the widest twice, and two of CIFAR's
    (32, 64, 56, 56),
    (32, 256, 56, 56),
    (32, 512, 28, 28),
    (32, 1024, 14, 14),
    (32, 2048, 7, 7),
    (128, 16, 32, 32),
    (128, 64, 8, 8),
)
QUICK_SHAPES: tuple[Shape, ...] = ((4, 8, 6, 6), (2, 32, 2, 2))
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REPEATS = {"cpu": 15, "cuda": 50}

# Singles first, as others are built from them.
_SINGLES = ("BatchNorm", "InstanceNorm", "LayerNorm", "GroupNorm")
NORMS: dict[str, Callable[[int], Norm]] = {
    cls.__name__: cls
    for cls in sorted(norm_classes().values(), key=lambda cls: (cls.__name__ not in _SINGLES, cls.__name__))
}


@dataclass(frozen=True)
class Settings:
    """`norms` is None where none were named: every section has its own default."""

    sections: tuple[str, ...]
    device: torch.device
    norms: tuple[str, ...] | None
    shapes: tuple[Shape, ...]
    formats: tuple[str, ...]
    dtypes: tuple[str, ...]
    repeats: int
    compiled: bool
    obvious: bool
    peak_gbs: float | None
    quick: bool


def settings_of(args: argparse.Namespace) -> Settings:
    """Raises InputError for what cannot be measured."""
    device = _device(args.device)
    kind = device.type
    sections = tuple(name for name in SECTIONS if args.all or getattr(args, name)) or ("layers",)
    formats, dtypes = (tuple(FORMATS), tuple(DTYPES)) if kind == "cpu" else (("channels_last",), ("bfloat16",))
    repeats = args.repeats if args.repeats is not None else 2 if args.quick else REPEATS[kind]
    if repeats < 1:
        raise InputError(f"--repeats {repeats} is too small: use 1 or more (15 or more for a result)")
    if args.peak_gbs is not None and args.peak_gbs <= 0:
        raise InputError(f"--peak-gbs {args.peak_gbs:g} is no bandwidth: give GB/s above 0")
    shapes = QUICK_SHAPES if args.quick else SHAPES
    return Settings(
        sections=sections,
        device=device,
        norms=None if args.norms is None else tuple(cls.__name__ for cls in chosen(args.norms)),
        shapes=shapes if args.shapes is None else tuple(dict.fromkeys(map(_shape, _listed("--shapes", args.shapes)))),
        formats=formats if args.formats is None else _known("--formats", args.formats, FORMATS),
        dtypes=dtypes if args.dtypes is None else _known("--dtypes", args.dtypes, DTYPES),
        repeats=repeats,
        compiled=args.compiled or (kind == "cuda" and not args.quick),
        obvious=not args.no_obvious,
        peak_gbs=args.peak_gbs if args.peak_gbs is not None else _peak_gbs(device),
        quick=args.quick,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    match = re.fullmatch(r"(cpu)|cuda(?::(\d+))?", name)
    if match is None:
        raise InputError(f"--device {name}: expected cpu, cuda or cuda:N")
    if match[1]:
        return torch.device(name)
    count = torch.cuda.device_count()
    if int(match[2] or 0) >= count:
        raise InputError(f"--device {name}: there are {count} such devices here: use --device cpu, or a lower number")
    return torch.device(name)


def _shape(text: str) -> Shape:
    sizes = [int(part) for part in text.split("x")] if re.fullmatch(r"\d+(x\d+){3}", text) else []
    if not sizes or min(sizes) < 1 or sizes[2] * sizes[3] < 2:
        raise InputError(f"--shapes {text}: expected NxCxHxW with more than one position, such as 32x64x56x56")
    n, c, h, w = sizes
    return n, c, h, w


def _known(flag: str, names: str, known: Iterable[str]) -> tuple[str, ...]:
    choices = list(known)
    for name in _listed(flag, names):
        if name not in choices:
            close = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
            cure = f"did you mean {close[0]}?" if close else f"choose from {', '.join(choices)}"
            raise InputError(f"{flag} {name}: {cure}")
    return _listed(flag, names)


def _listed(flag: str, text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise InputError(f"{flag} names nothing: leave it out for the default")
    return found


def _peak_gbs(device: torch.device) -> float | None:
    """Two transfers in each cycle of the memory's clock, over its whole width; None where the device does not tell."""
    if device.type != "cuda":
        return None
    told = torch.cuda.get_device_properties(device)
    kilohertz, bits = getattr(told, "memory_clock_rate", 0), getattr(told, "memory_bus_width", 0)
    return 2 * kilohertz * 1e3 * bits / 8 / 1e9 or None
