"""Labels mixed with what the network itself predicts."""

from __future__ import annotations

from torch import Tensor

from en_bench.errors import InputError
from en_bench.losses.base import BatchFacts, Loss, of_target

_SOFT, _HARD = 0.95, 0.8


class Bootstrapping(Loss):
    """Cross entropy against beta * one-hot(y) + (1 - beta) * prediction.

    The prediction is the softmax (soft), through which the gradient flows too, so that its term is the entropy; or the
    class of the largest logit (hard), the first of equals.

    Source: Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping", ICLR 2015 (workshop),
    equations 6 (soft) and 7 (hard).

    Args:
        hard: which of both.
        beta: weight of the label, 0 .. 1; None is the paper's: 0.95 soft, 0.8 hard.

    Raises InputError for a beta outside.
    """

    def __init__(self, hard: bool = False, beta: float | None = None) -> None:
        super().__init__()
        if beta is not None and not 0 <= beta <= 1:
            raise InputError(f"Bootstrapping: beta {beta} is not within 0 .. 1: leave it out for the paper's")
        self.hard = hard
        self.beta = beta if beta is not None else (_HARD if hard else _SOFT)

    def mean(self, logits: Tensor, target: Tensor, batch: BatchFacts) -> Tensor:
        log_p = logits.log_softmax(1)
        own = -of_target(log_p, logits.argmax(1)) if self.hard else -(log_p.exp() * log_p).sum(1)
        return (-self.beta * of_target(log_p, target) + (1 - self.beta) * own).mean()
