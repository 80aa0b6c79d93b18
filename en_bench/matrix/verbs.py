"""The verbs `en-bench matrix plan|run|status|report SPEC`, `en-bench matrix diff A B` and `en-bench report SPEC`."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from en_bench.arguments import positive
from en_bench.errors import InputError
from en_bench.matrix.diff_verb import add_diff_arguments, diff_verb
from en_bench.matrix.opened import RESULTS, results_of
from en_bench.matrix.plan_verb import add_plan_options, plan_verb, status_verb
from en_bench.matrix.process import Execute
from en_bench.matrix.report_verb import add_report_options, page_verb, report_verb
from en_bench.matrix.run_verb import run_verb

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Handler = Callable[[argparse.Namespace, Execute], int]


def add_verbs(subparsers: "Subparsers") -> None:
    """Add the verbs. Each sets `handler`, called with the parsed arguments and what runs one `en-bench` command."""
    matrix = subparsers.add_parser("matrix", help="train and validate every normaliser on every set")
    verbs = matrix.add_subparsers(dest="matrix_verb", metavar="VERB", required=True)
    add_plan_options(_add(verbs, "plan", plan_verb, "list the cells with their states and what they cost"))
    run = _add(verbs, "run", run_verb, "run the cells that are not done")
    run.add_argument("--dry-run", action="store_true", help="print all commands of the cells and run nothing")
    run.add_argument("--isolate", action="store_true", help="give every command a process of its own")
    run.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="run only cells whose norm/train/seed matches (may be repeated)",
    )
    run.add_argument(
        "--slots",
        type=positive,
        metavar="N",
        help="cells at a time, a process each (default: one for each GPU, else 1)",
    )
    run.add_argument("--gpus", metavar="LIST", help="0,1,3 or all or none (default: all that are visible)")
    run.add_argument("--threads", type=positive, metavar="T", help="CPU threads of a slot (default: cores / slots)")
    run.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)  # a process that a launcher started
    run.add_argument("--launcher", choices=("local", "slurm"), default="local", help="where cells run (default: local)")
    run.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="as the key slurm of SPEC")
    run.add_argument("--wait", action="store_true", help="watch the jobs of Slurm until they have ended")
    run.add_argument("--slurm-job", type=Path, help=argparse.SUPPRESS)
    _add(verbs, "status", status_verb, "count the cells by state")
    report = _add(verbs, "report", report_verb, "print the tables and write their files")
    add_report_options(report)
    diff = verbs.add_parser("diff", help="compare two matrices' records", description="compare two matrices' records")
    add_diff_arguments(diff)
    diff.set_defaults(handler=partial(_told_in_one_line, diff_verb))
    _add(subparsers, "report", page_verb, "write the report's page")


def _add(subparsers: "Subparsers", name: str, handler: Handler, description: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=description, description=description)
    parser.add_argument("spec", type=Path, metavar="SPEC", help="the matrix's YAML file")
    parser.add_argument("--results", type=Path, help=f"where <spec name>/ lies (default: {RESULTS})")
    parser.add_argument("--data-root", help="folder or URL of the data (default: $EN_BENCH_SHARDS, else data)")
    parser.set_defaults(handler=partial(_told_in_one_line, handler))
    return parser


def _told_in_one_line(handler: Handler, args: argparse.Namespace, execute: Execute) -> int:
    try:
        return handler(args, execute)
    except BrokenPipeError:  # no matter of files: whoever reads the output has seen enough
        raise
    except OSError as error:
        where = error.filename or results_of(args)
        raise InputError(
            f"{where}: {error.strerror or error}: make it readable and writable, or choose other --results"
        ) from None
