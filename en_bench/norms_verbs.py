"""The verbs `en-bench norms list|table|recalibrate`: their arguments, without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from en_bench.errors import InputError

if TYPE_CHECKING:
    from en_bench.matrix.process import Execute
    from en_bench.matrix.verbs import Subparsers

DTYPES = ("float32", "bfloat16", "float16")


def add_verbs(subparsers: Subparsers) -> None:
    """Add `norms` with its verbs; each sets `handler`, as those of the matrix do."""
    norms = subparsers.add_parser("norms", help="what normalisers cost in a network; running moments made anew")
    verbs = norms.add_subparsers(dest="norms_verb", metavar="VERB", required=True)
    listing = "every normaliser: what it computes, its options, the keys of its state dict"
    verbs.add_parser("list", help=listing, description=listing).set_defaults(handler=_list)
    meaning = "parameters, FLOPs, memory and step time of a network with each normaliser"
    table = verbs.add_parser("table", help=meaning, description=meaning)
    table.add_argument("model", metavar="MODEL", help="cifar/resnet20, timm/<model> or torchvision/<model>")
    table.add_argument(
        "--norms", default="all", metavar="LIST", help="e.g. bn,sn,en, or names of classes (default: all)"
    )
    table.add_argument("--image-size", type=int, metavar="PX", help="default: 32 for cifar/*, else 224")
    table.add_argument("--batch-size", type=int, default=16, metavar="N", help="default: 16")
    table.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="other than float32: autocast")
    table.add_argument("--device", default="cpu", help="e.g. cuda (default: cpu)")
    table.add_argument("--repeats", type=int, default=7, metavar="R", help="steps timed of each network (default: 7)")
    table.add_argument("--no-time", action="store_true", help="time no steps: done in seconds")
    table.add_argument("--json", type=Path, metavar="FILE", help="write the table there too, with every single time")
    table.set_defaults(handler=_table)
    # Its options are those of a run: `main` hands them on before this parser sees them.
    verbs.add_parser("recalibrate", help="a checkpoint's running moments made anew over images", add_help=False)


def _list(args: argparse.Namespace, execute: Execute) -> int:
    from en_bench import norms_table

    print(norms_table.listing(), end="")
    return 0


def _table(args: argparse.Namespace, execute: Execute) -> int:
    for option, value in (("image-size", args.image_size), ("batch-size", args.batch_size), ("repeats", args.repeats)):
        if value is not None and value < 1:
            raise InputError(f"--{option} {value} is too small: use 1 or more")
    import torch

    from en_bench import norms_table
    from en_bench.files import write_json

    setting = norms_table.Setting(
        model=args.model,
        batch=args.batch_size,
        size=args.image_size or (32 if args.model.startswith("cifar/") else 224),
        dtype=getattr(torch, args.dtype),
        device=norms_table.device_called(args.device),
        repeats=0 if args.no_time else args.repeats,
    )
    table = norms_table.measure(setting, norms_table.chosen(args.norms), norms_table.to_stderr)
    print(norms_table.to_text(table), end="")
    if args.json is not None:
        write_json(args.json, norms_table.to_json(table))
        print(f"wrote {args.json}")
    return 0
