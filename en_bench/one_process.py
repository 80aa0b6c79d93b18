"""Verbs that take a run's configuration and checkpoint and are no training: one process, on the run's device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from en_bench.data.module import ShardDataModule
from en_bench.errors import InputError
from en_bench.resume.checkpoint import last_checkpoint
from en_bench.tasks.classification import ClassificationTask
from en_bench.trainer import CONFIG
from en_bench.training import EnBenchCLI
from en_bench.training_verbs import run_training_verb


class OneProcessCLI(EnBenchCLI):
    """The configuration of a run, with flags, to something that is made of its checkpoint."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--result", type=str | None, default=None, help="file for what was done, JSON")
        self.add_options_of_callbacks(parser)  # a run's configuration has them

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # One process, however many trained: what is made counts over all images anyway.
        return super().instantiate_trainer(**{"devices": 1, "num_nodes": 1, "strategy": "auto", **kwargs})


def restored(
    trainer: Trainer, task: ClassificationTask, data: ShardDataModule, saved: dict[str, Any]
) -> ClassificationTask:
    """The task with a checkpoint's weights, on the trainer's device and in its precision. Raises InputError."""
    # Not the data's classes: images are all that is needed here, and they may be of others.
    classes = saved.get("en_bench", {}).get("classes", data.classes)
    task.num_classes = task.num_classes if task.num_classes is not None else len(classes)
    task.pretrained = False  # whatever it started from, its weights are in the checkpoint
    task.configure_model()
    task.on_load_checkpoint(saved)
    task.load_state_dict(saved["state_dict"])
    trainer.precision_plugin.convert_module(task)
    task.to(trainer.strategy.root_device)
    return task


def run_verb_of_a_run(verb: str, argv: list[str], cli: type[OneProcessCLI]) -> None:
    """Runs `VERB RUN [options]`: the configuration and the last checkpoint of the folder RUN, and the options.

    Raises InputError where there is no such run, and as `run_training_verb` does.
    """
    if any(argument in ("-h", "--help") for argument in argv):
        run_training_verb([verb, "--help"], cli)
        return
    command = f"{cli.PROG} {verb}"
    if not argv or argv[0].startswith("-"):
        raise InputError(f"{verb} needs the run's folder first: {command} RUN")
    folder, options = Path(argv[0]), argv[1:]
    config = folder / CONFIG
    if not config.is_file():
        raise InputError(f"{folder} is no run: it has no {CONFIG}; give the folder that en-bench fit wrote")
    own = ["--config", str(config), "--trainer.default_root_dir", str(folder)]
    run_training_verb([verb, *own, "--ckpt_path", str(last_checkpoint(folder)), *options], cli)
