"""Switchable normalisation: one learned mixture of statistics per layer."""

import torch
from torch import Tensor, nn

from en_bench.norms.affine import standardise
from en_bench.norms.base import Norm
from en_bench.norms.moments import Moments, pool_groups


class SwitchNorm(Norm):
    """Switchable normalisation: `weight * (x - mean) / sqrt(var + eps) + bias` with mixed *statistics*

        mean = sum_k softmax(mean_weight)_k mean_k,   var = sum_k softmax(var_weight)_k var_k,   k over (IN, LN, BN).

    Evaluation uses running moments for BN. Source: Luo et al., "Differentiable Learning-to-Normalize via Switchable
    Normalization", ICLR 2019, equations 2 and 3.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, running=True, momentum=momentum)
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))

    def parameter_tensors(self) -> tuple[Tensor, ...]:
        return self.weight, self.bias, self.mean_weight, self.var_weight

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        assert batch is not None
        weight_C, bias_C, mean_weight_K, var_weight_K = params
        layer = pool_groups(sample, 1)
        mixed = Moments(
            _mix(mean_weight_K, sample.mean, layer.mean, batch.mean),
            _mix(var_weight_K, sample.var, layer.var, batch.var),
        )
        return standardise(sample.mean, mixed, weight_C, bias_C, self.eps)


def _mix(logits_K: Tensor, instance: Tensor, layer: Tensor, batch: Tensor) -> Tensor:
    share_K = logits_K.softmax(0)
    return share_K[0] * instance + share_K[1] * layer + share_K[2] * batch
