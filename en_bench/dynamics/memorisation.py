"""How much of the wrong labels a training has memorised, epoch by epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from en_bench.data.dataset import Batch
from en_bench.data.module import ShardDataModule
from en_bench.dynamics.measures import predictions, samples_of
from en_bench.noise.in_words import labels_told
from en_bench.tasks.metrics import WIDE

OUTCOMES = ("wrong_as_given", "wrong_as_clean", "wrong_as_neither", "right_learnt", "right_missed", "unknown")
_STATE = "en_bench_memorisation"


def outcomes(predicted_B: Tensor, target_B: Tensor, clean_B: Tensor) -> Tensor:
    """How many samples of a batch have each of OUTCOMES, (6,) int64.

    A sample is wrongly labelled where the label that trains, `target_B`, is not `clean_B`; negative clean labels are
    unknown. Nothing waits for the device.
    """
    wrong, known = target_B != clean_B, clean_B >= 0
    as_given, as_clean = predicted_B == target_B, predicted_B == clean_B
    found = (
        known & wrong & as_given,
        known & wrong & as_clean,
        known & wrong & ~as_given & ~as_clean,
        known & ~wrong & as_given,
        known & ~wrong & ~as_given,
        ~known,
    )
    return torch.stack(found).sum(1)


class Memorisation(Callback):
    """Logs, once per epoch, what the network says of its training samples, as they were trained on: augmented, before
    the step's update.

    Of the wrongly labelled: the shares predicted as given (`memory/wrong_as_given`: memorised), as clean
    (`memory/wrong_as_clean`) and as neither; of the rightly labelled: the share predicted so (`memory/right_learnt`).
    Beside them how many samples of the epoch these were: `memory/n_wrong`, `memory/n_right`, and `memory/n_unknown` for
    those whose clean label is not known, which are in no share. A share of no samples is not logged.

    Exact over ranks, and over interruptions within an epoch. It is at work where the training split has a column
    `clean` and trains on another one, or noise was made. The clean labels reach this callback alone.
    """

    def __init__(self) -> None:
        self._clean: Tensor | None = None  # (N,) by row, on the device; None where there is nothing to measure
        self._counts = torch.zeros(len(OUTCOMES), dtype=torch.int64)  # of this rank, in the epoch under way
        self._saved: Tensor | None = None  # of all ranks, in a checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        labels = _clean_labels(getattr(trainer, "datamodule", None))
        self._clean = None if labels is None else labels.to(device)
        # Sums may lie on any rank: those of the checkpoint go on with the first one, however many there are now.
        saved, self._saved = self._saved, None
        own = saved is not None and trainer.is_global_zero
        self._counts = saved.to(device) if saved is not None and own else torch.zeros_like(self._counts, device=device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts = torch.zeros_like(self._counts)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        samples = samples_of(outputs)
        if self._clean is not None and samples is not None:
            predicted = predictions(samples.logits)
            self._counts += outcomes(predicted, samples.target, self._clean[samples.row])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._clean is None:
            return
        values = shares(self._of_all_ranks(trainer))
        # The same on all ranks already; sync_dist only tells Lightning so.
        for name, value in values.items():
            pl_module.log(f"memory/{name}", torch.tensor(value, dtype=WIDE), batch_size=1, sync_dist=True)
        self._tell(trainer, values)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._clean is not None:
            checkpoint[_STATE] = {"counts": self._of_all_ranks(trainer)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved = checkpoint[_STATE]["counts"] if _STATE in checkpoint else None

    def _of_all_ranks(self, trainer: Trainer) -> Tensor:
        """Every rank must call it."""
        total = trainer.strategy.reduce(self._counts.clone(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.cpu()

    @rank_zero_only
    def _tell(self, trainer: Trainer, values: dict[str, float]) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        wrong = [("as given", "wrong_as_given"), ("as clean", "wrong_as_clean"), ("neither", "wrong_as_neither")]
        labels = labels_told(data.labels, None if data.noise is None else data.noise.describe())
        told = [f"epoch {trainer.current_epoch + 1}  memory {data.train} (labels {labels})"]
        for about, names in (("wrong", wrong), ("right", [("learnt", "right_learnt")])):
            found = [f"{word} {values[name]:.4f}" for word, name in names if name in values]
            told.append(f"{about}: " + "  ".join([*found, f"n {round(values[f'n_{about}'])}"]))
        if values["n_unknown"]:
            told.append(f"unknown {round(values['n_unknown'])}")
        print("  ".join(told), flush=True)


def shares(counts: Tensor) -> dict[str, float]:
    """From how many samples have each of OUTCOMES to the metrics, without a share of no samples."""
    found = dict(zip(OUTCOMES, counts.tolist(), strict=True))
    wrong, right = (sum(n for name, n in found.items() if name.startswith(which)) for which in ("wrong_", "right_"))
    values = {name: found[name] / wrong for name in OUTCOMES[:3] if wrong}
    if right:
        values["right_learnt"] = found["right_learnt"] / right
    return {**values, "n_wrong": wrong, "n_right": right, "n_unknown": found["unknown"]}


def _clean_labels(data: object) -> Tensor | None:
    """The clean label (N,) of each row of the training split, if what trains there can differ from it."""
    if not isinstance(data, ShardDataModule) or data.training_labels is None:
        return None
    found = data.training_labels.measured_by
    return None if found is None else torch.from_numpy(found[1].astype(np.int64))
