"""The accuracies of a training by epoch, in its checkpoints: what it can say of itself when it ends."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lightning import Callback, LightningModule, Trainer

from en_bench.accuracies import Accuracies, Scores, three_accuracies
from en_bench.data.module import ShardDataModule


class EpochScores(Callback):
    """Keeps top-1 accuracy of each epoch's validation; of several within an epoch the last one.

    The state is part of each checkpoint, not read from metrics.jsonl: a training that goes on in another folder has
    all its epochs too, and one that was killed has those up to where it goes on, whatever was written after.
    """

    def __init__(self) -> None:
        self.by_epoch: dict[int, Scores] = {}  # counted from 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = trainer.callback_metrics
        if trainer.state.fn != "fit" or trainer.sanity_checking or "val/top1" not in values:
            return
        n = round(float(values["val/n"]))
        data = getattr(trainer, "datamodule", None)
        manifest = data.val_manifest if isinstance(data, ShardDataModule) else None
        held_out = float(values["held_out/top1"]) if "held_out/top1" in values else None
        whole = manifest is None or n == manifest.count
        self.by_epoch[trainer.current_epoch + 1] = Scores(float(values["val/top1"]), n, whole, held_out)

    def accuracies(self, epochs: int) -> Accuracies:
        """The three of a training of so many epochs."""
        return three_accuracies(self.by_epoch, epochs)

    def state_dict(self) -> dict[str, Any]:
        return {"by_epoch": {epoch: asdict(scores) for epoch, scores in self.by_epoch.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.by_epoch = {epoch: Scores(**scores) for epoch, scores in state_dict["by_epoch"].items()}
