"""Batch-instance normalisation: each channel learns how much of its style to keep."""

import torch
from torch import Tensor, nn

from en_bench.norms.affine import standardise
from en_bench.norms.base import Norm
from en_bench.norms.moments import Moments


class BatchInstanceNorm(Norm):
    """Batch-instance normalisation, a mixture of standardised *outputs* per channel

        y = weight * (rho * (x - mean_BN) / sqrt(var_BN + eps) + (1 - rho) * (x - mean_IN) / sqrt(var_IN + eps)) + bias.

    `rho` (C,) is kept within 0 .. 1 and starts at 1, as BatchNorm. The paper clips it after each update, which is a
    rule for optimisers; here a value outside is *reflected* at the border instead (1.1 counts as 0.9). Inside, and so
    for every checkpoint of a clipped training, both are the same. Outside, clipping in the forward pass would end the
    gradient for good; that of a reflection has the size it has inside, and leads back. So where the loss pushes
    against a border, rho stays about a step away from it.

    Evaluation uses running moments for BN. Source: Nam & Kim, "Batch-Instance Normalization for Adaptively
    Style-Invariant Neural Networks", NeurIPS 2018, section 3.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, sync: bool = False) -> None:
        super().__init__(num_features, eps=eps, running=True, momentum=momentum, sync=sync)
        self.rho = nn.Parameter(torch.ones(num_features))

    def parameter_tensors(self) -> tuple[Tensor, ...]:
        return self.weight, self.bias, self.rho

    def width_dims(self) -> tuple[tuple[int, ...], ...]:
        return (0,), (0,), (0,)

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        assert batch is not None
        weight_C, bias_C, rho_C = params
        share_C = reflected(rho_C)
        batch_scale_NC, batch_shift_NC = standardise(sample.mean, batch, weight_C * share_C, bias_C, self.eps)
        # Around the instance mean, instance normalisation shifts by nothing.
        instance_scale_NC = weight_C * (1 - share_C) * torch.rsqrt(sample.var + self.eps)
        return batch_scale_NC + instance_scale_NC, batch_shift_NC


def reflected(value: Tensor) -> Tensor:
    """`value` mirrored at 0 and 1 as often as brings it within them; there, borders included, with derivative 1."""
    folded = value - 2 * (value / 2).floor()
    return torch.where(folded > 1, 2 - folded, folded)
