"""Normalisers for (N, C, *spatial) feature maps, and the swap that puts one into a network."""

from en_bench.norms.base import Norm
from en_bench.norms.exemplar import ExemplarNorm
from en_bench.norms.fixed import BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from en_bench.norms.swap import SwapReport, swap_norms
from en_bench.norms.switchable import SwitchNorm

__all__ = [
    "BatchNorm",
    "ExemplarNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Norm",
    "SwapReport",
    "SwitchNorm",
    "swap_norms",
]
