"""What the report says is so."""

import copy

import pytest
import torch
from torch import nn

from en_bench.norms import BatchNorm, ExemplarNorm, GroupNorm, swap_norms
from tests.norms.networks import FACTORIES, SOURCES, conv_net, randomise

# What each class computes as it is built, so that the same weight and bias keep the function.
STARTS_AS = {
    "BatchNorm": "batch",
    "BatchInstanceNorm": "batch",
    "ConditionalBatchNorm": "batch",
    "InstanceNorm": "instance",
    "GroupNorm": "instance",  # 32 groups asked for, and lowered to one per channel
    "LayerNorm": "layer",
}


@pytest.mark.parametrize("norm", FACTORIES)
@pytest.mark.parametrize("source", SOURCES)
@torch.no_grad()
def test_what_affine_is_said_to_preserve_is_preserved(source, norm):
    build, kind = SOURCES[source]
    torch.manual_seed(0)
    old = randomise(conv_net(build())).double()
    new = copy.deepcopy(old)
    report = swap_norms(new, norm)
    starts_as = STARTS_AS.get(norm.__name__)
    evaluation = kind in ("frozen", "tracked") and starts_as == "batch"
    assert report.preserved == ("yes" if kind == starts_as else "in evaluation" if evaluation else "no")
    assert report.swapped == 1
    x = 3 * torch.randn(4, 3, 9, 9, dtype=torch.float64)
    evaluated = torch.allclose(new.eval()(x), old.eval()(x), rtol=1e-12, atol=1e-12)
    trained = torch.allclose(new.train()(x), old.train()(x), rtol=1e-12, atol=1e-12)
    # Normalisers of the same class differ in what their swap does not take over, a mixture's or a gate's parameters.
    assert evaluated == (report.preserved != "no")
    assert trained or report.preserved != "yes"


def test_eps_that_the_factory_sets_ends_the_function():
    model = conv_net(nn.BatchNorm2d(8))
    assert swap_norms(model, lambda channels: BatchNorm(channels, eps=0.5)).preserved == "no"


def test_a_network_without_normalisers():
    report = swap_norms(nn.Sequential(nn.Conv2d(3, 8, 3)), ExemplarNorm)
    assert (report.swapped, report.preserved) == (0, "yes")
    assert str(report) == "0 normalisers swapped, function preserved: yes"


def test_the_report_reads_as_a_table():
    model = nn.Sequential(
        nn.BatchNorm2d(64), nn.BatchNorm2d(48), nn.BatchNorm2d(24), nn.BatchNorm2d(48), nn.InstanceNorm2d(64)
    )
    model[0].register_forward_hook(lambda *_: None)
    report = swap_norms(model, lambda channels: GroupNorm(channels, groups=32))
    assert str(report).splitlines() == [
        "5 normalisers swapped, function preserved: no",
        "    1 BatchNorm2d -> GroupNorm: affine kept 1, running moments kept 0, function preserved: no (hooks lost)",
        "    3 BatchNorm2d -> GroupNorm: affine kept 3, running moments kept 0, function preserved: no",
        "    1 InstanceNorm2d -> GroupNorm: affine kept 0, running moments kept 0, function preserved: no",
        "      groups lowered to divide the channels: 32 -> 8 in 1, 32 -> 16 in 2",
    ]


def test_the_report_gives_a_line_to_each_reason():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.GroupNorm(4, 8), nn.GroupNorm(8, 8), nn.LayerNorm(8))
    report = swap_norms(model, ExemplarNorm, inherit="preserve")
    assert str(report).splitlines() == [
        "4 normalisers swapped, function preserved: no",
        "    2 BatchNorm2d -> ExemplarNorm: affine kept 2, running moments kept 2, function preserved: yes",
        "    1 GroupNorm -> ExemplarNorm: affine kept 1, running moments kept 0, function preserved: no, because "
        "its normalizers, in, ln, bn, have no moments of 4 groups of channels in each sample",
        "    1 GroupNorm -> ExemplarNorm: affine kept 1, running moments kept 0, function preserved: yes",
        "    1 LayerNorm left, per position: 4",
    ]
