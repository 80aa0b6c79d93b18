"""The Triton kernels against plain PyTorch in float64. `test_triton` runs this file in processes of its own: the
interpreter must be chosen before Triton is imported, and the name keeps pytest from collecting it elsewhere.

Triton's interpreter cuts bfloat16 off where a GPU rounds, so one unit in its last place is allowed, not half of one.
"""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from en_bench.norms.maps import plain, triton_device, triton_kernels

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Relative to the spread of the values: of tables, and of a map's last digit.
TABLES = {torch.float32: 1e-6, torch.float64: 2e-15, torch.bfloat16: 1e-6, torch.float16: 1e-6}
MAPS = {torch.float32: 1e-6, torch.float64: 2e-15, torch.bfloat16: 2**-7, torch.float16: 2**-10}

ROWS = [
    (5, 6),
    (0, 3, 4, 4),
    (2, 3, 0),
    (3, 1, 9),
    (2, 5, 1, 1),
    (2, 3, 7, 7),  # odd: flat pieces over many rows
    (3, 5, 4, 6),  # tiles of rows
    (2, 3, 45, 47),  # flat pieces over two rows; several tiles
    (1, 2, 80, 81),  # split, with a short last part
    (1, 2, 3, 4, 5),
]
COLUMNS = [
    (2, 3, 5, 7),
    (2, 70, 3, 3),  # padded channels
    (1, 128, 2, 2),  # one wide tile
    (1, 40, 17, 19),  # several tiles, a group not full
    (2, 8, 41, 43),  # split, with a short last part
    (2, 6, 2, 3, 5),
]
CASES = [(shape, False) for shape in ROWS] + [(shape, True) for shape in COLUMNS]


def draw(shape: tuple[int, ...], last: bool, dtype: torch.dtype, mean: float = 0.0) -> Tensor:
    x = (torch.randn(shape, dtype=torch.float64) + mean).to(DEVICE, dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    return x


def tables(x: Tensor, count: int) -> list[Tensor]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return [torch.randn(x.shape[:2], dtype=wide, device=DEVICE) for _ in range(count)]


def check(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """`tolerance` is relative to each value or, where those are larger, to the root of their mean square."""
    assert actual.shape == expected.shape
    scale = torch.maximum(expected.abs(), expected.square().mean().sqrt())
    assert bool(((actual.double() - expected).abs() <= tolerance * scale).all())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "last"), CASES, ids=str)
def test_all_passes(shape: tuple[int, ...], last: bool, dtype: torch.dtype) -> None:
    x, dy = draw(shape, last, dtype), draw(shape, last, dtype)
    mean, var = triton_kernels.moments(x)
    expected_mean, expected_var = plain.moments(x.double())
    assert mean.dtype == var.dtype == torch.promote_types(dtype, torch.float32)
    assert mean.is_contiguous() and var.is_contiguous()
    if x.numel():  # the mean of nothing is NaN
        torch.testing.assert_close(mean.double(), expected_mean, rtol=TABLES[dtype], atol=TABLES[dtype])
        check(var, expected_var, TABLES[dtype])
    centre, a, b, c = tables(x, 4)
    wide = [table.double() for table in (centre, a, b, c)]
    for actual, expected in zip(
        triton_kernels.sums(dy, x, centre), plain.sums(dy.double(), x.double(), wide[0]), strict=True
    ):
        check(actual, expected, TABLES[dtype])
    y = triton_kernels.affine(x, centre, a, b)
    dx = triton_kernels.gradient(dy, x, centre, a, b, c)
    for result in (y, dx):
        assert result.dtype == dtype and result.stride() == x.stride()
    check(y, plain.affine(x.double(), *wide[:3]), MAPS[dtype])
    check(dx, plain.gradient(dy.double(), x.double(), *wide), MAPS[dtype])


@pytest.mark.parametrize(
    ("shape", "last"), [((2, 3, 7, 7), False), ((1, 2, 80, 81), False), ((2, 8, 41, 43), True)], ids=str
)
@pytest.mark.parametrize("large", [1e4, 1e5])
def test_a_large_mean_costs_no_digits(shape: tuple[int, ...], last: bool, large: float) -> None:
    x = draw(shape, last, torch.float32, large)
    mean, var = triton_kernels.moments(x)
    expected_mean, expected_var = plain.moments(x.double())
    torch.testing.assert_close(mean.double(), expected_mean, rtol=2**-23, atol=0.0)
    torch.testing.assert_close(var.double(), expected_var, rtol=2e-6, atol=0.0)
    ones, zeros = torch.ones_like(mean), torch.zeros_like(mean)
    check(triton_kernels.affine(x, mean, ones, zeros), plain.affine(x.double(), mean.double(), ones, zeros), 1e-6)
    for actual, expected in zip(
        triton_kernels.sums(x - large, x, mean),
        plain.sums((x - large).double(), x.double(), mean.double()),
        strict=True,
    ):
        check(actual, expected, 2e-6)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("which", ["start", "end", "border"])
def test_moments_of_maps_whose_parts_differ(last: bool, which: str) -> None:
    """The values that serve as origins lie far from the rest."""
    x = draw((2, 8, 41, 43), last, torch.float32, mean=30.0)
    if which == "start":
        x[:, :, 0, 0] = -1e4
    elif which == "end":
        x[:, :, -1, -1] = 1e4
    else:
        x[:, :, :5] = 0.0
    mean, var = triton_kernels.moments(x)
    expected_mean, expected_var = plain.moments(x.double())
    spread = expected_var.sqrt()
    assert bool(((mean - expected_mean).abs() <= 1e-6 * (expected_mean.abs() + spread)).all())
    torch.testing.assert_close(var.double(), expected_var, rtol=2e-6, atol=0.0)


@pytest.mark.parametrize("last", [False, True])
def test_a_constant_map_has_no_variance(last: bool) -> None:
    x = torch.full_like(draw((1, 8, 41, 43), last, torch.float32), 0.1)
    mean, var = triton_kernels.moments(x)
    assert bool((var >= 0).all())
    torch.testing.assert_close(mean, torch.full_like(mean, 0.1), rtol=2**-23, atol=0.0)
    assert float(var.max()) <= (0.1 * 2**-23) ** 2


@pytest.mark.parametrize(("shape", "last"), [((1, 2, 80, 81), False), ((2, 8, 41, 43), True)], ids=str)
def test_equal_inputs_give_equal_bits(shape: tuple[int, ...], last: bool) -> None:
    x, dy = draw(shape, last, torch.float32), draw(shape, last, torch.float32)
    for run in (lambda: triton_kernels.moments(x), lambda: triton_kernels.sums(dy, x, torch.zeros(shape[:2]).to(x))):
        for one, other in zip(run(), run(), strict=True):
            assert torch.equal(one, other)


def test_a_storage_offset_that_is_not_aligned() -> None:
    flat = torch.randn(2 * 8 * 6 * 6 + 1, device=DEVICE)
    x = flat[1:].view(2, 8, 6, 6)
    mean, var = triton_kernels.moments(x)
    expected_mean, expected_var = plain.moments(x.double())
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-6, atol=1e-6)
    check(var, expected_var, 1e-6)
    check(
        triton_kernels.affine(x, mean, var, mean),
        plain.affine(x.double(), *map(Tensor.double, (mean, var, mean))),
        1e-6,
    )


def test_flat_pieces_find_their_rows() -> None:
    for s in range(1, 200, 2):
        x = torch.zeros(5, 700 // s + 1, s, device=DEVICE)
        rows = torch.arange(x.shape[0] * x.shape[1], dtype=torch.float32, device=DEVICE).view(x.shape[:2])
        y = triton_kernels.affine(x, x[..., 0].contiguous(), x[..., 0].contiguous(), rows)
        assert torch.equal(y, rows[..., None].expand_as(x))


@triton.jit(do_not_specialize=["program", "inner", "outer", "steps"])
def _show_tile(out_ptr, program, inner: tl.int64, outer: tl.int64, steps: tl.int64, LAST: tl.constexpr):
    split, row, offsets, stride, _, left, _ = triton_device._tile(program, inner, outer, steps, 8, 64, 16, LAST)
    tl.store(out_ptr, tl.max(tl.max(offsets, 1), 0))
    tl.store(out_ptr + 1, tl.max(tl.max(row, 1), 0))
    tl.store(out_ptr + 2, left)
    tl.store(out_ptr + 3, split)
    tl.store(out_ptr + 4, stride)


@pytest.mark.parametrize("last", [False, True])
def test_offsets_pass_two_to_the_31(last: bool) -> None:
    """The last tile of 3 * 64 * 2^27 elements, as (3, 64, 2^27), in splits of 2^24 positions."""
    out = torch.zeros(5, dtype=torch.int64, device=DEVICE)
    samples, k, s = (3, 64, 2**27) if last else (1, 192, 2**27)
    inner, outer, steps = (k // 8, s, 2**20) if last else (s // 8, k, 2**20)
    splits = 8
    program = samples * (k // 64) * splits - 1
    _show_tile[(1,)](out, program, inner, outer, steps, LAST=last)
    begin = 7 * 2**24
    end = ((2 * s + begin + 15) * 64 + 63) if last else 191 * s + begin + 15
    assert out.tolist() == [end, 191, 2**24, 7, 64 * 16 if last else 16]


def test_few_kernels_serve_many_sizes() -> None:
    """Block sizes and divisors are all that is compiled in; sizes of 50 odd images share them."""
    reductions, elementwise = set(), set()
    for side in range(32, 232, 4):
        for last in (False, True):
            for first in (0, 1):
                cut = triton_kernels._reduction(8, 64, side * (side + 3), 2, last, first, 132)
                reductions.add((first, *cut.blocks.values()))
            elementwise.add(tuple(triton_kernels._elementwise(8, 64, side * (side + 3), 2, last).blocks.values()))
    assert len(reductions) <= 2 * 4 and len(elementwise) <= 8
