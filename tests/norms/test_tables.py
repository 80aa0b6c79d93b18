"""The compiled tables: the same numbers as in eager PyTorch, from one graph for all shapes."""

import itertools
import warnings

import pytest
import torch
from torch import Tensor

from en_bench.norms import BatchNorm, ExemplarNorm, GroupNorm, Norm, SwitchNorm, programs, tables
from en_bench.norms.moments import Moments

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setenv("EN_BENCH_NORMS", "compiled")
    monkeypatch.setattr(programs, "program_for", lambda norm, x: None)
    tables.forget()
    yield
    tables.forget()


def drawn(norm: Norm, n: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    c = norm.num_features
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    sample = [torch.randn(n, c), torch.rand(n, c) + 0.5]
    return sample, [torch.randn(n, c), torch.randn(n, c)], [t.detach() for t in norm.parameter_tensors()]


def worst(got: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> list[float]:
    """The largest error of each table, in units of its largest value."""
    return [float((g - e).abs().max() / e.abs().max().clamp_min(1e-30)) for g, e in zip(got, exact, strict=True)]


WIDE = [(5, 64), (1, 64), (2, 160), (3, 64), (33, 2048)]
# One channel, one group of the gate, one channel per group.
NARROW = [(7, 16), (1, 32), (3, 1)]


@pytest.mark.parametrize(
    ("norm", "kinds", "sizes", "graphs"),
    [
        (SwitchNorm, ["pooled", "given"], WIDE + NARROW, 2),
        (SwitchNorm, ["given"], NARROW[::-1] + WIDE, 2),  # what one channel allows is a graph of its own
        (GroupNorm, ["alone"], WIDE, 1),
        (GroupNorm, ["alone"], [(1, 32), *WIDE], 2),
        (ExemplarNorm, ["pooled"], WIDE, 1),
        pytest.param(ExemplarNorm, ["pooled", "given"], WIDE + NARROW, 2, marks=pytest.mark.slow),
        pytest.param(ExemplarNorm, ["pooled"], NARROW + WIDE, 2, marks=pytest.mark.slow),
    ],
)
def test_compiled_tables_err_as_little_as_eager_ones_at_every_size(norm, kinds, sizes, graphs):
    torch.manual_seed(0)
    for (n, c), kind in itertools.product(sizes, kinds):
        layer = norm(c)
        sample, sums, params = drawn(layer, n)
        given = [torch.randn(c), torch.rand(c) + 0.5] if kind == "given" else []
        bare = tables.bare(layer)
        compiled = tables.forward_and_vjp(layer, kind, sample[0])
        eager = tables._forward(bare, kind), tables._vjp(bare, kind)
        for arguments, quick, slow in zip(
            ((*sample, *given, *params), (*sample, *given, *sums, *params)), compiled, eager, strict=True
        ):
            exact = slow(*(t.double() for t in arguments))
            errors = zip(worst(quick(*arguments), exact), worst(slow(*arguments), exact), strict=True)
            assert all(mine <= max(4 * eagers, 2e-5) for mine, eagers in errors)
    assert tables.compiled_graphs() == (graphs, graphs)


def test_a_layer_compiles_once_for_all_shapes_and_none_falls_back(recwarn):
    layer = SwitchNorm(64)
    torch.manual_seed(0)
    graphs = []
    for n, size in itertools.product((1, 2, 5), (1, 4, 7)):
        if n * size > 1:
            layer(torch.randn(n, 64, size, size, requires_grad=True)).sum().backward()
        layer.eval()(torch.randn(n, 64, size, size + 1))
        layer.train()
        graphs.append(tables.compiled_graphs())
    assert graphs == [(1, 0)] + [(2, 1)] * 8
    assert not recwarn.list


def test_evaluation_alone_compiles_no_derivative():
    layer = GroupNorm(32).eval()
    layer(torch.randn(2, 32, 4, 4))
    assert tables.compiled_graphs() == (1, 0)
    layer(torch.randn(2, 32, 4, 4, requires_grad=True)).sum().backward()
    assert tables.compiled_graphs() == (1, 1)


def test_layers_that_differ_in_a_constant_share_no_graph():
    x = torch.randn(4, 32, 5, 5)
    for layer in (GroupNorm(32, 8), GroupNorm(32, 4), GroupNorm(64, 8), GroupNorm(32, 8, eps=1.0)):
        wide = x if layer.num_features == 32 else torch.cat((x, x), 1)
        want = torch.nn.functional.group_norm(wide, layer.groups, eps=layer.eps)
        torch.testing.assert_close(layer(wide), want)
    assert tables.compiled_graphs() == (3, 0)


class ReadsItsWidth(Norm):
    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(sample.mean) / self.num_features, sample.mean


def test_coefficients_that_read_more_than_constants_are_refused():
    with pytest.raises(TypeError, match=r"ReadsItsWidth.*'num_features'.*sizes from sample\.mean\.shape"):
        ReadsItsWidth(4, eps=1e-5)(torch.randn(2, 4, 3, 3))


class ReadsAList(Norm):
    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=1e-5)
        self.kinds = ["in"]

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(sample.mean) * len(self.kinds), sample.mean


def test_constants_are_plain_values():
    with pytest.raises(TypeError, match=r"ReadsAList.*'kinds'.*constants alone"):
        ReadsAList(4)(torch.randn(2, 4, 3, 3))


class Uncompilable(Norm):
    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        if sample.mean.sum().item() > 1e9:
            raise AssertionError
        return torch.ones_like(sample.mean), sample.mean


def test_what_cannot_be_compiled_runs_eagerly_with_one_warning():
    layer, x = Uncompilable(4, eps=1e-5), torch.randn(2, 4, 3, 3)
    with pytest.warns(UserWarning, match="not compiled"):
        torch.testing.assert_close(layer(x), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(layer(x), x)


def test_an_unknown_mode_is_refused(monkeypatch):
    monkeypatch.setenv("EN_BENCH_NORMS", "quick")
    with pytest.raises(ValueError, match="EN_BENCH_NORMS is 'quick', expected compiled, eager or plain"):
        BatchNorm(4)(torch.randn(2, 4, 3, 3))
