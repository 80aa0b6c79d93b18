"""How fast validations are."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class ValidationCost(Callback):
    """Seconds and images of validations over all ranks, from each one's start to its scores, in this process.

    The first `skipped` batches are left out: they compile and fill caches.
    """

    def __init__(self, skipped: int = 0) -> None:
        self.seconds = 0.0
        self.images = 0
        self._to_skip = skipped
        self._since = 0.0
        self._counted: Tensor | None = None  # stays on its device until the validation ends: asking would stop it

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.seconds if self.seconds > 0 and self.images else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        synchronise(pl_module.device)
        self._since, self._counted = time.monotonic(), None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._to_skip:
            self._to_skip -= 1
            synchronise(pl_module.device)
            self._since = time.monotonic()
        else:
            images = batch.valid.sum()
            self._counted = images if self._counted is None else self._counted + images

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and self._counted is not None:
            self.images += int(self._counted) * trainer.world_size
            self.seconds += time.monotonic() - self._since


def synchronise(device: torch.device) -> None:
    """Wait for a GPU to have done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
