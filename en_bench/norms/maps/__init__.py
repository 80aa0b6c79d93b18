"""The four passes over a feature map: all that forward and backward of a normaliser do to N*C*S values.

    moments(x) -> mean, var                                        reads x
    affine(x, mean, scale, shift) -> scale * (x - mean) + shift    reads x, writes y
    sums(dy, x, mean) -> sum(dy), sum(dy * (x - mean))             reads dy and x
    gradient(dy, x, mean, a, b, c) -> a * dy + b * (x - mean) + c  reads dy and x, writes dx

Maps are (N, C, *spatial), dense, contiguous or channels_last, and `dy` lies as `x` does; what is returned lies so too.
Tables are (N, C), contiguous, float32 or wider; sums and moments run over the S positions of each sample and channel.
None of the passes is differentiable: `en_bench.norms.fused` makes a layer of them.
"""

import functools
import warnings
from types import ModuleType
from typing import Protocol, cast

import torch
from torch import Tensor

from en_bench.errors import EnBenchWarning
from en_bench.norms.maps import plain
from en_bench.norms.mode import mode


class Passes(Protocol):
    """A module with the four passes."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
    def affine(self, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor: ...
    def sums(self, dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]: ...
    def gradient(self, dy: Tensor, x: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor: ...


def passes_for(x: Tensor) -> Passes:
    """The fastest passes for the device and dtype of `x`: C++ on a CPU, Triton on an NVIDIA GPU, else plain PyTorch."""
    module: ModuleType = plain
    if mode() == "plain":
        return cast(Passes, plain)
    if x.device.type == "cpu":
        from en_bench.norms.maps import native

        if native.serves(x.dtype):
            module = native
    elif x.device.type == "cuda" and x.dtype.is_floating_point and triton_works(x.device):
        from en_bench.norms.maps import triton_kernels

        module = triton_kernels
    return cast(Passes, module)


@functools.cache
def triton_works(device: torch.device) -> bool:
    """Whether Triton compiles and runs on `device`, an NVIDIA GPU with bfloat16; warns where it should and does not."""
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from en_bench.norms.maps import triton_kernels

        triton_kernels.moments(torch.zeros(1, 8, 2, 2, device=device))
    except Exception as problem:  # it builds its launcher with the system's compiler: whatever that dislikes
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        warnings.warn(
            f"normalisers run in plain PyTorch on {device}, some times slower: {reason}. Cure: Triton needs a C "
            "compiler and Python's headers (gcc, python3-dev)",
            EnBenchWarning,
            stacklevel=2,
        )
        return False
    return True


def dense(x: Tensor) -> Tensor:
    """`x` itself where it is contiguous or channels_last, else a contiguous copy."""
    if not has_its_values(x):
        return x.clone()
    return x if x.is_contiguous() or is_channels_last(x) else x.contiguous()


def has_its_values(x: Tensor) -> bool:
    """Whether memory holds what `x` means: not so for a lazy negative, or a zero without memory."""
    return not x.is_neg() and not x._is_zerotensor()


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a position are neighbours in memory."""
    if x.ndim == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.ndim == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
