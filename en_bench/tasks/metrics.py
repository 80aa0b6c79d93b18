"""The scores of a classifier over one validation set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

PADDING = -1


class ClassificationScores(torch.nn.Module):
    """top1, top5 (more than five classes), nll and ece over the samples seen, and their number n.

    Accuracies are micro averages: the share of samples that are right. `nll` is the mean negative log-likelihood in
    nats. `ece` is the expected calibration error over 15 equal bins of confidence (Guo et al., 2017, l1 norm).
    All states reduce over ranks by sums or concatenation, so the split over ranks does not matter.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        scores: dict[str, Metric | MetricCollection] = {
            "top1": MulticlassAccuracy(num_classes, top_k=1, average="micro", ignore_index=PADDING),
            "nll": MeanMetric(),
            "ece": MulticlassCalibrationError(num_classes, n_bins=15, norm="l1", ignore_index=PADDING),
        }
        if num_classes > 5:
            scores["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro", ignore_index=PADDING)
        self.scores = torch.nn.ModuleDict(scores)
        self.n = SumMetric()
        # A float32 sum over 50,000 samples is wrong in the fifth digit, and a float32 count stops at 16.8 million.
        for metric in (self.scores["nll"], self.n):
            assert isinstance(metric, Metric)
            metric.set_dtype(torch.float64)

    def update(self, logits: Tensor, target: Tensor, valid: Tensor) -> None:
        """Adds the rows of `logits` (B, classes) and `target` (B,) where `valid` (B,) is True."""
        probabilities = logits.float().softmax(dim=-1)
        marked = target.where(valid, PADDING)  # a batch may be padding alone, and torchmetrics takes no empty ones
        for name, metric in self.named_scores():
            if name == "nll":
                metric.update(F.cross_entropy(logits[valid].double(), target[valid], reduction="none"))
            else:
                metric.update(probabilities, marked)
        self.n.update(valid.sum())

    def named_scores(self) -> list[tuple[str, Metric]]:
        return [(name, metric) for name, metric in self.scores.items() if isinstance(metric, Metric)]

    def compute(self) -> dict[str, float]:
        """Over all ranks. Every rank must call it."""
        return {name: float(metric.compute()) for name, metric in self.named_scores()}

    def count(self) -> int:
        """Samples seen by all ranks. Every rank must call it."""
        return int(self.n.compute())

    def reset(self) -> None:
        for _, metric in self.named_scores():
            metric.reset()
        self.n.reset()
