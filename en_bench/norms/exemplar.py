"""Exemplar normalisation: the mixture of normalisers is computed anew for every sample.

Shape suffixes: N sample, K normaliser, C channel, G group of the gate's reduction.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from en_bench.norms.base import Norm, without_autocast
from en_bench.norms.moments import Moments, pool_groups, sample_moments

Normalizer = Literal["in", "ln", "bn"]
Activation = Literal["tanh", "relu"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


class Gate(nn.Module):
    """The parameters of the gate, with the initialisation of torch's own layers; `ratios` does the arithmetic."""

    def __init__(self, num_features: int, kinds: int, reduction: int, hidden: int, reduce: bool) -> None:
        super().__init__()
        self.reduce: nn.Conv1d | None = None
        if reduce:
            groups = _reduced_channels(num_features, reduction)
            self.reduce = nn.Conv1d(num_features, groups, kernel_size=1, groups=groups)
        self.fc1 = nn.Linear(kinds * kinds, hidden * kinds)
        self.fc2 = nn.Linear(hidden * kinds, kinds)


def ratios(
    xhat_NKC: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    reduce_weight: Tensor | None = None,
    reduce_bias: Tensor | None = None,
    *,
    activation: Activation = "tanh",
) -> Tensor:
    """Mixing ratios (N, K), each row summing to 1, from the pooled features as each normaliser standardises them.

    Reduce the channels by groups (without `reduce_weight`, keep them all), relate every pair of normalisers by an inner
    product, and pass the K x K relations through two linear layers. Source: arXiv 2003.08761, section 3.2.
    """
    z_NKG = xhat_NKC
    if reduce_weight is not None and reduce_bias is not None:
        per_group = reduce_weight.squeeze(2)  # (G, C/G)
        z_NKG = (xhat_NKC.reshape(*xhat_NKC.shape[:2], *per_group.shape) * per_group).sum(3) + reduce_bias
    relations = (z_NKG @ z_NKG.transpose(1, 2)).flatten(1)
    hidden = _ACTIVATIONS[activation](F.linear(relations, fc1_weight, fc1_bias))
    return F.linear(hidden, fc2_weight, fc2_bias).softmax(1)


class ExemplarNorm(Norm):
    """Exemplar normalisation: K normalisers' *outputs*, mixed by ratios that depend on the sample

        y = sum_k ratio_k * (weight_k * (x - mean_k) / sqrt(var_k + eps) + bias_k).

    The ratios come from a gate on the spatial mean of x as each normaliser standardises it. For IN that is 0 by
    construction; it is kept, as the gate's bias still tells it apart. Evaluation uses running moments for BN, in the
    gate as in the mixture. Source: arXiv 2003.08761 (CVPR 2020), section 3.

    `reduction` and `hidden` are the paper's r and pi: the gate reduces C channels to the largest divisor of C not above
    max(1, C // r), and has hidden * K units. `shared_affine` gives all normalisers one weight and bias, (1, C) instead
    of (K, C). `normalizers`, `activation`, `reduce` and `shared_affine` are the paper's ablations.
    Raises ValueError for normalizers that are empty, repeated or unknown.
    """

    def __init__(
        self,
        num_features: int,
        normalizers: Sequence[Normalizer] = ("in", "ln", "bn"),
        reduction: int = 32,
        hidden: int = 50,
        activation: Activation = "tanh",
        reduce: bool = True,
        shared_affine: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        known = get_args(Normalizer)
        if not normalizers or len(set(normalizers)) < len(normalizers) or not set(normalizers) <= set(known):
            raise ValueError(f"ExemplarNorm: normalizers {tuple(normalizers)}, expected some of {known}, each once")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"ExemplarNorm: activation {activation!r}, expected one of {tuple(_ACTIVATIONS)}")
        if reduction < 1 or hidden < 1:
            raise ValueError(f"ExemplarNorm: reduction {reduction} and hidden {hidden} must be at least 1")
        kinds = len(normalizers)
        super().__init__(
            num_features,
            eps=eps,
            rows=1 if shared_affine else kinds,
            running="bn" in normalizers,
            momentum=momentum,
        )
        self.normalizers = tuple(normalizers)
        self.activation: Activation = activation
        self.gate = Gate(num_features, kinds, reduction, hidden, reduce)

    def parameter_tensors(self) -> tuple[Tensor, ...]:
        gate = self.gate
        tensors = (self.weight, self.bias, gate.fc1.weight, gate.fc1.bias, gate.fc2.weight, gate.fc2.bias)
        if gate.reduce is None:
            return tensors
        assert gate.reduce.bias is not None
        return *tensors, gate.reduce.weight, gate.reduce.bias

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        weight_KC, bias_KC, *gate = params
        xhat_NKC, inv_NKC = self._standardised(sample, batch)
        ratio_NK1 = ratios(xhat_NKC, *gate, activation=self.activation).unsqueeze(2)
        scale_NC = (ratio_NK1 * weight_KC * inv_NKC).sum(1)
        shift_NC = (ratio_NK1 * (bias_KC + weight_KC * xhat_NKC)).sum(1)
        return scale_NC, shift_NC

    @torch.no_grad()
    def ratios(self, x: Tensor) -> Tensor:
        """The ratios (N, K) that forward would use for `x` in the present mode; changes no buffer."""
        with without_autocast(x.device.type):
            sample = sample_moments(x)
            xhat_NKC, _ = self._standardised(sample, self.batch_moments(sample))
            _, _, *gate = self.params_as(sample.mean.dtype)
            return ratios(xhat_NKC, *gate, activation=self.activation)

    def _standardised(self, sample: Moments, batch: Moments | None) -> tuple[Tensor, Tensor]:
        """The pooled input as each normaliser standardises it, and 1 / sqrt(var + eps) of each: both (N, K, C)."""
        chosen = [self._moments_of(normalizer, sample, batch) for normalizer in self.normalizers]
        mean_NKC, var_NKC = (
            torch.stack([table.expand_as(sample.mean) for table in t], 1) for t in zip(*chosen, strict=True)
        )
        inv_NKC = torch.rsqrt(var_NKC + self.eps)
        return (sample.mean.unsqueeze(1) - mean_NKC) * inv_NKC, inv_NKC

    @staticmethod
    def _moments_of(normalizer: Normalizer, sample: Moments, batch: Moments | None) -> Moments:
        if normalizer == "in":
            return sample
        if normalizer == "ln":
            return pool_groups(sample, 1)
        assert batch is not None
        return batch

    def extra_repr(self) -> str:
        gate = "none" if self.gate.reduce is None else self.gate.reduce.out_channels
        shared = ", shared_affine" if len(self.weight) < len(self.normalizers) else ""
        return (
            f"{super().extra_repr()}, normalizers={'+'.join(self.normalizers)}, reduced={gate}, "
            f"activation={self.activation}{shared}"
        )


def _reduced_channels(channels: int, reduction: int) -> int:
    """The largest divisor of `channels` that is not above max(1, channels // reduction)."""
    return next(d for d in range(max(1, channels // reduction), 0, -1) if channels % d == 0)
