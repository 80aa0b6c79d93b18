"""What a training cost."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from en_bench.telemetry.flops import forward_flops
from en_bench.telemetry.validation_cost import synchronise

_START_UP_STEPS = 5


class CostMeter(Callback):
    """Seconds and images of training over all ranks, with the validations in between left out.

    `seconds_per_step`, of one batch on every rank, leaves out the first steps of each process too: they compile, and
    fill the pipelines.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self._steps = 0
        self._start_up: tuple[float, int] = 0.0, 0  # seconds and steps of former processes, and of this one once over
        self._began: tuple[float, int] | None = None  # where this process took over, until its start-up is over
        self.shape: tuple[int, ...] | None = None  # of one image
        self._running_since: float | None = None

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.seconds if self.seconds > 0 else None

    @property
    def seconds_per_step(self) -> float | None:
        """None where no step was left to measure."""
        seconds, steps = self._start_up_so_far()
        return (self._elapsed() - seconds) / (self._steps - steps) if self._steps > steps else None

    def flops(self, network: nn.Module) -> int | None:
        """Of a forward pass over one image of the training's size; None before the first batch."""
        return None if self.shape is None else forward_flops(network, self.shape)

    def _elapsed(self) -> float:
        return self.seconds + (0.0 if self._running_since is None else time.monotonic() - self._running_since)

    def _start_up_so_far(self) -> tuple[float, int]:
        seconds, steps = self._start_up
        if self._began is None:
            return seconds, steps
        return seconds + self._elapsed() - self._began[0], steps + self._steps - self._began[1]

    def _stop(self, device: torch.device) -> None:
        if self._running_since is not None:
            synchronise(device)  # steps that are queued on a GPU are training yet
            self.seconds = self._elapsed()
            self._running_since = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._began = self.seconds, self._steps
        self._running_since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch.target) * trainer.world_size
        self.shape = tuple(batch.image.shape[1:])
        self._steps += 1
        if self._began is not None and self._steps - self._began[1] == _START_UP_STEPS:
            synchronise(pl_module.device)
            self._start_up, self._began = self._start_up_so_far(), None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._running_since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        counted = {"seconds": self._elapsed(), "images": self.images, "shape": self.shape}
        return {**counted, "steps": self._steps, "start_up": list(self._start_up_so_far())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.images = float(state_dict["seconds"]), int(state_dict["images"])
        self.shape = state_dict.get("shape")  # checkpoints of former versions have none, and no steps
        self._steps = int(state_dict.get("steps", 0))
        seconds, steps = state_dict.get("start_up", (self.seconds, 0))
        self._start_up = float(seconds), int(steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(pl_module.device)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory allocated on a GPU since training began; None elsewhere: a process cannot tell its own share."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
