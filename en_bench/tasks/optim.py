"""Which parameters decay, and how the learning rate runs."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from en_bench.norms import Norm

_TORCH_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weights, which decay, and biases with everything inside a normaliser, which do not.

    Everything inside a normaliser includes EN's gate: its parameters say how to normalise, not what to compute.
    Frozen parameters belong to neither. A parameter shared by two modules counts once.
    """
    undecayed = {
        id(p) for module in model.modules() if isinstance(module, (Norm, *_TORCH_NORMS)) for p in module.parameters()
    }
    undecayed |= {id(p) for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in undecayed], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in undecayed], "weight_decay": 0.0},
    ]


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """The factor on the learning rate at optimiser step `step` of `steps`.

    Linear from 1/warmup to 1 over the first `warmup` steps, then half a cosine from 1 towards 0, which it reaches at
    `steps`, one after the last. Source of the cosine: Loshchilov and Hutter, "SGDR", 2017, eq. 5, without restarts.
    """
    if step < warmup:
        return (step + 1) / warmup
    if step >= steps:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
