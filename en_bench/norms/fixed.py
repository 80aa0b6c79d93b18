"""Normalisers whose moments are fixed in advance: batch, instance, layer, group."""

import math

from torch import Tensor

from en_bench.norms.affine import standardise
from en_bench.norms.base import Norm
from en_bench.norms.moments import Moments, pool_groups
from en_bench.norms.programs import BATCH, GROUP, INSTANCE, Program


class BatchNorm(Norm):
    """Batch normalisation over N and all positions; equals `torch.nn.BatchNorm1d/2d/3d`, checkpoints included.

    Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015. With `sync`, the batch is that of all ranks, as in
    `torch.nn.SyncBatchNorm`.
    """

    reads_samples = False

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, sync: bool = False) -> None:
        super().__init__(num_features, eps=eps, running=True, momentum=momentum, sync=sync)

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        assert batch is not None
        weight_C, bias_C = params
        return standardise(sample.mean, batch, weight_C, bias_C, self.eps)

    def program(self) -> Program | None:
        return Program((BATCH,))


class InstanceNorm(Norm):
    """Instance normalisation over all positions; equals `torch.nn.InstanceNorm1d/2d/3d(affine=True)`.

    At one position per channel the output is the bias. Source: Ulyanov et al., "Instance Normalization", 2016.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        weight_C, bias_C = params
        return standardise(sample.mean, sample, weight_C, bias_C, self.eps)

    def program(self) -> Program | None:
        return Program((INSTANCE,))


class GroupNorm(Norm):
    """Group normalisation over the positions and channels of a group; equals `torch.nn.GroupNorm`.

    `groups` that do not divide C are lowered to gcd(groups, C), so that one value serves a whole network.
    Source: Wu & He, "Group Normalization", ECCV 2018.
    """

    def __init__(self, num_features: int, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        if groups < 1:
            raise ValueError(f"{type(self).__name__}: groups is {groups}, expected at least 1")
        self.requested_groups = groups
        self.groups = math.gcd(groups, num_features)

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        weight_C, bias_C = params
        return standardise(sample.mean, pool_groups(sample, self.groups), weight_C, bias_C, self.eps)

    def program(self) -> Program | None:
        return Program((GROUP,), groups=self.groups)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


class LayerNorm(GroupNorm):
    """Layer normalisation over all channels and positions of a sample; equals `torch.nn.GroupNorm(1, C)`.

    The affine map is per channel, as is usual for feature maps. Source: Ba et al., "Layer Normalization", 2016.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, groups=1, eps=eps)
