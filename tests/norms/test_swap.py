"""What replaces what, and with which weights."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from en_bench.errors import InputError
from en_bench.norms import BatchNorm, ExemplarNorm, GroupNorm, LayerNorm, Norm, swap_norms
from tests.norms.networks import FACTORIES, conv_net, network

COUNTS = {
    "torchvision/resnet18": 20,
    "resnet18": 20,
    "mobilenetv3_small_050": 34,
    "efficientnet_b0": 49,
    "densenet121": 121,
}


@pytest.mark.parametrize("name", COUNTS)
def test_batch_norm_for_batch_norm_leaves_the_function_as_it_was(name):
    old = network(name).double()
    new = copy.deepcopy(old)
    report = swap_norms(new, BatchNorm)
    assert (report.swapped, report.preserved, report.left) == (COUNTS[name], "yes", ())
    assert all(swap.affine and swap.running for swap in report.swaps)
    assert list(new.state_dict()) == list(old.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for training in (False, True, False):
        torch.manual_seed(1)
        want = old.train(training)(x)
        torch.manual_seed(1)
        torch.testing.assert_close(new.train(training)(x), want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["efficientnet_b0", "densenet121"])
@pytest.mark.parametrize("norm", [GroupNorm, ExemplarNorm])
def test_fused_activations_survive(name, norm):
    model = network(name)
    acts = [m.act for m in model.modules() if type(m).__name__ == "BatchNormAct2d"]
    swap_norms(model, norm)
    new = [m for m in model.modules() if isinstance(m, Norm)]
    assert [m.act for m in new] == acts
    assert len({type(act) for act in acts}) >= 1
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(m.weight.grad is not None for m in new)


def test_a_fused_activation_and_dropout_are_applied():
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    fused = timm.layers.BatchNormAct2d(8, act_layer=nn.ReLU, drop_layer=Doubling)
    model = conv_net(fused)
    x = torch.randn(4, 3, 9, 9)
    want = model(x)
    swap_norms(model, BatchNorm)
    assert isinstance(model[1], BatchNorm)
    torch.testing.assert_close(model(x), want)
    assert want.min() == 0


@pytest.mark.parametrize("norm", FACTORIES)
@pytest.mark.parametrize("inherit", ["affine", "none"])
def test_affine_and_running_moments(norm, inherit):
    old = nn.BatchNorm2d(8)
    with torch.no_grad():
        for tensor in (old.weight, old.bias, old.running_mean, old.running_var):
            tensor.copy_(torch.rand(8) + 2)
        old.num_batches_tracked.fill_(11)
    model, fresh = conv_net(old), norm(8)
    report = swap_norms(model, norm, inherit=inherit)
    new = model[1]
    kept = inherit == "affine"
    assert [swap.affine for swap in report.swaps] == [kept]
    assert [swap.running for swap in report.swaps] == [kept and new.tracks_running_moments]
    for key in ("weight", "bias"):
        want = getattr(old, key).expand_as(getattr(new, key)) if kept else getattr(fresh, key)
        assert torch.equal(getattr(new, key), want)
    if new.tracks_running_moments:
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(getattr(new, key), getattr(old if kept else fresh, key))
    if inherit == "none":
        assert report.preserved == "no"


def test_per_normaliser_affine_does_not_fit_a_single_one():
    model = conv_net(ExemplarNorm(8))
    with torch.no_grad():
        model[1].weight.fill_(3)
    report = swap_norms(model, BatchNorm)
    assert not report.swaps[0].affine
    assert torch.equal(model[1].weight, torch.ones(8))


def test_a_missing_bias_stays_zero():
    class NoBias(nn.GroupNorm):
        def __init__(self) -> None:
            super().__init__(1, 8)
            self.bias = None
            nn.init.constant_(self.weight, 2.0)

    model = conv_net(NoBias())
    x = torch.randn(2, 3, 9, 9)
    want = model(x)
    assert swap_norms(model, LayerNorm).preserved == "yes"
    torch.testing.assert_close(model(x), want)


def test_shared_modules_stay_shared():
    shared = nn.BatchNorm2d(8)
    model = nn.ModuleDict({"a": conv_net(shared, shared), "b": nn.ModuleList([shared, nn.BatchNorm2d(8)])})
    report = swap_norms(model, ExemplarNorm)
    assert report.swapped == 2
    assert report.swaps[0].name == "a.1"
    assert model["a"][1] is model["a"][2] is model["b"][0]
    assert isinstance(model["a"][1], ExemplarNorm)
    assert model["b"][1] is not model["b"][0]


@pytest.mark.parametrize("build", [nn.BatchNorm2d, timm.layers.LayerNorm2d, nn.LayerNorm])
@pytest.mark.parametrize("where", [None, ".*"])
def test_a_bare_normaliser_cannot_be_swapped_in_place(build, where):
    with pytest.raises(InputError, match=r"nn\.Sequential"):
        swap_norms(build(8), ExemplarNorm, where=where)


def test_inherit_is_checked():
    with pytest.raises(ValueError, match="inherit is 'afine'"):
        swap_norms(conv_net(nn.BatchNorm2d(8)), ExemplarNorm, inherit="afine")


def test_a_factory_must_make_normalisers():
    with pytest.raises(TypeError, match="factory returned a BatchNorm2d"):
        swap_norms(conv_net(nn.BatchNorm2d(8)), nn.BatchNorm2d)
