"""The verbs `en-bench bench norms` and `en-bench bench prepare`. What is imported when `en-bench` starts is here, and
needs no torch.

The results in benchmarks/results/norms are those of a machine that does nothing else, two cores and 20 minutes:

    en-bench bench norms --layers --threads 2 --norms bn,in,ln,gn,sn,en
    en-bench bench norms --steps --threads 2 --norms bn,sn,en --no-obvious
    en-bench bench norms --memory --first-use --threads 2 --norms bn,sn,en,bin --no-obvious

each with `--json FILE --markdown FILE`; those in benchmarks/results/prepare come of

    en-bench bench prepare imagenet_sample_250.tar --json FILE --markdown FILE
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from en_bench.matrix.process import Execute

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

SECTIONS = {
    "layers": "each normaliser against torch's own layer, forward and backward (the default)",
    "steps": "whole training steps of ResNet-50 and ResNet-20 against torch's BatchNorm",
    "memory": "activations that a ResNet-50 keeps for backward",
    "first_use": "what compiling costs, with an empty cache and with a filled one",
}


def add_verbs(subparsers: "Subparsers") -> None:
    """Adds `bench`. It sets `handler`, called with the parsed arguments and what runs one `en-bench` command."""
    bench = subparsers.add_parser("bench", help="measure what the parts cost on this machine")
    verbs = bench.add_subparsers(dest="bench_verb", metavar="VERB", required=True)
    description = "Normalisers against torch's own layers, interleaved in one process. Use a machine that does no more."
    norms = verbs.add_parser("norms", help="normalisers against torch's own layers", description=description)
    for section, meaning in SECTIONS.items():
        norms.add_argument(f"--{section.replace('_', '-')}", action="store_true", help=meaning)
    norms.add_argument("--all", action="store_true", help="all four of these")
    norms.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    norms.add_argument("--norms", metavar="LIST", help="e.g. bn,sn,en, or names of classes (default: all)")
    norms.add_argument("--shapes", metavar="LIST", help="NxCxHxW of the layers' maps, e.g. 32x64x56x56,128x16x32x32")
    norms.add_argument(
        "--formats", metavar="LIST", help="contiguous,channels_last (the default; on cuda channels_last)"
    )
    norms.add_argument("--dtypes", metavar="LIST", help="float32,bfloat16 (the default; on cuda bfloat16)")
    norms.add_argument("--repeats", type=int, metavar="N", help="times of which the median is taken (15; on cuda 50)")
    norms.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: its own choice)")
    norms.add_argument("--compiled", action="store_true", help="steps under torch.compile too (always on cuda)")
    norms.add_argument("--no-obvious", action="store_true", help="leave out the obvious formulations of EN and SN")
    norms.add_argument("--peak-gbs", type=float, metavar="GB/S", help="memory bandwidth (default: what the GPU tells)")
    norms.add_argument("--quick", action="store_true", help="tiny shapes and networks: shows that it runs, and no more")
    _add_files(norms)
    norms.set_defaults(handler=_bench_norms)
    _add_prepare(verbs)


def _add_prepare(verbs: "Subparsers") -> None:
    description = (
        "write_split on the JPEGs of an archive, beside decoding, encoding and copying alone, interleaved in one run; "
        "workers; quality of resized images; hours for ImageNet and WebVision. Use a machine that does no more."
    )
    prepare = verbs.add_parser("prepare", help="raw images into shards", description=description)
    prepare.add_argument("archive", nargs="?", type=Path, metavar="ARCHIVE", help="tar, zip or folder of JPEGs")
    prepare.add_argument("--gb", type=float, metavar="GB", help="repeat the images to so many gigabytes (2)")
    prepare.add_argument(
        "--short-side", type=int, default=352, metavar="PIXELS", help="of resized images (%(default)s)"
    )
    prepare.add_argument("--quality", type=int, default=90, help="of resized images, 1 to 95 (%(default)s)")
    prepare.add_argument("--workers", default="1,2", metavar="LIST", help="numbers of processes (%(default)s)")
    prepare.add_argument("--repeats", type=int, metavar="N", help="times of which the median is taken (8, 5 and 3)")
    prepare.add_argument(
        "--scratch", type=Path, metavar="DIR", help="disk with room for twice the images (default: for temporary files)"
    )
    prepare.add_argument("--quick", action="store_true", help="few images, twice: shows that it runs, and no more")
    _add_files(prepare)
    prepare.set_defaults(handler=_bench_prepare)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, after every section")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="source", help="measure nothing: tables of a --json FILE"
    )


def _bench_prepare(args: argparse.Namespace, execute: "Execute") -> int:
    from en_bench.benchmark.prepare import bench_prepare

    return bench_prepare(args)


def _bench_norms(args: argparse.Namespace, execute: "Execute") -> int:
    from en_bench.benchmark.command import bench_norms

    return bench_norms(args)
