"""Losses that a wrong label cannot pull without bound: generalised and symmetric cross entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from en_bench.errors import InputError
from en_bench.losses.base import BatchFacts, Loss, of_target


class GeneralizedCrossEntropy(Loss):
    """L_q = (1 - p_y^q) / q, between cross entropy (q -> 0) and the mean absolute error (q = 1, where it is 1 - p_y).

    With `k` it is truncated: samples with p_y <= k count (1 - k^q) / q and have no gradient. As no sample of many
    classes begins above k, truncation begins after `k_from_epoch` epochs. The network of each step decides who is
    below; in the paper that of the best epoch so far does, every ten epochs (its algorithm 1).

    Source: Zhang & Sabuncu, "Generalized Cross Entropy Loss", NeurIPS 2018, equation 6, and section 3.3 for the
    truncated form, with q = 0.7 and, truncated, k = 0.5 from epoch 40.

    Args:
        q: within 0 .. 1, above 0.
        k: threshold of the truncated form, within 0 .. 1; None does not truncate.
        k_from_epoch: whole epochs before truncation begins.

    Raises InputError for values outside.
    """

    def __init__(self, q: float = 0.7, k: float | None = None, k_from_epoch: int = 40) -> None:
        super().__init__()
        if not 0 < q <= 1:
            raise InputError(f"GeneralizedCrossEntropy: q {q} is not above 0 and at most 1: use 0.7, or CrossEntropy")
        if k is not None and not 0 < k < 1:
            raise InputError(f"GeneralizedCrossEntropy: k {k} is not between 0 and 1: use 0.5, or leave it out")
        if k_from_epoch < 0:
            raise InputError(f"GeneralizedCrossEntropy: k_from_epoch {k_from_epoch} is below 0: use 0 or more")
        self.q, self.k, self.k_from_epoch = q, k, k_from_epoch

    def mean(self, logits: Tensor, target: Tensor, batch: BatchFacts) -> Tensor:
        log_p = of_target(logits.log_softmax(1), target)
        if self.k is not None and batch.epoch >= self.k_from_epoch:
            log_p = log_p.clamp(min=math.log(self.k))
        return (-torch.expm1(self.q * log_p) / self.q).mean()  # expm1: at small q both terms of 1 - p^q are near 1


class SymmetricCrossEntropy(Loss):
    """alpha * CE + beta * RCE with the reverse cross entropy RCE = -sum_k p_k log(onehot_k), where log 0 = A.

    So RCE = -A * (1 - p_y), and A and beta act by their product alone.

    Source: Wang et al., "Symmetric Cross Entropy", ICCV 2019, equations 5 to 7, with the values for CIFAR-10; CIFAR-100
    has alpha 6 and beta 0.1. The authors' released code clips the one-hot label at 1e-4 instead: an A of -9.21.

    Args:
        alpha: weight of cross entropy, 0 or more.
        beta: weight of reverse cross entropy, 0 or more.
        A: what stands for log 0, below 0.

    Raises InputError for values outside.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, A: float = -4.0) -> None:
        super().__init__()
        weights = 0 <= alpha < math.inf and 0 <= beta < math.inf and alpha + beta > 0
        if not weights or not -math.inf < A < 0:
            raise InputError(
                f"SymmetricCrossEntropy: alpha {alpha}, beta {beta}, A {A}: use weights of 0 or more, not both 0, and "
                "an A below 0"
            )
        self.alpha, self.beta, self.A = alpha, beta, A

    def mean(self, logits: Tensor, target: Tensor, batch: BatchFacts) -> Tensor:
        log_p = of_target(logits.log_softmax(1), target)
        reverse = self.A * torch.expm1(log_p)  # -A (1 - p)
        return (-self.alpha * log_p + self.beta * reverse).mean()
