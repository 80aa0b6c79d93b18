"""Callbacks that make a tiny training long enough to be disturbed, on a fast machine too, and tell where it runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer


class Slowly(Callback):
    """Sleeps after each batch."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, *_: Any) -> None:
        time.sleep(self.seconds)


class HangsOnce(Callback):
    """Does not end a step of an epoch, but for the first training that comes there alone: it leaves a mark."""

    def __init__(self, epoch: int, mark: str) -> None:
        self.epoch, self.mark = epoch, Path(mark)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch and not self.mark.exists():
            self.mark.touch()
            time.sleep(600)


class TellsWhere(Callback):
    """Prints the node of each rank, and the GPUs that Slurm lets it see."""

    def setup(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        node, gpus = os.environ.get("SLURMD_NODENAME"), os.environ.get("CUDA_VISIBLE_DEVICES")
        print(f"rank {trainer.global_rank} of {trainer.world_size} on {node} with GPUs {gpus}", flush=True)
