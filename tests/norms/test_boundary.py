"""Where Python ends and addresses begin: tensors that are not what their address says."""

import stat
from types import MethodType

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from en_bench.norms import BatchNorm, ExemplarNorm, GroupNorm, InstanceNorm, Norm
from en_bench.norms.maps import native
from en_bench.norms.moments import Moments

needs_native = pytest.mark.skipif(not native.serves(torch.float32), reason="no C++ compiler")


def test_running_moments_that_are_views():
    x, storage = torch.randn(6, 8, 3, 3) + 1, torch.zeros(16)
    layer, want = BatchNorm(8), nn.BatchNorm2d(8)
    layer.running_mean = storage[::2]
    for _ in range(2):
        torch.testing.assert_close(layer(x), want(x))
    torch.testing.assert_close(layer.running_mean, want.running_mean)
    assert not storage[1::2].any()
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), want.eval()(x))


@pytest.mark.parametrize("momentum", [1.0, None])
def test_small_running_moments_keep_their_digits(momentum):
    x = 1e-4 * torch.randn(8, 4, 5, 5)
    layer, want = BatchNorm(4, momentum=momentum), nn.BatchNorm2d(4, momentum=momentum)
    layer(x), want(x)
    torch.testing.assert_close(layer.running_var, want.running_var, rtol=1e-5, atol=0)


class Careless(Norm):
    """Its scale is (C,), its shift float64."""

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        return params[0], (params[1] + 0 * sample.mean).double()


@pytest.mark.parametrize("mode", ["plain", "eager", "compiled"])
def test_coefficients_may_broadcast_and_be_wide(monkeypatch, mode):
    monkeypatch.setenv("EN_BENCH_NORMS", mode)
    x = torch.randn(5, 6, 4, 4, requires_grad=True)
    y = Careless(6, eps=1e-5)(x)
    torch.testing.assert_close(y, x - x.mean((2, 3), keepdim=True))
    y.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@needs_native
def test_another_default_device_does_not_reach_the_library():
    x = torch.randn(2, 8, 3, 3)
    layers = InstanceNorm(8), BatchNorm(8)
    with torch.device("meta"):
        assert all(layer(x).isfinite().all() for layer in layers)


def test_fake_tensors():
    layer, x = InstanceNorm(8), torch.randn(2, 8, 3, 3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert layer(x).shape == x.shape


def test_lazy_negatives_and_zeros():
    layer, x = InstanceNorm(3), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(layer(torch._neg_view(x)), layer(-x))
    y = layer(x.requires_grad_())
    (want,) = torch.autograd.grad(y, x, -y.detach(), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(y, x, torch._neg_view(y.detach()), retain_graph=True)[0], want)
    assert not torch.autograd.grad(y, x, torch._efficientzerotensor(y.shape))[0].any()


def test_several_gradients_at_once():
    for layer in (BatchNorm(3), GroupNorm(4, groups=2), ExemplarNorm(4)):
        x = torch.randn(3, layer.num_features, 4, 4, requires_grad=True)
        y = layer(x)
        several = torch.randn(5, *y.shape)
        (got,) = torch.autograd.grad(y, x, several, is_grads_batched=True, retain_graph=True)
        want = torch.stack([torch.autograd.grad(y, x, dy, retain_graph=True)[0] for dy in several])
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@needs_native
def test_groups_that_do_not_divide_are_refused():
    layer = GroupNorm(12, groups=4)
    layer.groups = 5
    with pytest.raises(RuntimeError, match="groups 5"):
        layer(torch.randn(2, 12, 3, 3))


class EvenRatios(ExemplarNorm):
    def _ratios(self, *args: object) -> Tensor:
        return torch.full_like(super()._ratios(*args), 1 / 3)  # type: ignore[arg-type]


def test_what_a_subclass_or_an_instance_changes_is_computed(monkeypatch):
    x = torch.randn(4, 8, 5, 5)
    torch.manual_seed(0)
    layer = EvenRatios(8)
    got = layer(x)
    monkeypatch.setenv("EN_BENCH_NORMS", "plain")
    torch.testing.assert_close(layer(x), got)
    monkeypatch.delenv("EN_BENCH_NORMS")
    own = InstanceNorm(8)
    own.coefficients = MethodType(lambda self, sample, batch, *p: (0 * sample.mean, 0 * sample.mean), own)
    with pytest.raises(TypeError, match="coefficients of an instance"):
        own(x)


@needs_native
@pytest.mark.parametrize("how", ["file", "folder"])
def test_code_that_others_may_have_written_is_not_loaded(tmp_path, monkeypatch, stand_in_compiler, how):
    monkeypatch.setenv("CXX", str(stand_in_compiler))
    monkeypatch.setenv("EN_BENCH_CACHE", str(tmp_path / "cache"))
    first = native.build()
    assert native.build() == first and first.is_relative_to(tmp_path)
    target = first if how == "file" else tmp_path / "cache"
    target.chmod(stat.S_IMODE(target.stat().st_mode) | stat.S_IWOTH)
    assert not native.build().is_relative_to(tmp_path)


@needs_native
def test_the_compiler_may_have_options(monkeypatch):
    monkeypatch.setenv("CXX", "g++ -O2")
    assert native._compiler()[1:] == ["-O2"]
    assert "-O2" in native._version(native._compiler())
