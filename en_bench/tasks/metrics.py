"""The scores of a classifier over a validation set."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from en_bench.data.dataset import Batch
from en_bench.data.samplers import PADDING

# A float32 sum over 50,000 samples is wrong in the fifth digit. Apple's GPUs have nothing wider.
WIDE = torch.float32 if torch.backends.mps.is_available() else torch.float64

_BELOW_ONE = 1 - 2**-24  # torchmetrics would give a confidence of exactly 1 a bin of its own


class ClassificationScores(torch.nn.Module):
    """top1, top5 (more than five classes), nll and ece over the samples seen, and their number n.

    Accuracies are micro averages: the share of samples that are right. `nll` is the mean negative log-likelihood in
    nats. `ece` is the expected calibration error over 15 equal bins of confidence (Guo et al., 2017, l1 norm). If the
    logits of any sample are not finite, every score is NaN: an accuracy of a network that diverged is none.
    All states reduce over ranks by sums or concatenation, so the split over ranks does not matter.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()

        def accuracy(top_k: int) -> Metric:
            return MulticlassAccuracy(num_classes, top_k=top_k, average="micro", ignore_index=PADDING)

        scores: dict[str, Metric] = {"top1": accuracy(1)}
        if num_classes > 5:
            scores["top5"] = accuracy(5)
        scores["nll"] = MeanMetric(nan_strategy="disable").set_dtype(WIDE)
        scores["ece"] = MulticlassCalibrationError(num_classes, n_bins=15, norm="l1", ignore_index=PADDING)
        self.scores = torch.nn.ModuleDict(scores)
        self.n = SumMetric().set_dtype(WIDE)
        self.diverged = SumMetric().set_dtype(WIDE)

    def update(self, logits: Tensor, target: Tensor, valid: Tensor) -> None:
        """Adds the rows of `logits` (B, classes) and `target` (B,) where `valid` (B,) is True."""
        finite = logits.isfinite().all(dim=1)
        probabilities = logits.where(finite[:, None], 0).float().softmax(dim=-1)
        marked = target.where(valid, PADDING)  # a batch may be padding alone, and torchmetrics takes no empty ones
        for name, metric in self.named_scores():
            if name == "nll":
                metric.update(F.cross_entropy(logits[valid].to(WIDE), target[valid], reduction="none"))
            elif name == "ece":
                metric.update(probabilities.clamp(max=_BELOW_ONE), marked)
            else:
                metric.update(probabilities, marked)
        self.n.update(valid.sum())
        self.diverged.update((valid & ~finite).sum())

    def named_scores(self) -> list[tuple[str, Metric]]:
        return [(name, metric) for name, metric in self.scores.items() if isinstance(metric, Metric)]

    def compute(self) -> dict[str, float]:
        """Over all ranks. Every rank must call it."""
        values = {name: float(metric.compute()) for name, metric in self.named_scores()}
        return dict.fromkeys(values, math.nan) if self.diverged.compute() > 0 else values

    def count(self) -> int:
        """Samples seen by all ranks. Every rank must call it."""
        return int(self.n.compute())

    def reset(self) -> None:
        for _, metric in self.named_scores():
            metric.reset()
        self.n.reset()
        self.diverged.reset()


class SetScores(torch.nn.Module):
    """The scores of one validation set, and how many of its samples could not be decoded."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.scores = ClassificationScores(num_classes)
        self.unreadable = SumMetric().set_dtype(WIDE)

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Adds a batch, of which `logits` (B, classes) are the network's answer."""
        self.scores.update(logits, batch.target, batch.valid)
        self.unreadable.update((~batch.valid & (batch.row != PADDING)).sum())

    def counts(self) -> tuple[int, int]:
        """Samples scored, and samples that could not be decoded, over all ranks. Every rank must call it."""
        return self.scores.count(), int(self.unreadable.compute())

    def take(self) -> dict[str, float]:
        """The scores over all ranks, and a new beginning. Every rank must call it."""
        values = self.scores.compute()
        self.scores.reset()
        self.unreadable.reset()
        return values
