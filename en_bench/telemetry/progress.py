"""Tells in a small file how far a training or validation is, for whoever watches from outside."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from en_bench.matrix.progress import Progress, remove_progress, write_progress

_SECONDS_BETWEEN = 1.0
_NO_SCORES = ("n", "unreadable")


class ProgressFile(Callback):
    """Writes `<folder>/progress.json` on rank 0, at most once a second and when the phase changes.

    Nothing of it waits for a GPU: rates are images over wall-clock time, and scores are read after a validation only.
    What cannot be written is left out. Under a lease that was lost LeaseLost ends the command at the next step. The
    file goes when the command ends, also by an error; not when it is killed.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._scores: dict[str, float | None] = {}
        self._phase = "fit"
        self._written = -math.inf
        self._images, self._since = 0, -math.inf  # of this phase, and the clock that goes with them
        self._rates: dict[str, float] = {}  # by phase, the last that was measured
        self._began: tuple[float, int] | None = None  # when, and at which step, the first step had ended

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter("fit")
        self._write(trainer, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count(trainer, len(batch.target), trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._enter("validate")
            self._write(trainer, self._step(trainer, 0))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._count(trainer, len(batch.target), self._step(trainer, batch_idx + 1))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        found = {k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self._scores = {k: v if math.isfinite(v) else None for k, v in found.items() if k not in _NO_SCORES}
        if _fits(trainer):
            self._enter("fit")
            self._write(trainer, trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            remove_progress(self._folder)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            remove_progress(self._folder)

    def _enter(self, phase: str) -> None:
        self._phase, self._images, self._since = phase, 0, time.monotonic()

    @staticmethod
    def _step(trainer: Trainer, validated: int) -> int:
        """Where the command stands: a training does not go on while it validates."""
        return trainer.global_step if _fits(trainer) else validated

    def _count(self, trainer: Trainer, images: int, step: int) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = now, step  # the first step also compiles, and fills the pipelines
        self._images += images * trainer.world_size
        if now - self._written >= _SECONDS_BETWEEN:
            self._rates[self._phase] = self._images / max(now - self._since, 1e-9)
            self._images, self._since = 0, now
            self._write(trainer, step)

    def _write(self, trainer: Trainer, step: int) -> None:
        if not trainer.is_global_zero:
            return
        self._written = now = time.monotonic()
        training = _fits(trainer)
        steps = trainer.estimated_stepping_batches if training else sum(trainer.num_val_batches)
        known = None if math.isinf(steps) else int(steps)
        write_progress(
            self._folder,
            Progress(
                command="fit" if training else "validate",
                phase=self._phase,
                epoch=trainer.current_epoch + 1 if training else None,
                epochs=trainer.max_epochs if training and (trainer.max_epochs or 0) > 0 else None,
                step=step,
                steps=known,
                images_per_second=self._rates.get(self._phase),
                scores=self._scores,
                seconds_left=None if known is None else self._seconds_left(now, step, known),
                host=socket.gethostname(),
                pid=os.getpid(),
                time=time.time(),
            ),
        )

    def _seconds_left(self, now: float, step: int, steps: int) -> float | None:
        """At the pace so far, the validations in between included; None before a second step has ended."""
        if self._began is None or step <= self._began[1]:
            return None
        began, first = self._began
        return max(0, steps - step) * (now - began) / (step - first)


def _fits(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit"
