"""The Triton kernels behind `triton_kernels`: what runs on the device.

Shape suffixes: N sample, C channel, K channels that lie side by side, S position. A map is a stack of (K, S) matrices:
one of N * C rows of S positions where it is contiguous, one of C columns per sample where it is channels_last (LAST).
Kernels work on tiles of (BLOCK_K, BLOCK_S); which of the two dimensions is the inner one in memory is all that tells
the layouts apart, but that element-wise passes take a contiguous map as one flat array where rows would not line up.

Sizes are never compiled in. They come as 64-bit integers, and the length of the inner dimension in units of VEC, a
power of two that divides it: the compiler makes wide loads only where it knows the divisor. Tables are (N, C).
"""
# mypy: ignore-errors
# Triton compiles these functions itself; what they look like to Python says nothing of their types.

import triton
import triton.language as tl

GROUP = tl.constexpr(4)  # tiles that a reduction asks for before it waits for the first
# How an element-wise pass cuts a map: in tiles, or in flat pieces that touch many rows or two at most.
TILES, MANY, TWO = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_SIZES = ["inner", "outer", "steps", "tables"]


@triton.jit
def _tile(
    program, inner, outer, steps, VEC: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr
):
    """Where `program` begins: its split, rows of the tables (BLOCK_K, 1), offsets (BLOCK_K, BLOCK_S) into the map, the
    distance to the next tile, positions (1, BLOCK_S), how many of them are left in this split, and which rows exist.
    """
    if LAST:
        K = inner.to(tl.int64) * VEC
        S = outer.to(tl.int64)
    else:
        K = outer.to(tl.int64)
        S = inner.to(tl.int64) * VEC
    blocks = tl.cdiv(K, BLOCK_K).to(tl.int32)
    splits = tl.cdiv(tl.cdiv(S, BLOCK_S).to(tl.int32), steps.to(tl.int32))  # 32 bits divide five times as fast
    split = (program // blocks % splits).to(tl.int64)
    sample = (program // blocks // splits).to(tl.int64)
    first_k = (program % blocks).to(tl.int64) * BLOCK_K
    first_s = split * steps * BLOCK_S
    k = tl.arange(0, BLOCK_K)[:, None]
    s = tl.arange(0, BLOCK_S)[None, :]
    if LAST:
        offsets = (sample * S + first_s) * K + first_k + (s * K + k)
        stride = K * BLOCK_S
    else:
        offsets = (sample * K + first_k) * S + first_s + (k * S + s)
        stride = tl.full((), BLOCK_S, tl.int64)
    left = tl.minimum(S - first_s, steps * BLOCK_S)
    return split, sample * K + first_k + k, offsets, stride, s, left, first_k + k < K


@triton.jit
def _load_group(ptrs, stride, s, left, exists, other, BLOCK_S: tl.constexpr):
    """GROUP tiles from `ptrs` on, all asked for before any is used; `left` positions are there to be read."""
    last = tl.minimum(left, GROUP * BLOCK_S).to(tl.int32)
    tiles = ()
    for ahead in tl.static_range(GROUP):
        tiles += (tl.load(ptrs + ahead * stride, mask=exists & (s + ahead * BLOCK_S < last), other=other),)
    return tiles


@triton.jit
def _combine(origin, first, second, count, n):
    """Parts of `count` values around `origin`, with the sum `first` of their deviations from it and the sum `second` of
    the squares of those, as one part of `n` over axis 1: its origin, the rounded mean, and the two sums around that.
    """
    centre = tl.sum(count * origin + first, 1) / n
    away = tl.where(count > 0, origin - centre[:, None], 0)
    return centre, tl.sum(first + count * away, 1), tl.sum(second + away * (2 * first + count * away), 1)


@triton.jit
def _finish(centre, first, second, n):
    """Mean and population variance, less what rounding has left in `centre`."""
    return centre + first / n, tl.maximum(second - first * first / n, 0) / n


@triton.jit(do_not_specialize=_SIZES)
def moments(
    x_ptr, mean_ptr, var_ptr, parts_ptr, inner: tl.int64, outer: tl.int64, steps: tl.int64, tables: tl.int64,
    VEC: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
    ONCE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Sums and sums of squares around an origin of each lane: its own first value. One merge of all lanes at the end.

    The origins are values of the map, so their squared deviations do not exceed the sum that is sought: no term here is
    more than (tiles + 1) times as large, and the digits of a large mean never enter. With one tile for all positions
    nothing but the deviations from the mean remains: the two-pass algorithm.
    """
    dtype: tl.constexpr = mean_ptr.dtype.element_ty
    split, row, offsets, stride, s, left, exists = _tile(
        tl.program_id(0), inner, outer, steps, VEC, BLOCK_K, BLOCK_S, LAST
    )
    n = left.to(dtype)
    head = tl.load(x_ptr + offsets, mask=exists & (s < left), other=0)
    origin = head.to(dtype)
    if ONCE:
        centre = tl.sum(origin, 1) / n
        away = tl.where(s < left, origin - centre[:, None], 0)
        sum1 = tl.sum(away, 1)
        sum2 = tl.sum(away * away, 1)
    else:
        first = tl.zeros((BLOCK_K, BLOCK_S), dtype)
        second = tl.zeros((BLOCK_K, BLOCK_S), dtype)
        for start in range(1, tl.cdiv(left, BLOCK_S), GROUP):
            group = _load_group(
                x_ptr + start * stride + offsets, stride, s, left - start * BLOCK_S, exists, head, BLOCK_S
            )
            for ahead in tl.static_range(GROUP):
                away = group[ahead].to(dtype) - origin
                first += away
                second += away * away
        count = ((tl.maximum(left - s, 0) + (BLOCK_S - 1)) // BLOCK_S).to(tl.int32).to(dtype)
        centre, sum1, sum2 = _combine(origin, first, second, count, n)
    if SPLIT:  # (split, centre and two sums, N, C)
        part_ptr = parts_ptr + 3 * split * tables + row
        tl.store(part_ptr, centre[:, None], mask=exists)
        tl.store(part_ptr + tables, sum1[:, None], mask=exists)
        tl.store(part_ptr + 2 * tables, sum2[:, None], mask=exists)
    else:
        mean, var = _finish(centre, sum1, sum2, n)
        tl.store(mean_ptr + row, mean[:, None], mask=exists)
        tl.store(var_ptr + row, var[:, None], mask=exists)


@triton.jit(do_not_specialize=["tables", "splits", "positions", "share"])
def merge_moments(
    parts_ptr, mean_ptr, var_ptr,
    tables: tl.int64, splits: tl.int64, positions: tl.int64, share: tl.int64,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Moments from the parts of `moments`; each holds `share` positions, the last one what is left."""
    dtype: tl.constexpr = mean_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    split = tl.arange(0, BLOCK_P)[None, :]
    exists = (row < tables)[:, None] & (split < splits)
    part_ptr = parts_ptr + 3 * split * tables + row[:, None]
    centre = tl.load(part_ptr, mask=exists, other=0)
    sum1 = tl.load(part_ptr + tables, mask=exists, other=0)
    sum2 = tl.load(part_ptr + 2 * tables, mask=exists, other=0)
    count = tl.maximum(tl.minimum(positions - split * share, share), 0).to(dtype)
    n = positions.to(dtype)
    centre, sum1, sum2 = _combine(centre, sum1, sum2, count, n)
    mean, var = _finish(centre, sum1, sum2, n)
    tl.store(mean_ptr + row, mean, mask=row < tables)
    tl.store(var_ptr + row, var, mask=row < tables)


@triton.jit(do_not_specialize=_SIZES)
def sums(
    dy_ptr, x_ptr, mean_ptr, sum_ptr, centred_ptr, inner: tl.int64, outer: tl.int64, steps: tl.int64, tables: tl.int64,
    VEC: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """Of dy, and of its products with the centred x; `sum_ptr` and `centred_ptr` are (split, N, C)."""
    dtype: tl.constexpr = mean_ptr.dtype.element_ty
    split, row, offsets, stride, s, left, exists = _tile(
        tl.program_id(0), inner, outer, steps, VEC, BLOCK_K, BLOCK_S, LAST
    )
    mean = tl.load(mean_ptr + row, mask=exists, other=0)
    if ONCE:
        seen = exists & (s < left)
        total = tl.load(dy_ptr + offsets, mask=seen, other=0).to(dtype)
        centred = total * (tl.load(x_ptr + offsets, mask=seen, other=0).to(dtype) - mean)
    else:
        total = tl.zeros((BLOCK_K, BLOCK_S), dtype)
        centred = tl.zeros((BLOCK_K, BLOCK_S), dtype)
        for start in range(0, tl.cdiv(left, BLOCK_S), GROUP):
            dys = _load_group(dy_ptr + start * stride + offsets, stride, s, left - start * BLOCK_S, exists, 0, BLOCK_S)
            xs = _load_group(x_ptr + start * stride + offsets, stride, s, left - start * BLOCK_S, exists, 0, BLOCK_S)
            for ahead in tl.static_range(GROUP):
                dy = dys[ahead].to(dtype)
                total += dy
                centred += dy * (xs[ahead].to(dtype) - mean)
    tl.store(sum_ptr + split * tables + row, tl.sum(total, 1)[:, None], mask=exists)
    tl.store(centred_ptr + split * tables + row, tl.sum(centred, 1)[:, None], mask=exists)


@triton.jit
def _elements(
    inner, outer,
    VEC: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """The elements of this program: offsets, which exist, their `row` in the tables, whether that exists, and `after`.

    TILES are those of `_tile`. A flat piece is BLOCK_S elements of a contiguous map of `inner * VEC` elements in rows
    of `outer`; where it touches TWO rows at most, they are `row` and, for the elements `after`, the next one. The last
    elements come first: what the pass before has read last is still in the cache.
    """
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    if CUT == TILES:
        one = tl.full((), 1, tl.int64)
        _, row, offsets, _, s, left, exists = _tile(program, inner, outer, one, VEC, BLOCK_K, BLOCK_S, LAST)
        return offsets, exists & (s < left), row, exists, exists
    else:
        total = inner.to(tl.int64) * VEC
        first = program.to(tl.int64) * BLOCK_S
        lane = tl.arange(0, BLOCK_S)
        inside = lane < total - first
        row = first // outer
        begun = first - row * outer
        if CUT == TWO:
            return first + lane, inside, row, (row + 1) * outer < total, lane >= outer - begun
        else:
            # Exact, and cheaper than dividing integers: these are below 2 * BLOCK_S, and the half keeps every quotient
            # further from a whole number than fp32 rounds.
            position = (begun.to(tl.int32) + lane).to(tl.float32) + 0.5
            rows = row + (position * (1 / outer.to(tl.float32))).to(tl.int32)
            return first + lane, inside, rows, inside, inside


@triton.jit
def _entry(table_ptr, row, exists, after, CUT: tl.constexpr):
    """The entries of a table that belong to the elements of `_elements`."""
    if CUT == TWO:
        return tl.where(after, tl.load(table_ptr + row + 1, mask=exists, other=0), tl.load(table_ptr + row))
    else:
        return tl.load(table_ptr + row, mask=exists, other=0)


@triton.jit(do_not_specialize=["inner", "outer"])
def affine(
    x_ptr, mean_ptr, scale_ptr, shift_ptr, y_ptr, inner: tl.int64, outer: tl.int64,
    VEC: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    offsets, inside, row, exists, after = _elements(inner, outer, VEC, BLOCK_K, BLOCK_S, LAST, CUT)
    x = tl.load(x_ptr + offsets, mask=inside, other=0).to(mean_ptr.dtype.element_ty)
    centred = x - _entry(mean_ptr, row, exists, after, CUT)
    y = centred * _entry(scale_ptr, row, exists, after, CUT) + _entry(shift_ptr, row, exists, after, CUT)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["inner", "outer"])
def gradient(
    dy_ptr, x_ptr, mean_ptr, a_ptr, b_ptr, c_ptr, dx_ptr, inner: tl.int64, outer: tl.int64,
    VEC: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    offsets, inside, row, exists, after = _elements(inner, outer, VEC, BLOCK_K, BLOCK_S, LAST, CUT)
    dtype: tl.constexpr = mean_ptr.dtype.element_ty
    dy = tl.load(dy_ptr + offsets, mask=inside, other=0).to(dtype)
    x = tl.load(x_ptr + offsets, mask=inside, other=0).to(dtype)
    centred = x - _entry(mean_ptr, row, exists, after, CUT)
    dx = centred * _entry(b_ptr, row, exists, after, CUT) + _entry(c_ptr, row, exists, after, CUT)
    dx = dy * _entry(a_ptr, row, exists, after, CUT) + dx
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=inside)
