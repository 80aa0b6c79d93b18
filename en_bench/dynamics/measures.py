"""What the logits of a training step say of its samples.

Shape suffixes: B sample, C class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NO_PREDICTION = -1  # where a logit is not finite


class Samples(NamedTuple):
    """What a training step hands on of the samples that it trained on, as they were before the step's update."""

    row: Tensor  # (B,) int64, in the index of the training split
    target: Tensor  # (B,) int64, the label that trained
    logits: Tensor  # (B, C) float32, detached


def samples_of(outputs: Any) -> Samples | None:
    """Of what a task's `training_step` returned; None where it returned the loss alone."""
    if not isinstance(outputs, Mapping) or not outputs.keys() >= set(Samples._fields):
        return None
    return Samples(*(outputs[name] for name in Samples._fields))


def predictions(logits_BC: Tensor) -> Tensor:
    """The class (B,) of the largest logit, the first of equal ones; NO_PREDICTION where a logit is not finite."""
    return logits_BC.argmax(1).where(logits_BC.isfinite().all(1), NO_PREDICTION)


def losses(logits_BC: Tensor, target_B: Tensor) -> Tensor:
    """The cross entropy (B,) of the logits against the target in nats, whatever loss trains."""
    return F.cross_entropy(logits_BC, target_B, reduction="none")


def margins(logits_BC: Tensor, target_B: Tensor) -> Tensor:
    """The target's logit minus the largest of the others (B,), whose mean over epochs is the area under the margin.

    Source: Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020,
    equation 1.
    """
    column_B1 = target_B.unsqueeze(1)
    others_B = logits_BC.scatter(1, column_B1, -torch.inf).amax(1)
    return logits_BC.gather(1, column_B1).squeeze(1) - others_B
