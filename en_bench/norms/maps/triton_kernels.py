"""The four passes as Triton kernels, for NVIDIA GPUs (`triton_device` is what runs there).

Every pass reads each map once and writes its result once. Whatever the sizes, the reductions start enough programs to
fill the device: positions are split where there are few channels, and a small step merges the parts, always in the same
order, so that equal inputs give equal bits. Blocks follow fixed rules from sizes rounded up to powers of two: nothing
is tuned while a network runs, and new sizes compile nothing once every rounded size has been met.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from en_bench.norms.maps import is_channels_last, plain, triton_device
from en_bench.norms.moments import table_dtype

# A whole tile, or a group of four parts, is 64 bytes of bfloat16 on their way to each of 128 threads: 8 KiB a program.
# 4.8 TB/s at a latency of some 800 ns need 30 KiB on their way to each of 132 multiprocessors: four programs. Registers
# leave room for six to eight.
_WARPS = 4
_WHOLE = 4096  # elements of a tile that holds all positions of its channels
_PART = 1024  # elements of one tile of several, whose running values stay in registers
_FLAT = 2048  # elements of an element-wise program, which has one or two maps to read and many programs beside it
_VECTOR_BYTES = 16
_VECTOR_IN_REDUCTIONS = 4  # elements: with eight channels a thread, merging the lanes costs more than reading them
_OPTIONS = {"num_warps": _WARPS, "enable_fp_fusion": True}
_WANTED = 8  # programs for each multiprocessor, where positions are split
_ENOUGH = 3  # programs for each multiprocessor with which splitting would gain less than the launch of a merge costs


class _Reduction(NamedTuple):
    """How a reduction is cut: programs, splits of the positions and positions in each, arguments of the kernel."""

    programs: int
    splits: int
    share: int
    sizes: tuple[int, int, int, int]
    blocks: dict[str, int]


class _Elementwise(NamedTuple):
    """How an element-wise pass is cut: programs and arguments of the kernel."""

    programs: int
    sizes: tuple[int, int]
    blocks: dict[str, int]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    n, c, s = _sizes(x)
    if n * c == 0 or s <= 1:
        return plain.moments(x)
    cut = _reduction(n, c, s, x.element_size(), _last(x), 1, _multiprocessors(x.device))
    mean, var = x.new_empty((2, n, c), dtype=table_dtype(x))
    parts = mean if cut.splits == 1 else mean.new_empty((cut.splits, 3, n, c))
    with _device_of(x):
        triton_device.moments[(cut.programs,)](x, mean, var, parts, *cut.sizes, **cut.blocks, SPLIT=cut.splits > 1)
        if cut.splits > 1:
            block_p = next_power_of_2(cut.splits)
            block_k = max(1, _PART // block_p)
            triton_device.merge_moments[(cdiv(n * c, block_k),)](
                parts, mean, var, n * c, cut.splits, s, cut.share, BLOCK_K=block_k, BLOCK_P=block_p, **_OPTIONS
            )
    return mean, var


def sums(dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    n, c, s = _sizes(x)
    if n * c == 0 or s <= 1:
        return plain.sums(dy, x, mean)
    cut = _reduction(n, c, s, x.element_size(), _last(x), 0, _multiprocessors(x.device))
    parts = mean.new_empty((2, cut.splits, n, c))
    with _device_of(x):
        triton_device.sums[(cut.programs,)](dy, x, mean, *parts, *cut.sizes, **cut.blocks)
    sum_dy, sum_dy_centred = parts[:, 0] if cut.splits == 1 else parts.sum(1)
    return sum_dy, sum_dy_centred


def affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    y = torch.empty_like(x)
    if x.numel():
        cut = _elementwise(*_sizes(x), x.element_size(), _last(x))
        with _device_of(x):
            triton_device.affine[(cut.programs,)](x, mean, scale, shift, y, *cut.sizes, **cut.blocks)
    return y


def gradient(dy: Tensor, x: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    dx = torch.empty_like(x)
    if x.numel():
        cut = _elementwise(*_sizes(x), x.element_size(), _last(x))
        with _device_of(x):
            triton_device.gradient[(cut.programs,)](dy, x, mean, a, b, c, dx, *cut.sizes, **cut.blocks)
    return dx


@lru_cache(maxsize=4096)
def _reduction(n: int, c: int, s: int, itemsize: int, last: bool, first: int, multiprocessors: int) -> _Reduction:
    """`first` tiles are read before the loop over groups of tiles begins."""
    group = triton_device.GROUP.value
    samples, k = (n, c) if last else (1, n * c)
    whole, part = (_WHOLE, _PART) if itemsize <= 4 else (_WHOLE // 2, _PART // 2)
    block_s = next_power_of_2(s)
    block_k = _columns(c, whole // block_s) if last else min(max(_WARPS, whole // block_s), next_power_of_2(k))
    once = block_k * block_s <= whole
    if not once:
        block_s = part // block_k
    tiles = cdiv(s, block_s)
    programs = samples * cdiv(k, block_k)
    steps = tiles
    if programs < _ENOUGH * multiprocessors and not once:
        wanted = cdiv(tiles, cdiv(_WANTED * multiprocessors, programs))
        steps = min(tiles, first + group * max(1, (wanted - first + group // 2) // group))  # whole groups
    splits = cdiv(tiles, steps)
    inner, outer = (c, s) if last else (s, k)
    vec = gcd(inner, min(_VECTOR_BYTES // itemsize, _VECTOR_IN_REDUCTIONS))
    blocks = {"VEC": vec, "BLOCK_K": block_k, "BLOCK_S": block_s, "LAST": last, "ONCE": once, **_OPTIONS}
    return _Reduction(programs * splits, splits, steps * block_s, (inner // vec, outer, steps, n * c), blocks)


@lru_cache(maxsize=4096)
def _elementwise(n: int, c: int, s: int, itemsize: int, last: bool) -> _Elementwise:
    flat = _FLAT if itemsize <= 4 else _FLAT // 2
    block_s = next_power_of_2(s)
    if last:
        block_k = _columns(c, flat // block_s)
        block_s = min(block_s, flat // block_k)
        programs, inner, outer, cut = n * cdiv(c, block_k) * cdiv(s, block_s), c, s, triton_device.TILES
    elif s < flat and gcd(s * itemsize, _VECTOR_BYTES) >= _VECTOR_BYTES // 2:
        block_k = min(flat // block_s, next_power_of_2(n * c))
        programs, inner, outer, cut = cdiv(n * c, block_k), s, n * c, triton_device.TILES
    else:
        block_k, block_s = 1, flat
        programs, inner, outer = cdiv(n * c * s, flat), n * c * s, s
        cut = triton_device.MANY if s < flat else triton_device.TWO
    vec = gcd(inner, _VECTOR_BYTES // itemsize)
    blocks = {"VEC": vec, "BLOCK_K": block_k, "BLOCK_S": block_s, "LAST": last, "CUT": cut.value, **_OPTIONS}
    return _Elementwise(programs, (inner // vec, outer), blocks)


def _columns(c: int, most: int) -> int:
    """Channels of a channels_last tile: 64 or 32, whichever pads fewer, and up to `most` where no padding comes of it.

    64 channels of bfloat16 are a cache line; more of them would leave fewer positions to share a read of the tables.
    """
    if c <= 32:
        return int(next_power_of_2(c))
    block = min((64, 32), key=lambda size: cdiv(c, size) * size)
    while c % (2 * block) == 0 and 2 * block <= most:
        block *= 2
    return block


def _sizes(x: Tensor) -> tuple[int, int, int]:
    n, c = x.shape[:2]
    return n, c, x.shape[2:].numel()


def _last(x: Tensor) -> bool:
    """Whether the map lies as columns; one that lies both ways, for want of channels or positions, is rows."""
    return not x.is_contiguous() and is_channels_last(x)


def _multiprocessors(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 132  # an H100's, in Triton's interpreter


def _device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of `x`."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
