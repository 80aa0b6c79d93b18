"""The verbs `en-bench bench norms`, `prepare`, `data`, `dynamics` and `matrix`. What is imported when `en-bench` starts
is here, and needs no torch.

The results in benchmarks/results/norms are those of a machine that does nothing else, two cores and 20 minutes:

    en-bench bench norms --layers --threads 2 --norms bn,in,ln,gn,sn,en
    en-bench bench norms --steps --threads 2 --norms bn,sn,en --no-obvious
    en-bench bench norms --memory --first-use --threads 2 --norms bn,sn,en,bin --no-obvious

each with `--json FILE --markdown FILE`; those in benchmarks/results/prepare come of

    en-bench bench prepare imagenet_sample_250.tar --json FILE --markdown FILE

and those in benchmarks/results/data, of splits that data_scripts made of the same images, of

    en-bench bench data SHARDS --original SPLIT --peers --json FILE --markdown FILE

and what a record of every training sample costs, in some minutes, of

    en-bench bench dynamics --threads 2 --json FILE --markdown FILE

and what large matrices take to list and report, and small ones to run, of

    en-bench bench matrix --lists --runner --json FILE --markdown FILE
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

DATA_SECTIONS = {
    "rates": "images/s of our stream, of the standard recipe and of decoding alone",
    "quality": "how close our crops come to those of exact decoding",
    "shuffle": "how well an epoch is mixed",
    "memory": "memory and open files over many epochs",
    "scale": "start of an epoch of 1.3 M samples, and the index of 2.4 M",
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
    _add_data(verbs)
    _add_dynamics(verbs)
    _add_matrix(verbs)


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


def _add_data(verbs: "Subparsers") -> None:
    description = (
        "The stream of a prepared split beside what people use: the standard recipe, decoding alone, and with --peers "
        "the streams of other makers; each reading in a process of its own, all taking turns. Measured are "
        + "; ".join(f"{section}: {meaning}" for section, meaning in DATA_SECTIONS.items())
        + ". Use a machine that does no more."
    )
    data = verbs.add_parser("data", help="streams of a prepared split", description=description)
    data.add_argument("shards", nargs="?", type=Path, metavar="SHARDS", help="split folder (not for --sections scale)")
    data.add_argument(
        "--original",
        type=Path,
        metavar="SPLIT",
        help="the same images as original files, for the standard recipe",
    )
    data.add_argument("--sections", metavar="LIST", help=f"of {','.join(DATA_SECTIONS)} (default: all)")
    data.add_argument("--peers", action="store_true", help="webdataset, MosaicML Streaming and LitData as well")
    data.add_argument("--train", metavar="MODEL", help="how long a training of timm's MODEL waits for data as well")
    data.add_argument("--norm", help="of that network: bn, en or another normaliser (bn)")
    data.add_argument("--train-workers", metavar="LIST", help="numbers of loading processes for it (one per core)")
    data.add_argument("--size", type=int, metavar="PIXELS", help="of the crops (224; images up to 64 px: their own)")
    data.add_argument(
        "--samples", type=int, metavar="N", help="images of an epoch, repeated if too few (3,000; 50,000)"
    )
    data.add_argument("--batch-size", type=int, metavar="B", help="of all loaders (128)")
    data.add_argument("--workers", metavar="LIST", help="numbers of loading processes (0,1,2)")
    data.add_argument("--repeats", type=int, metavar="N", help="readings of which the median is taken (5)")
    data.add_argument("--seconds", type=float, metavar="S", help="that the epochs of a reading last at least (1)")
    data.add_argument("--scratch", type=Path, metavar="DIR", help="disk for copies (default: for temporary files)")
    data.add_argument("--quick", action="store_true", help="few images, once: shows that it runs, and no more")
    _add_files(data)
    data.set_defaults(handler=_bench_data)


def _add_dynamics(verbs: "Subparsers") -> None:
    description = (
        "Training steps of a ResNet-20 with ExemplarNorm, batch 128 of 32, with and without a record of every sample, "
        "interleaved in one process, and the time of an epoch's file. Use a machine that does no more."
    )
    dynamics = verbs.add_parser("dynamics", help="the record of every training sample", description=description)
    dynamics.add_argument("--repeats", type=int, metavar="N", help="times of which the median is taken (15)")
    dynamics.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: its own choice)")
    dynamics.add_argument("--quick", action="store_true", help="a tiny network, twice: shows that it runs, and no more")
    _add_files(dynamics)
    dynamics.set_defaults(handler=_bench_dynamics)


def _add_matrix(verbs: "Subparsers") -> None:
    description = (
        "plan, status, report and page of matrices of 1,000 cells and 10,000 records that are made up, each in a "
        "process of its own; with --runner what `matrix run` takes beyond its trainings and validations. Use a machine "
        "that does no more."
    )
    matrix = verbs.add_parser("matrix", help="large matrices, and the runner", description=description)
    matrix.add_argument("--lists", action="store_true", help="large matrices (the default)")
    matrix.add_argument("--runner", action="store_true", help="a small matrix that trains for real, some minutes")
    matrix.add_argument("--cells", type=int, metavar="N", help="of the matrix that is listed (1,120)")
    matrix.add_argument("--records", type=int, metavar="N", help="of the matrix that is reported (10,080)")
    matrix.add_argument("--repeats", type=int, metavar="N", help="times of which the median is taken (7)")
    matrix.add_argument(
        "--scratch", type=Path, metavar="DIR", help="disk with room for 200 MB (default: for temporary files)"
    )
    matrix.add_argument("--quick", action="store_true", help="few cells, twice: shows that it runs, and no more")
    _add_files(matrix)
    matrix.set_defaults(handler=_bench_matrix)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, after every section")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="source", help="measure nothing: tables of a --json FILE"
    )


def _bench_prepare(args: argparse.Namespace, execute: "Execute") -> int:
    from en_bench.benchmark.prepare import bench_prepare

    return bench_prepare(args)


def _bench_data(args: argparse.Namespace, execute: "Execute") -> int:
    from en_bench.benchmark.data import bench_data

    return bench_data(args)


def _bench_norms(args: argparse.Namespace, execute: "Execute") -> int:
    from en_bench.benchmark.command import bench_norms

    return bench_norms(args)


def _bench_dynamics(args: argparse.Namespace, execute: "Execute") -> int:
    from en_bench.benchmark.dynamics import bench_dynamics

    return bench_dynamics(args)


def _bench_matrix(args: argparse.Namespace, execute: "Execute") -> int:
    from en_bench.benchmark.matrix import bench_matrix

    return bench_matrix(args)
