"""The accuracies of a training by epoch, in its checkpoints: what it can say of itself when it ends."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from en_bench.accuracies import Accuracies, Scores, three_accuracies
from en_bench.data.module import ShardDataModule

_SCORED = ("val", "val_labels")  # an epoch that was scored on another set, or by other labels, is not comparable
_CHOSEN_BY = ("train", "labels", "noise", "share")  # nor is what another held-out part said


class EpochScores(Callback):
    """Keeps top-1 accuracy of each epoch's validation; of several within an epoch the last one.

    The state is part of each checkpoint, not read from metrics.jsonl: a training that goes on in another folder has
    all its epochs too, and one that was killed has those up to where it goes on, whatever was written after.

    One that goes on with another validation set keeps none of the epochs before, and one whose held-out part or labels
    have changed keeps them without what the former part said of them.

    Attributes:
        trained_before: whether samples of the held-out part trained in epochs before, since a checkpoint held out a
            smaller share. Its accuracies choose nothing then.
    """

    def __init__(self) -> None:
        self.by_epoch: dict[int, Scores] = {}  # counted from 1
        self.trained_before = False
        self._measured: dict[str, Any] = {}  # on what, see `_facts`
        self._least_share: float | None = None  # that was held out in an epoch before or in this one

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps of a checkpoint's epochs what holds for the data of now."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ShardDataModule):
            return
        facts = _facts(data)
        before = {**facts, **self._measured}  # former versions did not say
        if any(before[name] != facts[name] for name in _SCORED):
            self.by_epoch = {}
        if any(before[name] != facts[name] for name in _CHOSEN_BY):
            self.by_epoch = {epoch: replace(scores, held_out=None) for epoch, scores in self.by_epoch.items()}
        least = before["share"] if self._least_share is None else min(self._least_share, before["share"])
        self.trained_before = data.held_out_count > 0 and data.held_out > least
        self._measured, self._least_share = facts, min(least, data.held_out)
        if self.trained_before:
            self._print(
                f"a share of {data.held_out} of {data.train} is held out, but epochs before held out {least}: samples "
                "of it have trained, so no epoch is selected by them"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = trainer.callback_metrics
        if trainer.state.fn != "fit" or trainer.sanity_checking or "val/top1" not in values:
            return
        n = round(float(values["val/n"]))
        data = getattr(trainer, "datamodule", None)
        own = data if isinstance(data, ShardDataModule) else None
        manifest = own.val_manifest if own is not None else None
        chooses = own is not None and own.held_out_count > 0 and not self.trained_before
        held_out = float(values["held_out/top1"]) if chooses and "held_out/top1" in values else None
        whole = manifest is None or n == manifest.count
        self.by_epoch[trainer.current_epoch + 1] = Scores(float(values["val/top1"]), n, whole, held_out)

    def accuracies(self, epochs: int) -> Accuracies:
        """The three of a training of so many epochs."""
        found = three_accuracies(self.by_epoch, epochs)
        return {**found, "selected": None} if self.trained_before else found

    def state_dict(self) -> dict[str, Any]:
        return {
            "by_epoch": {epoch: asdict(scores) for epoch, scores in self.by_epoch.items()},
            "measured": self._measured,
            "least_share": self._least_share,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.by_epoch = {epoch: Scores(**scores) for epoch, scores in state_dict["by_epoch"].items()}
        self._measured, self._least_share = state_dict.get("measured", {}), state_dict.get("least_share")

    @rank_zero_only
    def _print(self, line: str) -> None:
        print(line, flush=True)


def _facts(data: ShardDataModule) -> dict[str, Any]:
    """What the accuracies are measured on: sets by their digests, columns, made noise as JSON, held-out share."""
    assert data.val_manifest is not None and data.train_manifest is not None
    return {
        "val": data.val_manifest.digest,
        "val_labels": data.val_column,
        "train": data.train_manifest.digest,
        "labels": data.labels,
        "noise": None if data.noise is None else json.dumps(data.noise.compared(), sort_keys=True),
        "share": data.held_out,
    }
