"""What a training cost."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from en_bench.telemetry.flops import forward_flops


class CostMeter(Callback):
    """Seconds and images of training over all ranks, with the validations in between left out."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self.shape: tuple[int, ...] | None = None  # of one image
        self._running_since: float | None = None

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.seconds if self.seconds > 0 else None

    def flops(self, network: nn.Module) -> int | None:
        """Of a forward pass over one image of the training's size; None before the first batch."""
        return None if self.shape is None else forward_flops(network, self.shape)

    def _stop(self) -> None:
        if self._running_since is not None:
            self.seconds += time.monotonic() - self._running_since
            self._running_since = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._running_since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch.target) * trainer.world_size
        self.shape = tuple(batch.image.shape[1:])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._running_since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        now = time.monotonic()
        seconds = self.seconds + now - (self._running_since or now)
        return {"seconds": seconds, "images": self.images, "shape": self.shape}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.images = float(state_dict["seconds"]), int(state_dict["images"])
        self.shape = state_dict.get("shape")  # checkpoints of former versions have none

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory allocated on a GPU since training began; None elsewhere: a process cannot tell its own share."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
