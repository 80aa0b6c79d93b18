"""Who is measured, and against whom."""

import math
from collections.abc import Callable, Iterable

from torch import nn

from en_bench.benchmark.obvious import ObviousExemplarNorm, ObviousSwitchNorm
from en_bench.benchmark.settings import NORMS
from en_bench.norms import swap_norms

BATCH_NORM = "nn.BatchNorm2d"
CONTROL = "nn.BatchNorm2d again"  # the same twice: how far from 1.00 equal things are measured here

# From channels and the sizes of a map.
TORCH_LAYERS: dict[str, Callable[[int, int, int], nn.Module]] = {
    BATCH_NORM: lambda c, h, w: nn.BatchNorm2d(c),
    CONTROL: lambda c, h, w: nn.BatchNorm2d(c),
    "nn.InstanceNorm2d": lambda c, h, w: nn.InstanceNorm2d(c, affine=True),
    "nn.GroupNorm(32)": lambda c, h, w: nn.GroupNorm(math.gcd(32, c), c),
    "nn.GroupNorm(1)": lambda c, h, w: nn.GroupNorm(1, c),
    "nn.LayerNorm(C, H, W)": lambda c, h, w: nn.LayerNorm((c, h, w)),
}

# torch's own layer of that name; for all others BatchNorm, whose place they would take.
RIVALS = {
    "InstanceNorm": "nn.InstanceNorm2d",
    "GroupNorm": "nn.GroupNorm(32)",
    "LayerNorm": "nn.GroupNorm(1)",
}

OBVIOUS: dict[str, Callable[[int], nn.Module]] = {
    "obvious ExemplarNorm": ObviousExemplarNorm,
    "obvious SwitchNorm": ObviousSwitchNorm,
}


def comparisons(norms: Iterable[str], obvious: bool = True) -> list[tuple[str, str]]:
    """Pairs of a contender and what it is measured against, for layers; with obvious formulations if so wished."""
    pairs = [(CONTROL, BATCH_NORM)]
    for norm in norms:
        pairs.append((norm, RIVALS.get(norm, BATCH_NORM)))
        if norm == "LayerNorm":  # its affine map is per value, so it is another function
            pairs.append((norm, "nn.LayerNorm(C, H, W)"))
        if obvious and f"obvious {norm}" in OBVIOUS:
            pairs.append((f"obvious {norm}", BATCH_NORM))
    return pairs


def contenders(norms: Iterable[str], obvious: bool) -> list[str]:
    """`norms`, each followed by its obvious formulation if it has one and that is wished."""
    found = []
    for norm in norms:
        found += [norm, f"obvious {norm}"] if obvious and f"obvious {norm}" in OBVIOUS else [norm]
    return found


def layer(name: str, channels: int, height: int, width: int) -> nn.Module:
    """The layer of that name for maps (N, channels, height, width)."""
    if name in TORCH_LAYERS:
        return TORCH_LAYERS[name](channels, height, width)
    return NORMS[name](channels) if name in NORMS else OBVIOUS[name](channels)


def put_into(network: nn.Module, name: str) -> nn.Module:
    """`network`, of torch's BatchNorm, with the normaliser of that name instead, in place."""
    if name in NORMS:
        swap_norms(network, NORMS[name])
    elif name in OBVIOUS:
        for parent in list(network.modules()):
            for key, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, key, OBVIOUS[name](child.num_features).to(child.weight.device))
    return network
