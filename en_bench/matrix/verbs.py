"""The verbs `en-bench matrix plan|run|status|report SPEC` and `en-bench report SPEC`."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from en_bench.errors import InputError
from en_bench.matrix.commands import cell_commands
from en_bench.matrix.plan import PlannedCell, State, count_states, manifest_digests, plan
from en_bench.matrix.process import Execute
from en_bench.matrix.records import Results
from en_bench.matrix.run import INTERRUPTED, Runner, select
from en_bench.matrix.spec import load_spec

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Handler = Callable[[argparse.Namespace, Execute], int]


def add_verbs(subparsers: "Subparsers") -> None:
    """Add the verbs. Each sets `handler`, called with the parsed arguments and what runs one `en-bench` command."""
    matrix = subparsers.add_parser("matrix", help="train and validate every normaliser on every set")
    verbs = matrix.add_subparsers(dest="matrix_verb", metavar="VERB", required=True)
    _add(verbs, "plan", _plan, "list the cells with their states")
    run = _add(verbs, "run", _run, "run the cells that are not done")
    run.add_argument("--dry-run", action="store_true", help="print all commands of the cells and run nothing")
    run.add_argument("--isolate", action="store_true", help="give every command a process of its own")
    run.add_argument("--only", default="*", metavar="PATTERN", help="run only cells whose norm/train/seed matches")
    _add(verbs, "status", _status, "count the cells by state")
    report = _add(verbs, "report", _report, "print the table and write the tables' files")
    report.add_argument("--format", choices=("text", "markdown", "csv"), default="text", help="how to print the table")
    _add(subparsers, "report", _page, "write the report's page")


def _add(subparsers: "Subparsers", name: str, handler: Handler, description: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=description, description=description)
    parser.add_argument("spec", type=Path, metavar="SPEC", help="the matrix's YAML file")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where <spec name>/ lies (default: results)"
    )
    parser.add_argument("--data-root", type=Path, help="where the data lie (default: $EN_BENCH_SHARDS, else data)")
    parser.set_defaults(handler=partial(_told_in_one_line, handler))
    return parser


def _told_in_one_line(handler: Handler, args: argparse.Namespace, execute: Execute) -> int:
    try:
        return handler(args, execute)
    except BrokenPipeError:  # no matter of files: whoever reads the output has seen enough
        raise
    except OSError as error:
        where = error.filename or args.results
        raise InputError(
            f"{where}: {error.strerror or error}: make it readable and writable, or choose other --results"
        ) from None


def _runner(args: argparse.Namespace, execute: Execute) -> Runner:
    spec = load_spec(args.spec)
    for folder in (args.results, args.results / spec.name):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--results {args.results}: {folder} is a file: give a folder")
    digests = manifest_digests(args.data_root or Path(os.environ.get("EN_BENCH_SHARDS") or "data"))
    isolate = getattr(args, "isolate", False)
    return Runner(spec, execute, Results(args.results / spec.name), digests, args.data_root, isolate)


def _planned(runner: Runner) -> list[PlannedCell]:
    records, warnings = runner.results.load()
    for warning in warnings:
        print(f"en-bench: warning: {warning}", file=sys.stderr)
    return plan(runner.spec, records, runner.digests)


def _plan(args: argparse.Namespace, execute: Execute) -> int:
    runner = _runner(args, execute)
    planned = _planned(runner)
    width = max(len(str(item.cell)) for item in planned)
    for item in planned:
        print(f"{item.cell.id}  {item.cell!s:<{width}}  {item.state}")
    spec = runner.spec
    print(
        f"{len(spec.norms)} normalisers x {len(spec.train)} training sets x {len(spec.seeds)} seeds = {len(planned)} "
        f"trainings, each validated on {len(spec.validate)} sets"
    )
    print(count_states(planned))
    return 0


def _status(args: argparse.Namespace, execute: Execute) -> int:
    planned = _planned(_runner(args, execute))
    for state in State:
        names = [item for item in planned if item.state is state]
        if state is State.FAILED:
            for item in names:
                print(f"failed  {item.cell}  {item.record.reason if item.record else ''}")
        elif names:
            print(f"{state}  {' '.join(_compact(names))}")
    print(count_states(planned))
    return 0


def _compact(items: list[PlannedCell]) -> list[str]:
    """`norm/train/0,1,2` for each normaliser and training set."""
    seeds: dict[str, list[str]] = {}
    for item in items:
        seeds.setdefault(f"{item.cell.norm}/{item.cell.train}", []).append(str(item.cell.seed))
    return [f"{name}/{','.join(found)}" for name, found in seeds.items()]


def _run(args: argparse.Namespace, execute: Execute) -> int:
    runner = _runner(args, execute)
    planned = _planned(runner)
    if args.dry_run:
        for item in select(planned, args.only, runner.spec):
            print(f"# {item.cell}: {item.state}")
            for argv in cell_commands(runner.spec, item.cell, runner.results.run(item.cell.id), runner.data_root):
                print(shlex.join(["en-bench", *argv]))
        return 0
    code = runner.run(args.only)
    if code != INTERRUPTED:
        planned = _planned(runner)
        print()
        _print_table(runner, planned, "text")
        print(f"page: {_write_page(runner, planned)}")
    return code


def _report(args: argparse.Namespace, execute: Execute) -> int:
    runner = _runner(args, execute)
    _print_table(runner, _planned(runner), args.format)
    return 0


def _page(args: argparse.Namespace, execute: Execute) -> int:
    runner = _runner(args, execute)
    print(_write_page(runner, _planned(runner)))
    return 0


def _print_table(runner: Runner, planned: list[PlannedCell], form: str) -> None:
    from en_bench.report.render import matrix_csv, to_markdown, to_text, write_tables

    table = write_tables(runner.results, runner.spec, planned)
    render = {"text": to_text, "markdown": to_markdown, "csv": matrix_csv}[form]
    sys.stdout.write(render(table))


def _write_page(runner: Runner, planned: list[PlannedCell]) -> Path:
    from en_bench.report.page import write_report

    return write_report(runner.results, runner.spec, planned)
