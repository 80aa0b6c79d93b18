"""`en-bench fit` and `en-bench validate`: a LightningCLI over one task and one data module.

A run has one folder (`trainer.default_root_dir`): config.yaml, metrics.jsonl, checkpoints/last.ckpt, and at the end
fit.json; each validation adds a result file. The configuration lies beside the checkpoint, never in it, so a flag given
when resuming takes effect.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers.logger import Logger

from en_bench import accuracies, outcome
from en_bench.data.module import ShardDataModule
from en_bench.dynamics import DynamicsRecorder, Memorisation
from en_bench.dynamics.files import set_aside as set_dynamics_aside
from en_bench.errors import InputError, message_of
from en_bench.files import write_json
from en_bench.folder_claim import claim_folder
from en_bench.layer_sync import flag_as_plugin
from en_bench.matrix.label_files import changed_files
from en_bench.matrix.overlays import check_plain
from en_bench.matrix.plan import without_places
from en_bench.outcome import digest
from en_bench.resume.checkpoint import RunCheckpoint, last_checkpoint
from en_bench.resume.loss_facts import SameLoss
from en_bench.tasks.classification import ClassificationTask
from en_bench.telemetry.console import ConsoleLines
from en_bench.telemetry.cost import CostMeter
from en_bench.telemetry.epoch_scores import EpochScores
from en_bench.telemetry.metrics_file import MetricsFile, set_aside
from en_bench.telemetry.progress import ProgressFile
from en_bench.telemetry.unreadable import Unreadable
from en_bench.telemetry.validation_cost import ValidationCost
from en_bench.telemetry.wandb import WandbMirror
from en_bench.trainer import EnBenchTrainer

FIT_RESULT = "fit.json"
IF_ANY = "last"  # as --ckpt_path: the checkpoint of the run's own folder, if there is one


class AlreadyEnded(Exception):  # noqa: N818 - no error
    """There is nothing to train; the message says so."""


class EnBenchCLI(LightningCLI):
    """Overlays and flags to a trainer, a task and a data module, and their outcome to a file."""

    PROG: ClassVar[str] = "en-bench"
    TRAINER: ClassVar[type[EnBenchTrainer]] = EnBenchTrainer
    known_options: ClassVar[list[str]] = []
    trainer: EnBenchTrainer
    model: ClassificationTask
    datamodule: ShardDataModule
    claims: ClassVar[ExitStack]  # of run folders, for as long as the command runs
    _continues_if_any = False

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        known = LightningCLI.subcommands()
        return {"fit": known["fit"], "validate": known["validate"] | {"verbose"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--result",
            type=str | None,
            default=None,
            help="file for the outcome, JSON (fit: beside fit.json; validate: instead of one in the run's validate/)",
        )
        self.add_options_of_callbacks(parser)

    @staticmethod
    def add_options_of_callbacks(parser: LightningArgumentParser) -> None:
        """Of those that every run has."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(DynamicsRecorder, "dynamics")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Without the base's warning about arguments given from Python: ours come from there always.
        parsers = self._subcommand_parsers.values()
        EnBenchCLI.known_options = sorted({a.dest for p in parsers for a in p._actions if "." in a.dest})
        for action in (a for p in parsers for a in p._actions if a.dest == "ckpt_path"):
            action.help = f"checkpoint: a file, or `{IF_ANY}`, that of the run's own folder if there is one"
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Not as Lightning does, which lets what the checkpoint holds configure the run."""

    def before_instantiate_classes(self) -> None:
        settings = self.config[self.config.subcommand]
        if settings.data.seed is None:
            settings.data.seed = settings.seed_everything
        if settings.trainer.default_root_dir is None:
            settings.trainer.default_root_dir = os.path.join("results", "runs", self._identity()[:16])
        self._continues_if_any = settings.ckpt_path == IF_ANY
        if self._continues_if_any:
            last = last_checkpoint(settings.trainer.default_root_dir)
            settings.ckpt_path = str(last) if last.is_file() else None
        if settings.ckpt_path is not None:
            self._check_checkpoint(settings.ckpt_path)

    @staticmethod
    def _check_checkpoint(path: str) -> None:
        """Raises InputError unless the checkpoint can be read without running code of it."""
        if not Path(path).is_file():
            raise InputError(f"there is no checkpoint {path}: give the path of a .ckpt file with --ckpt_path")
        try:
            saved = torch.load(path, map_location="meta", weights_only=True)
        except Exception as error:  # torch raises half a dozen types on foreign bytes
            raise InputError(
                f"{path} is no checkpoint that can be read safely ({type(error).__name__}): give another --ckpt_path"
            ) from None
        if not isinstance(saved, dict) or "state_dict" not in saved:
            raise InputError(f"{path} holds no state_dict of a task: give a checkpoint that en-bench fit has written")

    def _identity(self) -> str:
        """The same for a training that begins and for one that goes on, wherever and with however many processes."""
        return digest(json.dumps(without_places(_settings(self._plain_config())), sort_keys=True))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init[self.subcommand].trainer
        folder = Path(settings.default_root_dir)
        loggers = settings.logger if isinstance(settings.logger, list) else [settings.logger]
        mirrors = [logger for logger in loggers if isinstance(logger, Logger)]
        for mirror in mirrors:
            if isinstance(mirror, WandbMirror):
                mirror.attach(folder, self._identity()[:8], self._plain_config())
        terminal = sys.stdout.isatty()
        self.cost, self.scores, self.unreadable = CostMeter(), EpochScores(), Unreadable(folder)
        self.validations = ValidationCost()
        watching = [
            self.cost,
            self.validations,
            self.scores,
            ConsoleLines(not terminal),
            self.unreadable,
            Memorisation(),
            SameLoss(),
        ]
        fixed: dict[str, Any] = {
            "callbacks": [*(settings.callbacks or []), *watching, ProgressFile(folder)],
            "logger": [MetricsFile(folder), *mirrors] if self.subcommand == "fit" else False,
            **flag_as_plugin(settings),
            **({} if terminal else {"enable_progress_bar": False}),
        }
        try:
            return super().instantiate_trainer(**{**fixed, **kwargs})
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise InputError(
                f"the trainer's options do not fit this machine or each other: {message_of(error)}"
            ) from None

    def before_fit(self) -> None:
        folder = self._folder()
        if self.config_init.fit.trainer.overfit_batches:
            raise InputError("--trainer.overfit_batches would change the order: use --trainer.limit_train_batches")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: choose another --trainer.default_root_dir")
        if self._is_first_process():  # before a look at what another run may be about to write
            self.claims.enter_context(claim_folder(folder, "wait for its end, or choose another folder"))
        ended = self._ended(folder) if self._continues_if_any else None
        if ended is not None:
            if self.config.fit.result is not None and self._is_first_process():
                write_json(Path(self.config.fit.result), ended)
            raise AlreadyEnded(f"{folder}: this training has ended already: nothing to do")
        if self._is_first_process() and (folder / FIT_RESULT).exists():
            raise InputError(
                f"{folder} already holds a finished training: choose another --trainer.default_root_dir, where "
                f"--ckpt_path {last_checkpoint(folder)} trains on from its end"
            )
        check_plain(self._plain_config(), "the configuration")
        self.config_init.fit.dynamics.check()
        self.datamodule.open("fit", ranks=self.trainer.num_devices * self.trainer.num_nodes)
        self.model.check(self.datamodule, self.trainer)
        if self.config_init.fit.ckpt_path is None and self._is_first_process():
            number = set_aside(folder)
            set_dynamics_aside(folder, number)
            last = last_checkpoint(folder)
            if last.exists():  # of the same run: --ckpt_path last must not take it for this one's
                last.rename(last.with_name(f"{last.stem}.{number}{last.suffix}"))

    def _ended(self, folder: Path) -> dict[str, Any] | None:
        """The outcome in `folder`, if it is that of a training with this very configuration."""
        try:
            found: dict[str, Any] = json.loads((folder / FIT_RESULT).read_text(encoding="utf-8"))
            same = without_places(_settings(found["config"])) == without_places(_settings(self._plain_config()))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if same and not changed_files(found) else None

    @staticmethod
    def _is_first_process() -> bool:
        """Whether this is the process that the user started, or rank 0: known before there is any process group."""
        return all(int(os.environ.get(name, "0")) == 0 for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))

    def before_validate(self) -> None:
        if self.config_init.validate.ckpt_path is None:
            if self._continues_if_any:
                raise InputError(f"there is no {last_checkpoint(self._folder())} yet: train first, or name another")
            raise InputError("validate needs --ckpt_path, e.g. the checkpoints/last.ckpt of a run's folder")
        self.datamodule.open("validate")

    def fit(self, **arguments: Any) -> None:
        """Trains; an interrupt or a stop, which Lightning turns into exit code 1, is told as what it is."""
        try:
            self.trainer.fit(**arguments)
        except SystemExit:
            if not self.trainer.interrupted:
                raise
            last = last_checkpoint(self._folder())
            cure = "the same command with --ckpt_path last continues" if last.exists() else "there is no checkpoint yet"
            print(f"en-bench: stopped in epoch {self.trainer.current_epoch + 1}: {cure}", file=sys.stderr)
            raise KeyboardInterrupt from None

    def validate(self, **arguments: Any) -> None:
        """Without Lightning's own table: ConsoleLines prints the scores with their n."""
        self.trainer.validate(**arguments, verbose=False)

    def after_fit(self) -> None:
        if self.trainer.interrupted:
            return
        if self.trainer.is_global_zero:
            facts = outcome.fit_facts(
                self.trainer, self.datamodule, self.cost, self.validations, self.unreadable, self.scores
            )
            facts["loss"] = {"class": type(self.model.loss).__name__, **self.model.loss.facts()}
            three = accuracies.told(facts["accuracies"], facts["held_out"])
            print(f"top-1 on {self.datamodule.val}   {three}", flush=True)
            self._write_result([self._folder() / FIT_RESULT], facts)

    def after_validate(self) -> None:
        if not self.trainer.is_global_zero:
            return
        checkpoint = str(self.config_init.validate.ckpt_path)
        facts = outcome.validation_facts(self.trainer, self.datamodule, self.validations, checkpoint)
        own = self._folder() / "validate" / outcome.validation_name(self.datamodule, checkpoint)
        self._write_result([] if self.config.validate.result is not None else [own], facts)

    def _folder(self) -> Path:
        return Path(self.trainer.default_root_dir)

    def _write_result(self, paths: list[Path], facts: dict[str, Any]) -> None:
        """Writes the outcome to `paths`, and to where --result says."""
        settings = self.config[self.subcommand]
        name = str(self.subcommand)
        common = outcome.common_facts(name, settings.seed_everything, self._plain_config(), self.trainer)
        for path in [*paths, *([Path(settings.result)] if settings.result is not None else [])]:
            write_json(path, {**common, **facts})
            print(f"wrote {path}", flush=True)

    def _plain_config(self) -> dict[str, Any]:
        parser = self._parser(self.subcommand)
        plain: dict[str, Any] = json.loads(parser.dump(self.config[self.subcommand], skip_unset=False, format="json"))
        if self.subcommand == "fit" and self._continues_if_any:
            plain["ckpt_path"] = None  # that a training went on is no setting of it
        return plain


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what says where its outcome goes and what it goes on from."""
    return {name: value for name, value in config.items() if name not in ("ckpt_path", "result")}
