"""Early-learning regularisation: predictions are held to what they were before labels were memorised."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from en_bench.errors import InputError
from en_bench.losses.base import BatchFacts, Loss, TrainingFacts
from en_bench.tasks.sample_table import SampleTable

_TABLE = "early_learning"
_FLOOR = 1e-4


class EarlyLearningRegularization(Loss):
    """Cross entropy + strength * log(1 - <p, t>), with t a running mean of each sample's own predictions.

    t begins at 0 and becomes beta * t + (1 - beta) * p at each visit, before it is used; no gradient flows through it.
    As in the authors' code, p is clamped to 1e-4 .. 1 - 1e-4 in the second term, and sums to 1 again in t.

    t is a table of N x C float32, one row per sample, in `sample_tables` of the task: part of checkpoints, merged over
    the ranks once per epoch and checkpoint. On each rank it takes 2 MB for CIFAR-10, 20 MB for CIFAR-100, and for
    ImageNet (1.28 million x 1,000) 5.1 GB, as much again in each checkpoint.

    Mixup is refused: a prediction for a mixed image is none for either of its samples.

    Source: Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020,
    equation 6 (the loss) and 9 (t), with the values for CIFAR-10; CIFAR-100 has strength 7 and beta 0.9.

    Args:
        strength: lambda of the paper, 0 or more.
        beta: momentum of t, 0 or more and below 1.
        in_host_memory: whether the table lies in the memory of the host, not of the network's device: slower by a
            copy and a wait per step, for tables that do not fit.

    Raises InputError for values outside, and in `prepare` where the number of samples is unknown.
    """

    takes_mixup = False

    def __init__(self, strength: float = 3.0, beta: float = 0.7, in_host_memory: bool = False) -> None:
        super().__init__()
        if not 0 <= strength < math.inf:
            raise InputError(f"EarlyLearningRegularization: strength {strength} is no number from 0 on: use 3, say")
        if not 0 <= beta < 1:
            raise InputError(f"EarlyLearningRegularization: beta {beta} is not 0 or more and below 1: use 0.7, say")
        self.strength, self.beta, self.in_host_memory = strength, beta, in_host_memory
        self._table: SampleTable | None = None

    def prepare(self, training: TrainingFacts) -> None:
        if training.samples is None:
            raise InputError("EarlyLearningRegularization remembers each sample: train it with a ShardDataModule")
        device = torch.device("cpu") if self.in_host_memory else training.device
        self._table = training.tables[_TABLE] = SampleTable(training.samples, (training.classes,), device=device)

    def mean(self, logits: Tensor, target: Tensor, batch: BatchFacts) -> Tensor:
        assert self._table is not None, "prepare() comes before training"
        p = logits.softmax(1).clamp(_FLOOR, 1 - _FLOOR)
        own = p.detach()
        t = self._table.read(batch.row).to(p)
        t = self.beta * t + (1 - self.beta) * own / own.sum(1, keepdim=True)
        self._table.write(batch.row, t, batch.step)
        return F.cross_entropy(logits, target) + self.strength * torch.log1p(-(t * p).sum(1)).mean()
