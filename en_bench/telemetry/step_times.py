"""What a step takes once a training has started up: the probe of `en-bench matrix plan --probe`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from en_bench.files import write_json
from en_bench.telemetry.validation_cost import ValidationCost, synchronise

NAME = "step_times.json"


class StepTimes(ValidationCost):
    """Writes `step_times.json` into the run's folder: seconds of the steps after the first `warm_up`, of validations
    after their first batch, and how many of each were measured.

    The first step of an epoch belongs to no measurement: it waits for the first batch to be read.
    """

    def __init__(self, warm_up: int = 5) -> None:
        super().__init__(skipped=1)
        self.steps = 0
        self.step_seconds = 0.0
        self._unmeasured = warm_up
        self._steps_since: float | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._unmeasured -= 1
        if self._steps_since is not None:
            self.steps += 1
        elif self._unmeasured <= 0:
            synchronise(pl_module.device)
            self._steps_since = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(pl_module)
        super().on_validation_start(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            measured = {
                "steps": self.steps,
                "step_seconds": self.step_seconds,
                "validation_images": self.images,
                "validation_seconds": self.seconds,
            }
            write_json(Path(trainer.default_root_dir) / NAME, measured)

    def _pause(self, pl_module: LightningModule) -> None:
        if self._steps_since is not None:
            synchronise(pl_module.device)
            self.step_seconds += time.monotonic() - self._steps_since
            self._steps_since = None
