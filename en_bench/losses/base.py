"""What all losses share: the precision they compute in, and what they are told before and during a training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from en_bench.norms.autocast import without_autocast
from en_bench.tasks.sample_table import SampleTable


@dataclass(frozen=True)
class TrainingFacts:
    """What a loss is told before the first step.

    Attributes:
        classes: how many, C.
        samples: rows of the index of the training split; None where the data are not ours.
        device: where the network lies.
        tables: the task's tables of samples. What a loss puts in is merged over the ranks and saved in checkpoints.
    """

    classes: int
    samples: int | None
    device: torch.device
    tables: dict[str, SampleTable]


class BatchFacts(NamedTuple):
    """What a loss may know of a batch beside logits and labels."""

    row: Tensor  # (B,) int64, the samples' rows in the index of the training split
    step: int  # batches before this one, over the whole training
    epoch: int  # from 0


class Loss(nn.Module, ABC):
    """A loss over a batch's logits and labels. A new one overrides `mean` and nothing else.

    Attributes:
        takes_mixup: whether the loss of a mixed image may be the mean of its losses against both labels, weighted by
            their shares. For a loss that is linear in a one-hot label that is the loss against the mixed label.
    """

    takes_mixup = True

    def check(self, classes: Sequence[str]) -> None:
        """Raises InputError unless the loss can train on these classes. Called before any process group starts."""

    def prepare(self, training: TrainingFacts) -> None:
        """Called once, before the first step of a training. Raises InputError."""

    def facts(self) -> dict[str, Any]:
        """What the record of a training says of the loss beyond its arguments. For JSON."""
        return {}

    @abstractmethod
    def mean(self, logits: Tensor, target: Tensor, batch: BatchFacts) -> Tensor:
        """The mean loss over the samples of `logits` (B, C), float32 or float64, and `target` (B,) int64."""

    def forward(self, logits: Tensor, target: Tensor, batch: BatchFacts) -> Tensor:
        """The mean loss, a scalar in nats, in float32 or wider whatever the network computes in.

        Args:
            logits: (B, C), of the valid samples.
            target: (B,) int64, the labels that train.
            batch: which samples they are.
        """
        with without_autocast(logits.device.type):
            return self.mean(logits if logits.dtype == torch.float64 else logits.float(), target, batch)


def of_target(values: Tensor, target: Tensor) -> Tensor:
    """The entries (B,) of `values` (B, C) at the labels `target` (B,)."""
    return values.gather(1, target[:, None]).squeeze(1)
