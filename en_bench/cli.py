"""`en-bench`: the verbs. Only those that train or validate import torch."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from en_bench.arguments import Parser
from en_bench.errors import InputError
from en_bench.standard_streams import open_standard_streams
from en_bench.stop import STOPPED, asked_to_stop, stoppable, told_of_stop
from en_bench.tied import end_with_parent

TRAINING_VERBS = {
    "fit": "one training: overlays add up (--config A --config B), every value is also a flag",
    "validate": "one validation of a checkpoint",
}


def _execute(argv: list[str]) -> None:
    """Runs `fit`, `validate` or `norms recalibrate` in this process."""
    if argv[:2] == ["norms", "recalibrate"]:
        from en_bench.recalibration import run

        run(argv[2:])
        return
    from en_bench.training_verbs import run_training_verb

    run_training_verb(argv)


def _parser() -> argparse.ArgumentParser:
    from en_bench import norms_verbs
    from en_bench.benchmark import verbs as bench_verbs
    from en_bench.data import verbs as data_verbs
    from en_bench.matrix.verbs import add_verbs
    from en_bench.noise import verbs as noise_verbs

    parser: argparse.ArgumentParser = Parser(
        prog="en-bench",
        description="Which normaliser should a network use when labels are noisy or the data change under it?",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, meaning in TRAINING_VERBS.items():
        verbs.add_parser(verb, help=meaning, add_help=False)
    add_verbs(verbs)
    data_verbs.add_verbs(verbs)
    norms_verbs.add_verbs(verbs)
    noise_verbs.add_verbs(verbs)
    bench_verbs.add_verbs(verbs)
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs `en-bench ARGV` and returns its exit code.

    0, 1 (bad input, failed cells), 2 (wrong usage), 75 (stopped by SIGUSR1, SIGTERM or SIGHUP: the same command
    continues) or 130 (interrupted).
    """
    arguments = list(argv)
    stops = arguments[:2] == ["matrix", "run"] and "--slurm-job" not in arguments  # a job sees to its signals itself
    if not (arguments[:1] and arguments[0] in TRAINING_VERBS) and not stops:
        return _run(arguments)
    with stoppable():
        code = _run(arguments)
        asked = asked_to_stop()
    if code and asked is not None:
        print(told_of_stop(asked), file=sys.stderr)
        return STOPPED
    return code


def _run(arguments: list[str]) -> int:
    try:
        if arguments and arguments[0] in TRAINING_VERBS:
            _execute(arguments)
            return 0
        if arguments[:2] == ["norms", "recalibrate"]:
            _execute(arguments)
            return 0
        if arguments[:2] == ["noise", "estimate"]:
            from en_bench.losses.estimate import run as estimate

            estimate(arguments[2:])
            return 0
        if arguments[:2] == ["noise", "audit"]:
            from en_bench.audit.verb import run as audit

            audit(arguments[2:])
            return 0
        parsed = _parser().parse_args(arguments)
        return int(parsed.handler(parsed, _execute))
    except InputError as error:
        print(f"en-bench: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a missing right, a file where a folder should be
        print(f"en-bench: error: {error.filename or 'writing failed'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except SystemExit as exit_:  # argparse and jsonargparse end this way, after --help with 0
        return exit_.code if isinstance(exit_.code, int) else 1
    except KeyboardInterrupt:
        if asked_to_stop() is None:
            print("en-bench: interrupted", file=sys.stderr)
        return 130


def entry() -> None:
    """The console script."""
    open_standard_streams()
    end_with_parent()
    if isinstance(sys.stdout, io.TextIOWrapper):  # ± where a terminal knows ASCII alone becomes ?
        sys.stdout.reconfigure(errors="replace")
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `| head` does; nothing more can be printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
