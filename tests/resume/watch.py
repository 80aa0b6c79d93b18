"""Callbacks that write down what a training does, and that end its process at a chosen place."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from en_bench.tasks.classification import ClassificationTask
from en_bench.tasks.sample_table import SampleTable


class Trace(Callback):
    """Appends a line per batch and validation to `<file>.<rank>`; every batch is disturbed by random numbers.

    So the weights depend on the state of all generators.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        batch.image.mul_(1 + 0.01 * sum(draws))
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        image = batch.image.double().sum().item()  # of all that came before in the list of callbacks, too
        self._write(
            trainer,
            epoch=trainer.current_epoch,
            batch=batch_idx,
            rows=batch.row.tolist(),
            draws=draws,
            lr=rate,
            image=image,
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, epoch=trainer.current_epoch, begins=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, epoch=trainer.current_epoch, ends=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self._write(trainer, epoch=trainer.current_epoch, step=trainer.global_step, scores=scores)

    def _write(self, trainer: Trainer, **what: Any) -> None:
        with Path(f"{self.file}.{trainer.global_rank}").open("a") as file:
            file.write(json.dumps(what) + "\n")


class Memory(Callback):
    """Disturbs every batch by what the same samples left in the epoch before, as losses with a state per sample do."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, ClassificationTask)
        self.table = pl_module.sample_tables["memory"] = SampleTable(200, (3,))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        batch.image.add_(0.01 * self.table.read(batch.row).sum(1).view(-1, 1, 1, 1))
        channels = batch.image.mean((2, 3))
        self.table.write(batch.row, 0.5 * self.table.read(batch.row) + channels, trainer.global_step)


class Mean(Callback):
    """Logs a value over each epoch."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.log("mean_loss", outputs["loss"].detach(), on_step=False, on_epoch=True, batch_size=1)
        self.log("top_loss", outputs["loss"].detach(), on_step=False, on_epoch=True, batch_size=1, reduce_fx="max")


class Killed(BaseException):
    """In place of a real kill, for tests that stay in one process."""


class KillAt(Callback):
    """Kills the process, once, as the process that finds `marker` missing.

    Args:
        where: `batch E S` (after batch S of epoch E), `validation E` (after its first batch), `held_out E` (after the
            first batch of the held-out part), `save N` (while the N-th checkpoint is written), or `end` (when all is
            trained and saved).
        marker: file that is made just before.
        by: `kill` (-9), `raise` (a `Killed`), `interrupt` (Ctrl-C), or the name of a signal.
        rank: the rank that is killed, or gets the signal.
    """

    def __init__(self, where: str, marker: str, by: str = "kill", rank: int = 0) -> None:
        self.kind, *numbers = where.split()
        self.numbers = [int(number) for number in numbers]
        self.marker = Path(marker)
        self.by = by
        self.rank = rank
        self.saves = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        batch = trainer.fit_loop.epoch_loop.batch_idx
        if self.kind == "batch" and [trainer.current_epoch, batch] == self.numbers and self.is_meant(trainer):
            self.kill()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        part = ("validation", "held_out")[dataloader_idx]
        if self.kind == part and [trainer.current_epoch] == self.numbers and self.is_meant(trainer):
            self.kill()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.saves += 1
        wanted = self.kind == "save" and [self.saves] == self.numbers and trainer.is_global_zero
        if wanted and not self.marker.exists():
            # Pickled after a tensor of some size, thus in the middle of the file.
            checkpoint["ballast"] = [torch.zeros(100_000), Deadly(self)]

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        if self.kind == "end":
            self.kill()

    def is_meant(self, trainer: Trainer) -> bool:
        return trainer.world_size == 1 or trainer.global_rank == self.rank

    def kill(self) -> None:
        if self.marker.exists():
            return
        self.marker.touch()
        if self.by == "raise":
            raise Killed
        names = {"kill": "SIGKILL", "interrupt": "SIGINT"}
        os.kill(os.getpid(), signal.Signals[names.get(self.by, self.by)])


class Deadly:
    """Kills whoever pickles it."""

    def __init__(self, killer: KillAt) -> None:
        self.killer = killer

    def __reduce__(self) -> Any:
        self.killer.kill()
        raise AssertionError("the kill did not come")
