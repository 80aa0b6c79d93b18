"""Switchable normalisation: one learned mixture of statistics per layer.

Shape suffix: K normaliser, always the three of (IN, LN, BN).
"""

from typing import Any

import torch
from torch import Tensor, nn

from en_bench.norms.affine import standardise
from en_bench.norms.base import Norm
from en_bench.norms.moments import Moments, pool_groups
from en_bench.norms.programs import BATCH, GROUP, INSTANCE, Program


class SwitchNorm(Norm):
    """Switchable normalisation: `weight * (x - mean) / sqrt(var + eps) + bias` with mixed *statistics*

        mean = sum_k softmax(mean_weight)_k mean_k,   var = sum_k softmax(var_weight)_k var_k,   k over (IN, LN, BN).

    Evaluation uses running moments for BN. Source: Luo et al., "Differentiable Learning-to-Normalize via Switchable
    Normalization", ICLR 2019, equations 2 and 3.

    `official=True` computes what the authors' released code does (github.com/switchablenorms/Switchable-Normalization)
    and the paper does not say: instance variances are the unbiased ones, with layer and batch variances pooled from
    them; running variances start at 0 and follow the batch's without a correction of their own. Its momentum 0.9 is 0.1
    here, its 0.997 is 0.003. Training and evaluation then raise ValueError for maps of one position.

    Released checkpoints load, with or without `official`: weight and bias may be (1, C, 1, 1) and running moments
    (1, C, 1). For those of whole networks see `released_resnet_state`.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        official: bool = False,
        sync: bool = False,
    ) -> None:
        super().__init__(num_features, eps=eps, running=True, momentum=momentum, sync=sync)
        self.official = official
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        if official:
            assert self.running_var is not None
            self.running_var.zero_()
            self.sample_correction = 1

    def parameter_tensors(self) -> tuple[Tensor, ...]:
        return self.weight, self.bias, self.mean_weight, self.var_weight

    def width_dims(self) -> tuple[tuple[int, ...], ...]:
        return (0,), (0,), (), ()

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        assert batch is not None
        weight_C, bias_C, mean_weight_K, var_weight_K = params
        mixed = mix_statistics(sample, batch, mean_weight_K.softmax(0), var_weight_K.softmax(0))
        return standardise(sample.mean, mixed, weight_C, bias_C, self.eps)

    def program(self) -> Program | None:
        return Program((INSTANCE, GROUP, BATCH), statistics=True)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = state_dict.get(prefix + name)
            if isinstance(tensor, Tensor) and tensor.ndim > 1 and tensor.shape[1] == tensor.numel():
                state_dict[prefix + name] = tensor.flatten()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, official" if self.official else super().extra_repr()


def mix_statistics(sample: Moments, batch: Moments, mean_share_K: Tensor, var_share_K: Tensor) -> Moments:
    """Moments (N, C) mixed from those of IN, LN and BN by shares (K,) of the means and of the variances."""
    layer = pool_groups(sample, 1)
    return Moments(
        mean_share_K[0] * sample.mean + mean_share_K[1] * layer.mean + mean_share_K[2] * batch.mean,
        var_share_K[0] * sample.var + var_share_K[1] * layer.var + var_share_K[2] * batch.var,
    )
