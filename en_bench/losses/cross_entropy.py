"""Cross entropy against the label, and against the smoothed label."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from en_bench.errors import InputError
from en_bench.losses.base import BatchFacts, Loss


class CrossEntropy(Loss):
    """-log p_y: what a task trains with unless told otherwise."""

    def mean(self, logits: Tensor, target: Tensor, batch: BatchFacts) -> Tensor:
        return F.cross_entropy(logits, target)


class LabelSmoothing(Loss):
    """Cross entropy against (1 - smoothing) * one-hot(y) + smoothing / C.

    Source: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7, where smoothing is 0.1.

    Raises InputError unless 0 <= smoothing < 1.
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise InputError(f"LabelSmoothing: smoothing {smoothing} is not within 0 .. 1: use 0.1, say")
        self.smoothing = smoothing

    def mean(self, logits: Tensor, target: Tensor, batch: BatchFacts) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=self.smoothing)
