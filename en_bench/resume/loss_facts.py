"""A checkpoint is continued with the loss that trained it: one that reads a file is told by the file's content."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from en_bench.data.module import ShardDataModule
from en_bench.tasks.classification import ClassificationTask

_STATE = "en_bench_loss"


class SameLoss(Callback):
    """Refuses a checkpoint of the same loss with other facts, such as the sha256 of its file.

    Another loss, or other arguments, the command states; what a file holds nobody sees. With `--data.on_change
    next_epoch` the training goes on with the next epoch.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if isinstance(pl_module, ClassificationTask):
            checkpoint[_STATE] = _facts(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raises InputError."""
        saved, data = checkpoint.get(_STATE), getattr(trainer, "datamodule", None)
        if trainer.state.fn != "fit" or not isinstance(data, ShardDataModule) or saved is None:
            return
        assert isinstance(pl_module, ClassificationTask)
        own = _facts(pl_module)
        if own["class"] == saved["class"] and own["facts"] != saved["facts"]:
            data.changes.note(
                f"{own['class']} trains with another file's content", "give the file that it was trained with"
            )
            data.changes.refuse()


def _facts(task: ClassificationTask) -> dict[str, Any]:
    return {"class": type(task.loss).__name__, "facts": task.loss.facts()}
