"""A network keeps its function when its normalisers are swapped with `inherit="preserve"`, and learns at once."""

import copy
from functools import partial

import pytest
import timm
import torch
from torch import Tensor, nn

from en_bench.norms import (
    BatchInstanceNorm,
    BatchNorm,
    ConditionalBatchNorm,
    ExemplarNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Norm,
    SparseSwitchNorm,
    SwitchNorm,
    swap_norms,
)
from en_bench.norms.preserve import Source, preserver
from tests.norms.networks import FACTORIES, SOURCES, conv_net, network, randomise

NETWORKS = {
    "resnet18": 20,
    "resnet50": 53,
    "mobilenetv3_large_100": 46,
    "efficientnet_b0": 49,
    "regnety_002": 44,
    "densenet121": 121,
    "torchvision/shufflenet_v2_x0_5": 56,
}

# The kinds of normalisers that each can be set to.
HOLDS = {
    "BatchNorm": {"batch"},
    "InstanceNorm": {"instance"},
    "LayerNorm": {"layer"},
    "GroupNorm": {"instance"},  # 32 groups asked for, and lowered to one per channel
    "GroupNorm(4)": {"groups"},
    "BatchInstanceNorm": {"batch", "instance"},
    "ConditionalBatchNorm": {"batch"},
    "SwitchNorm": set(),
    "SparseSwitchNorm": set(),
    "ExemplarNorm": {"batch", "instance", "layer"},
    "EN(ln, in)": {"instance", "layer"},
    "EN(bn)": {"batch"},
    "EN(bn), shared": {"batch"},
    "EN, shared": set(),
    "EN, mlp2": {"batch", "instance", "layer"},
    "EN, mlp3": {"batch", "instance", "layer"},
}
TARGETS = {cls.__name__: cls for cls in FACTORIES} | {
    "GroupNorm(4)": partial(GroupNorm, groups=4),
    "EN(ln, in)": partial(ExemplarNorm, normalizers=("ln", "in"), reduce=False),
    "EN(bn)": partial(ExemplarNorm, normalizers=("bn",)),
    "EN(bn), shared": partial(ExemplarNorm, normalizers=("bn",), shared_affine=True),
    "EN, shared": partial(ExemplarNorm, shared_affine=True),
    "EN, mlp2": partial(ExemplarNorm, gate="mlp2"),
    "EN, mlp3": partial(ExemplarNorm, gate="mlp3"),
}


def difference(got: Tensor, want: Tensor) -> float:
    """The largest, in units of the largest value."""
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_pretrained_network_keeps_its_function(name):
    old = network(name)
    new = copy.deepcopy(old)
    report = swap_norms(new, ExemplarNorm, inherit="preserve")
    assert (report.swapped, report.preserved, report.left) == (NETWORKS[name], "yes", ())
    assert str(report).count("function preserved: yes") == 1 + len({swap.old for swap in report.swaps})
    x = torch.randn(4, 3, 64, 64)
    for training in (False, True, False):  # the last one with running moments that training moved
        assert difference(new.train(training)(x), old.train(training)(x)) <= 1e-4


@torch.no_grad()
def test_affine_alone_does_not_keep_the_function():
    old = network("resnet18").eval()
    new = copy.deepcopy(old)
    assert swap_norms(new, ExemplarNorm).preserved == "no"
    x = torch.randn(4, 3, 64, 64)
    assert difference(new(x), old(x)) > 1e-2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
@torch.no_grad()
def test_what_is_called_preserved_is_preserved(source, target):
    build, kind = SOURCES[source]
    torch.manual_seed(0)
    old = randomise(conv_net(build())).double()
    new = copy.deepcopy(old)
    (swap,) = swap_norms(new, TARGETS[target], inherit="preserve").swaps
    always, evaluation = kind in HOLDS[target], kind in ("frozen", "tracked") and "batch" in HOLDS[target]
    assert swap.preserved == ("yes" if always else "in evaluation" if evaluation else "no")
    assert (swap.reason == "") == always
    x = 3 * torch.randn(4, 3, 9, 9, dtype=torch.float64)
    in_evaluation = difference(new.eval()(x), old.eval()(x))
    in_training = difference(new.train()(x), old.train()(x))
    assert (in_evaluation < 1e-12) == (always or evaluation)
    assert not always or in_training < 1e-12
    assert not evaluation or in_training > 1e-4


@pytest.mark.parametrize(
    ("build", "factory", "reason"),
    [
        (lambda: nn.BatchNorm2d(8), SwitchNorm, "it mixes moments, and its softmax reaches"),
        (lambda: nn.BatchNorm2d(8), SparseSwitchNorm, "its ratios would be 0 and 1, which have no gradient"),
        (lambda: nn.BatchNorm2d(8), TARGETS["EN, shared"], "its normalizers share one weight and bias"),
        (lambda: nn.BatchNorm2d(8), TARGETS["EN(ln, in)"], "its normalizers, ln, in, have no moments of the batch"),
        (lambda: nn.GroupNorm(4, 8), ExemplarNorm, "its normalizers, in, ln, bn, have no moments of 4 groups of"),
        (
            lambda: nn.BatchNorm2d(8),
            InstanceNorm,
            "InstanceNorm has the moments of each sample and channel, not of the",
        ),
        (
            lambda: nn.InstanceNorm2d(8),
            LayerNorm,
            "LayerNorm has the moments of each sample, not of each sample and ch",
        ),
        (lambda: nn.GroupNorm(4, 8), BatchNorm, "BatchNorm has the moments of the batch, not of 4 groups of channels"),
        (lambda: ExemplarNorm(8), BatchNorm, "ExemplarNorm was a mixture"),
        (lambda: nn.BatchNorm2d(8, track_running_stats=False), ExemplarNorm, "it had the moments of the batch in eval"),
        (lambda: nn.BatchNorm2d(8), partial(ExemplarNorm, eps=0.5), "eps is 0.5, was 1e-05"),
        (lambda: timm.layers.LayerNorm2d(8), ExemplarNorm, "it had the moments of each position"),
    ],
)
def test_what_cannot_be_preserved_falls_back_to_affine_with_the_reason(build, factory, reason):
    torch.manual_seed(0)
    affine = randomise(conv_net(build()))
    preserved = copy.deepcopy(affine)
    reports = []
    for model, inherit in ((affine, "affine"), (preserved, "preserve")):
        torch.manual_seed(1)
        reports.append(swap_norms(model, factory, inherit=inherit, where="1"))
    told, report = reports
    assert report.preserved == told.preserved == "no"
    assert (report.swaps[0].affine, report.swaps[0].running) == (told.swaps[0].affine, told.swaps[0].running)
    for key, value in affine.state_dict().items():
        assert torch.equal(preserved.state_dict()[key], value), key
    assert f"function preserved: no, because {reason}" in str(report)
    assert "because" not in str(told)


@pytest.mark.parametrize(
    ("factory", "later"),
    [
        (ExemplarNorm, {"gate.reduce", "gate.fc1"}),
        (TARGETS["EN, mlp2"], {"gate.fc1"}),
        (TARGETS["EN, mlp3"], {"gate.fc1", "gate.fc2"}),
        (BatchInstanceNorm, set()),
        (ConditionalBatchNorm, {"mlp.fc1"}),
    ],
)
def test_everything_learns_by_the_second_step(factory, later):
    """The weights and the gate's last layer at once, and what lies below it once that has moved."""
    model = network("resnet18").train()
    swap_norms(model, factory, inherit="preserve")
    layers = [module for module in model.modules() if isinstance(module, Norm)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, target = torch.randn(8, 3, 64, 64), torch.arange(8) % 7
    for step in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        for layer in layers:
            for name, parameter in layer.named_parameters():
                learns = step == 1 or name.rpartition(".")[0] not in later
                rows = parameter.grad if name == "weight" and parameter.ndim == 2 else parameter.grad[None]
                assert all(bool(row.any()) == learns for row in rows), f"{name} at step {step}"
        optimizer.step()


def test_nothing_saturates():
    model = network("resnet18").eval()
    swap_norms(model, ExemplarNorm, inherit="preserve")
    for layer in (module for module in model.modules() if isinstance(module, ExemplarNorm)):
        ratio_NK = layer.ratios(torch.randn(2, layer.num_features, 4, 4))
        assert ratio_NK.min() > 0.2
        assert torch.equal(ratio_NK[0], ratio_NK[1])


@pytest.mark.parametrize("target", [target for target in TARGETS if "batch" in HOLDS[target]])
@pytest.mark.parametrize("affine", [True, False])
@torch.no_grad()
def test_whatever_the_factory_has_set(target, affine):
    torch.manual_seed(0)
    old = randomise(conv_net(nn.BatchNorm2d(8, affine=affine))).double()
    new = copy.deepcopy(old)
    report = swap_norms(new, lambda channels: randomise(TARGETS[target](channels)), inherit="preserve")
    assert report.preserved == "yes"
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    for training in (True, False):
        assert difference(new.train(training)(x), old.train(training)(x)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype):
    torch.manual_seed(0)
    old = randomise(conv_net(nn.BatchNorm2d(8))).to(dtype)
    new = copy.deepcopy(old)
    assert swap_norms(new, ExemplarNorm, inherit="preserve").preserved == "yes"
    x = torch.randn(4, 3, 9, 9, dtype=dtype)
    # Weight, ratio and their quotient are rounded, and so is what torch computes.
    with torch.no_grad():
        off = difference(new(x), old(x))
    assert off < 8 * torch.finfo(dtype).eps


def test_a_single_channel_is_layer_and_instance_normalisation_alike():
    for normalizers in (("in", "bn"), ("bn", "ln")):
        old = randomise(nn.Sequential(nn.GroupNorm(1, 1))).double()
        new = copy.deepcopy(old)
        factory = partial(ExemplarNorm, normalizers=normalizers)
        assert swap_norms(new, factory, inherit="preserve").preserved == "yes"
        x = torch.randn(4, 1, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(new(x), old(x), rtol=1e-12, atol=1e-12)


def test_a_normaliser_of_ones_own():
    class Doubled(ExemplarNorm):
        def coefficients(self, sample, batch, *params):
            scale, shift = super().coefficients(sample, batch, *params)
            return 2 * scale, 2 * shift

    old = randomise(conv_net(nn.BatchNorm2d(8))).double()
    new = copy.deepcopy(old)
    assert "nothing says how Doubled can be one" in str(swap_norms(new, Doubled, inherit="preserve"))

    @preserver(Doubled)
    def halve(norm: Doubled, source: Source) -> str | None:
        assert source.pool == "batch"
        norm.gate.fc2.weight.zero_()
        norm.weight.zero_()
        norm.weight[2] = source.weight / 2 / norm.gate.fc2.bias.softmax(0)[2]
        norm.bias.copy_(source.bias / 2)
        return None

    new = copy.deepcopy(old)
    assert swap_norms(new, Doubled, inherit="preserve").preserved == "yes"
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(new(x), old(x), rtol=1e-12, atol=1e-12)
