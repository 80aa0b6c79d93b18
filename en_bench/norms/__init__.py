"""Normalisers for (N, C, *spatial) feature maps, and the swap that puts one into a network."""

from en_bench.norms.base import Norm
from en_bench.norms.batch_instance import BatchInstanceNorm
from en_bench.norms.conditional import ConditionalBatchNorm
from en_bench.norms.exemplar import ExemplarNorm
from en_bench.norms.fixed import BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from en_bench.norms.released import released_resnet_state
from en_bench.norms.sparse import SparseSwitchNorm, anneal_radius
from en_bench.norms.swap import SwapReport, swap_norms
from en_bench.norms.switchable import SwitchNorm
from en_bench.norms.watching import watching_ratios

__all__ = [
    "BatchInstanceNorm",
    "BatchNorm",
    "ConditionalBatchNorm",
    "ExemplarNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Norm",
    "SparseSwitchNorm",
    "SwapReport",
    "SwitchNorm",
    "anneal_radius",
    "released_resnet_state",
    "swap_norms",
    "watching_ratios",
]
