"""The passes over a feature map against float64, in every layout and dtype, and the building of the C++ ones."""

import os
import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from en_bench.norms.maps import dense, native, passes_for, plain

LAYOUTS = {
    "rows": lambda x: x.contiguous(),
    "columns": lambda x: x.contiguous(memory_format=torch.channels_last),
}
# Tails of vectors of 16, one and many chunks of positions (64 as columns, 4,096 as rows), one channel, one position.
SHAPES = [
    (2, 3, 1, 1),
    (1, 1, 5, 7),
    (3, 16, 8, 8),
    (2, 70, 7, 7),
    (2, 33, 9, 15),
    (1, 5, 65, 64),
    (2, 3, 100, 83),
    (4, 129, 2, 1),
]

needs_native = pytest.mark.skipif(not native.serves(torch.float32), reason="no C++ compiler")
each_module = pytest.mark.parametrize("passes", [plain, pytest.param(native, marks=needs_native)], ids=["plain", "c++"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)


def drawn(shape: tuple[int, ...], dtype: torch.dtype, layout: str, mean: float = 0.5) -> Tensor:
    return LAYOUTS[layout]((torch.randn(shape, dtype=torch.float64) * 2 + mean).to(dtype))


def table(x: Tensor) -> Tensor:
    return torch.randn(x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32))


def wide(t: Tensor) -> Tensor:
    return t.double()[:, :, None, None]


def tolerance(dtype: torch.dtype) -> float:
    """Of tables: all arithmetic is float32 or wider."""
    return 1e-13 if dtype == torch.float64 else 2e-6


def assert_near(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


@each_module
@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_passes_against_float64(passes, dtype, layout, shape):
    torch.manual_seed(0)
    x, dy = drawn(shape, dtype, layout), drawn(shape, dtype, layout)
    mean, a, b, c = (table(x) for _ in range(4))
    exact_x, exact_dy = x.double(), dy.double()
    rounding = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]

    found = passes.moments(x)
    assert_near(found[0], exact_x.mean((2, 3)), tolerance(dtype))
    assert_near(found[1], exact_x.var((2, 3), correction=0), tolerance(dtype))
    assert found[1].min() >= 0
    y = passes.affine(x, mean, a, b)
    assert_near(y, (exact_x - wide(mean)) * wide(a) + wide(b), rounding)
    sums = passes.sums(dy, x, mean)
    magnitude = (exact_dy.abs() * (1 + (exact_x - wide(mean)).abs())).sum((2, 3)).max()
    assert (sums[0].double() - exact_dy.sum((2, 3))).abs().max() <= tolerance(dtype) * magnitude
    products = (exact_dy * (exact_x - wide(mean))).sum((2, 3))
    assert (sums[1].double() - products).abs().max() <= tolerance(dtype) * magnitude
    dx = passes.gradient(dy, x, mean, a, b, c)
    assert_near(dx, exact_dy * wide(a) + (exact_x - wide(mean)) * wide(b) + wide(c), rounding)

    for map_ in (y, dx):
        assert map_.dtype == dtype and map_.stride() == x.stride()
    for t in (*found, *sums):
        assert t.shape == shape[:2] and t.is_contiguous() and t.dtype == torch.promote_types(dtype, torch.float32)


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 8, 7, 7), (2, 20, 90, 91)], ids=str)
def test_a_large_mean_costs_only_the_rounding_of_the_mean(layout, shape):
    torch.manual_seed(0)
    x = drawn(shape, torch.float32, layout, mean=1e4)
    mean, var = native.moments(x)
    exact = x.double()
    assert (mean.double() - exact.mean((2, 3))).abs().max() <= 1e4 * 2**-24
    assert_near(var, exact.var((2, 3), correction=0), 2e-6)


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unrepresentative_beginning_costs_no_digits(layout):
    """A sky of one colour above a textured ground: the first chunks say nothing of the mean."""
    torch.manual_seed(0)
    x = torch.randn(2, 17, 128, 64) * 1e-2
    x[:, :, :100] = 100.0
    x = LAYOUTS[layout](x)
    mean, var = native.moments(x)
    assert_near(mean, x.double().mean((2, 3)), 1e-6)
    assert_near(var, x.double().var((2, 3), correction=0), 1e-6)


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_to_half_precision_is_torchs(dtype):
    values = torch.cat(
        [torch.randn(4000) * 10.0**e for e in range(-9, 6)]
        + [
            torch.tensor(
                [0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 65504.0, 65520.0, 3.4e38, 1e-45, float("inf"), -float("inf")]
            )
        ]
    )
    x = torch.ones(1, len(values), 1, 1, dtype=dtype)
    zero, one = torch.zeros(1, len(values)), torch.ones(1, len(values))
    y = native.affine(x, one, zero, values[None])
    assert torch.equal(y.flatten(), values.to(dtype))
    y = native.affine(x, one, zero, torch.full_like(one, float("nan")))
    assert y.isnan().all()


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_and_infinity_reach_the_moments(layout):
    for bad in (float("nan"), float("inf")):
        x = drawn((2, 20, 9, 9), torch.float32, layout)
        x[1, 3, 8, 8] = bad
        mean, var = native.moments(x)
        assert not mean[1, 3].isfinite() and not var[1, 3].isfinite()
        x[1, 3] = 0
        assert torch.isfinite(native.moments(x)[0]).all() and mean.isfinite().sum() == mean.numel() - 1


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_number_of_threads_changes_no_bit(layout):
    x, dy = drawn((5, 70, 33, 31), torch.float32, layout), drawn((5, 70, 33, 31), torch.float32, layout)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            mean, var = native.moments(x)
            results.append((mean, var, *native.sums(dy, x, mean), native.affine(x, mean, var, var)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_dense_copies_only_what_is_neither_layout():
    x = torch.randn(4, 6, 5, 5)
    for kept in (x, x.to(memory_format=torch.channels_last), x[1:3]):
        assert dense(kept) is kept
    for copied in (x[:, ::2], x.transpose(2, 3), x[:, :, :1].expand_as(x)):
        assert dense(copied).is_contiguous() and torch.equal(dense(copied), copied)


@needs_native
def test_cpu_maps_take_the_compiled_passes():
    assert passes_for(torch.ones(1, 2, 3, 3)) is native
    assert passes_for(torch.ones(1, 2, 3, 3, dtype=torch.int32)) is plain


def build(tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import torch, warnings\n"
        "from en_bench.norms import BatchNorm\n"
        "from en_bench.norms.maps import native\n"
        "torch.manual_seed(0)\n"
        "layer, x = BatchNorm(4), torch.randn(3, 4, 5, 5, requires_grad=True)\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2): layer(x).square().sum().backward()\n"
        "print(native.serves(torch.float32), len(caught), *(w.message for w in caught))\n"
        "torch.testing.assert_close(layer(x), torch.nn.functional.batch_norm(x, None, None, training=True))\n"
    )
    env = {**os.environ, "EN_BENCH_CACHE": str(tmp_path / "cache"), "EN_BENCH_NORMS": "eager", **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


@needs_native
@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["stand-in", "real"])
def test_built_once_into_the_cache_folder(tmp_path, stand_in_compiler, real):
    compiler = "g++" if real else str(stand_in_compiler)
    first = build(tmp_path, CXX=compiler)
    assert first.stdout.startswith("True 0"), first
    (library,) = (tmp_path / "cache").iterdir()
    written = library.stat().st_mtime_ns
    assert build(tmp_path, CXX=compiler).stdout.startswith("True 0")
    assert [p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()] == [written]


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("no-such-compiler", "no C\\+\\+ compiler found"),
        pytest.param("false", "false failed", marks=pytest.mark.slow),
    ],
)
def test_without_a_compiler_one_warning_and_the_same_results(tmp_path, compiler, said):
    done = build(tmp_path, CXX=compiler)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False 1 normalisers run in plain PyTorch")
    assert re.search(said, done.stdout)
    assert "install a C++17 compiler" in done.stdout


@needs_native
def test_a_folder_that_cannot_be_written(tmp_path, stand_in_compiler):
    (tmp_path / "file").touch()
    environment = {"CXX": str(stand_in_compiler), "EN_BENCH_CACHE": str(tmp_path / "file" / "below")}
    assert build(tmp_path, **environment).stdout.startswith("True 0")


@needs_native
@pytest.mark.slow
def test_two_processes_building_at_once(tmp_path):
    env = {**os.environ, "EN_BENCH_CACHE": str(tmp_path / "cache")}
    code = "from en_bench.norms.maps import native; print(native.build())"
    both = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = {process.communicate(timeout=120)[0] for process in both}
    assert len(said) == 1 and len(list((tmp_path / "cache").iterdir())) == 1
