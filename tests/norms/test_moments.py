import pytest
import torch

from en_bench.norms.moments import Moments, pool_batch, pool_groups, sample_moments, table_dtype

from .reference import assert_same

X = torch.randn(5, 6, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 3


def assert_moments(got: Moments, values: torch.Tensor, dims: tuple[int, ...], shape: tuple[int, ...]) -> None:
    var, mean = torch.var_mean(values, dims, correction=0, keepdim=True)
    assert_same(got.mean, mean.expand(shape).reshape(got.mean.shape), "mean")
    assert_same(got.var, var.expand(shape).reshape(got.var.shape), "var")


def test_per_sample_and_channel():
    assert_moments(sample_moments(X), X, (2, 3), (5, 6, 1, 1))


def test_without_positions_the_variance_is_zero():
    moments = sample_moments(X[:, :, 0, 0])
    assert_same(moments.mean, X[:, :, 0, 0], "mean")
    assert not moments.var.any()


def test_pooled_over_the_batch():
    assert_moments(pool_batch(sample_moments(X)), X, (0, 2, 3), (1, 6, 1, 1))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_pooled_over_groups(groups):
    width = 6 // groups
    grouped = X.view(5, groups, width, 4, 3)
    assert_moments(pool_groups(sample_moments(X), groups), grouped, (2, 3, 4), (5, groups, width, 1, 1))


def test_a_large_mean_leaves_the_variance_its_digits():
    x = (torch.randn(8, 4, 32, 32, generator=torch.Generator().manual_seed(0)) + 1e4).float()
    got, want = sample_moments(x), sample_moments(x.double())
    torch.testing.assert_close(got.var.double(), want.var, rtol=1e-6, atol=0)
    # Half a unit in the last place of a float32 at 10,000, and a little.
    assert (got.mean - want.mean).abs().max() < 0.6 * 2**-10


@pytest.mark.parametrize(
    ("dtype", "table"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_tables_are_fp32_or_wider(dtype, table):
    assert table_dtype(X.to(dtype)) == table
    assert {t.dtype for t in sample_moments(X.to(dtype))} == {table}
