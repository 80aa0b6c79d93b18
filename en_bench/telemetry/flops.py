"""How many floating-point operations a network takes for one image."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(network: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Operations of the forward pass over one image of `shape` (C, H, W), in evaluation, two per multiply-add.

    PyTorch's counter sees calls of a convolution or a matrix product, attention's included, and nothing else: no
    pooling, no activation, and no product that is written as a multiplication and a sum. Of a normaliser it therefore
    counts the linear layers of a gate (ExemplarNorm's fc1, fc2 and fc3, those of conditional normalisation), not
    ExemplarNorm's reducing convolution by groups, not its inner products of every pair of normalisers, and no pass
    over the map. The pass changes
    neither the network nor any stream of random numbers. None, with a warning, where it fails: a training is not lost
    for that.
    """
    parameter = next(network.parameters())
    image = torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype)
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), _evaluating(network):
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                network(image)
        except Exception as error:  # of the network, which is anybody's
            print(f"en-bench: warning: FLOPs were not counted: {type(error).__name__}: {error}", file=sys.stderr)
            return None
    return int(counter.get_total_flops())


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """In evaluation mode inside, each module back in its own afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
