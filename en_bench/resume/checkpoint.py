"""The checkpoint of a run: when it is written, and that a kill at any moment leaves the old one or the new one."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from en_bench.data.module import ShardDataModule
from en_bench.errors import InputError
from en_bench.files import replacing
from en_bench.lease_guard import require_lease
from en_bench.provenance import device_name
from en_bench.resume.reached import Pace, Reached, add_reached, reached_of
from en_bench.tasks.metrics import WIDE
from en_bench.telemetry.cost import CostMeter
from en_bench.telemetry.metrics_file import MetricsFile
from en_bench.telemetry.validation_cost import ValidationCost

CHECKPOINTS, LAST = "checkpoints", "last.ckpt"
_METRICS, _VALUES, _REACHED = "en_bench_metrics", "en_bench_last_values", "en_bench_reached"
_Kind = TypeVar("_Kind")
_FIRST_LOOK = 10  # steps after which the pace of a training is known well enough


class RunCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` of the run's folder up to date: after each epoch, and within.

    Args:
        every_n_steps: optimiser steps between two checkpoints within an epoch; None leaves them to the clock.
        every_minutes: minutes between two checkpoints within an epoch.

    Raises InputError for numbers that are not above 0.
    """

    def __init__(self, every_n_steps: int | None = None, every_minutes: float = 10.0) -> None:
        if (every_n_steps is not None and every_n_steps < 1) or not every_minutes > 0:
            raise InputError(
                f"--checkpoint.every_n_steps {every_n_steps}, --checkpoint.every_minutes {every_minutes}: "
                "both have to be above 0"
            )
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._saved_step, self._saved_time = 0, 0.0
        self._look_at = 0  # the step at which to look at the clock again, the same on all ranks
        self._metrics: dict[str, Any] | None = None
        self._values: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_interval(trainer)

    def go_on(self, trainer: Trainer) -> None:
        """Puts the metrics back to what they were at the checkpoint that a training goes on from, if it does."""
        if self._metrics is not None and trainer.is_global_zero:
            for logger in _metrics_files(trainer):
                logger.cut(self._metrics)
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, ShardDataModule) or data.changes.restarted_at is None:  # else they are of other data
            values = {name: torch.tensor(value, dtype=WIDE) for name, value in self._values.items()}
            trainer.callback_metrics.update(values)
        self._metrics, self._values = None, {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for logger in _metrics_files(trainer):
            checkpoint[_METRICS] = logger.mark()
        checkpoint[_VALUES] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.state.fn == "fit":
            checkpoint[_REACHED] = asdict(_reached(trainer))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._metrics, self._values = checkpoint.get(_METRICS), checkpoint.get(_VALUES, {})

    def save_if_due(self, trainer: Trainer, now: bool = False) -> None:
        """Saves between two batches if it is time to, which it is `now` at the latest. Every rank must call it."""
        step = trainer.global_step
        if step == self._saved_step:
            return
        by_steps = self.every_n_steps is not None and step % self.every_n_steps == 0
        if now or by_steps or (step >= self._look_at and self._clock_says_so(trainer)):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Saves now. Every rank must call it."""
        trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir))
        self._begin_interval(trainer)

    def _begin_interval(self, trainer: Trainer) -> None:
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()
        self._look_at = trainer.global_step + _FIRST_LOOK

    def _clock_says_so(self, trainer: Trainer) -> bool:
        """Rank 0's clock for all. Between two looks lie as many steps as fit into the time left: asking costs."""
        interval = 60 * self.every_minutes
        spent = time.monotonic() - self._saved_time
        pace = spent / (trainer.global_step - self._saved_step)
        left = math.ceil((interval - spent) / max(pace, 1e-9))
        steps = int(trainer.strategy.broadcast(left))
        self._look_at = trainer.global_step + max(1, steps)
        return steps <= 0


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there, whole and on the disk.

    Lightning's own way copies it from the system's folder for temporary files, which a kill can cut off. How far the
    training is can be read from the file by `read_reached`.
    """

    def __init__(self) -> None:
        self._swept: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        require_lease()  # else another writes there
        if target not in self._swept and target.parent.is_dir():
            self._swept.add(target)
            for remains in target.parent.glob(f".{target.name}.*"):  # of a process that was killed while it wrote
                remains.unlink(missing_ok=True)
        reached = checkpoint.pop(_REACHED, None)
        with replacing(target) as file:
            torch.save(checkpoint, file)
            if reached is not None:
                add_reached(file, reached_of(reached))


def last_checkpoint(run: str | os.PathLike[str]) -> Path:
    """The checkpoint of a run's folder."""
    return Path(run) / CHECKPOINTS / LAST


def _metrics_files(trainer: Trainer) -> list[MetricsFile]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsFile)]


def _reached(trainer: Trainer) -> Reached:
    epochs = trainer.max_epochs if (trainer.max_epochs or 0) > 0 else None
    steps, epoch = trainer.estimated_stepping_batches, trainer.current_epoch + 1
    return Reached(
        epoch=epoch if epochs is None else min(epoch, epochs),
        epochs=epochs,
        step=trainer.global_step,
        steps=None if math.isinf(steps) else int(steps),
        pace=_pace(trainer),
    )


def _pace(trainer: Trainer) -> Pace | None:
    """As the meters among the callbacks have it so far."""
    steps = [callback.seconds_per_step for callback in _of_kind(trainer, CostMeter)]
    validations = [callback.images_per_second for callback in _of_kind(trainer, ValidationCost)]
    if not steps or not steps[0]:
        return None
    device = device_name(trainer.strategy.root_device)
    return Pace(steps[0], next(iter(validations), None), device, trainer.world_size)


def _of_kind(trainer: Trainer, kind: type[_Kind]) -> list[_Kind]:
    # Lightning's connector sets the attribute, which Trainer does not declare: mypy would refuse it.
    callbacks: list[Callback] = vars(trainer)["callbacks"]
    return [callback for callback in callbacks if isinstance(callback, kind)]
