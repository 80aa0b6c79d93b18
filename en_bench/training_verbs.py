"""A verb that needs a trainer, a task and data, run from its arguments: what goes wrong becomes one line."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

import jsonargparse
from lightning.fabric.utilities.exceptions import MisconfigurationException

from en_bench import provenance
from en_bench.data.module import ShardDataModule
from en_bench.errors import InputError, message_of
from en_bench.quiet import quieten
from en_bench.tasks.classification import ClassificationTask
from en_bench.trainer import SaveFitConfig
from en_bench.training import AlreadyEnded, EnBenchCLI
from en_bench.usage import broken_overlay, explain, refusal_behind


def run_training_verb(argv: list[str], cli: type[EnBenchCLI] = EnBenchCLI) -> None:
    """Runs `fit ...` or `validate ...`, or a verb of another `cli`.

    Raises InputError for input that cannot be used and SystemExit(2) for options that cannot be parsed.
    """
    provenance.commit()
    quieten()
    try:
        cli.claims = claims = ExitStack()
        with claims:
            cli(
                ClassificationTask,
                ShardDataModule,
                save_config_callback=SaveFitConfig,
                trainer_class=cli.TRAINER,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                trainer_defaults={"use_distributed_sampler": False},
                parser_kwargs={"exit_on_error": False, "prog": cli.PROG, "allow_abbrev": False},
                args=argv,
            )
    except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
        told = explain(str(error), EnBenchCLI.known_options)
        print(f"{cli.PROG} {argv[0]}: error: {broken_overlay(argv) or told}", file=sys.stderr)
        raise SystemExit(2) from None
    except AlreadyEnded as told:
        print(told, flush=True)
    except MisconfigurationException as error:  # Lightning's word for options that it finds out about late
        raise InputError(message_of(error)) from None
    except ValueError as error:
        refusal = refusal_behind(error)
        if refusal is None:
            raise
        raise refusal from None
