"""Costs against counts by hand."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from en_bench.norms import BatchNorm, ExemplarNorm, InstanceNorm, Norm
from en_bench.norms.cost import bytes_kept, input_shapes, network_flops, norm_flops, parameters, step_seconds
from en_bench.norms.moments import Moments
from en_bench.norms_table import norm_classes

N, C, S = 8, 64, 256


def test_flops_of_instance_norm_by_hand():
    # Per sample and channel: var + eps, rsqrt, its product with the weight; mean - mean, the product, the sum.
    assert norm_flops(InstanceNorm(C), (N, C, 16, 16)) == 7 * N * C * S + 6 * N * C


def test_flops_of_batch_norm_by_hand():
    # Pooling, per sample and channel: differences from the first mean, then from the pooled one, and their squares, all
    # averaged, and so are the variances; two sums per channel. Then as above, the first three for channels alone.
    pooling = 6 * N * C + 2 * C
    assert norm_flops(BatchNorm(C), (N, C, 16, 16)) == 7 * N * C * S + pooling + 3 * C + 3 * N * C
    assert norm_flops(BatchNorm(C), (N, C)) == 3 * N * C + pooling + 3 * C + 3 * N * C


def test_a_wider_gate_costs_its_products_and_its_tanh():
    by_hidden = [norm_flops(ExemplarNorm(C, hidden=hidden), (N, C, 16, 16)) for hidden in (50, 100, 150)]
    units, kinds = 50 * 3, 3
    for narrow, wide in pairwise(by_hidden):
        assert wide - narrow == N * (2 * kinds**2 * units + 2 * units * kinds + units)


@pytest.mark.parametrize("norm", norm_classes().values(), ids=lambda norm: norm.__name__)
def test_every_normaliser_can_be_counted(norm):
    large, small = (norm_flops(norm(C), (N, C, size, size)) for size in (16, 8))
    assert large - small == 7 * N * C * (16 * 16 - 8 * 8)
    # Arithmetic on (N, C) tables must stay small beside the map's.
    assert small - 7 * N * C * 64 < 7 * N * C * 64


def test_an_operation_of_unknown_cost_is_refused():
    class Strange(InstanceNorm):
        def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
            torch.linalg.cholesky(sample.mean.T @ sample.mean)
            return super().coefficients(sample, batch, *params)

    with pytest.raises(ValueError, match=r"cholesky.* not known: add them"):
        norm_flops(Strange(C), (N, C, 4, 4))


def test_parameters_count_shared_ones_once():
    norm, conv = BatchNorm(8), nn.Conv2d(8, 4, 3)
    assert parameters([norm, conv, norm]) == 2 * 8 + 8 * 4 * 9 + 4


def test_network_flops_are_those_of_convolutions_and_linear_layers():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 5))
    assert network_flops(network, torch.randn(2, 3, 8, 8)) == 2 * 2 * (3 * 9 * 8 * 36 + 8 * 36 * 5)
    network.to("meta")
    assert network_flops(network, torch.empty(2, 3, 8, 8, device="meta")) == 2 * 2 * (3 * 9 * 8 * 36 + 8 * 36 * 5)


def test_input_shapes_name_every_call():
    shared = nn.BatchNorm2d(4)
    network = nn.Sequential(shared, nn.MaxPool2d(2), shared, nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))
    shapes = input_shapes(network, ["0", "4"], torch.randn(2, 4, 8, 8))
    assert shapes == {"0": [(2, 4, 8, 8), (2, 4, 4, 4)], "4": [(2, 6, 4, 4)]}
    assert not shared._forward_pre_hooks


def test_bytes_kept_count_each_storage_once_and_no_parameters():
    x = torch.randn(2, 3, 8, 8)
    values = x.numel()
    assert bytes_kept(nn.Conv2d(3, 5, 1), x) == 4 * values
    # The ReLU keeps its output, which the second convolution keeps as its input.
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 1, 1))
    assert bytes_kept(network, x) == 4 * (values + 2 * 5 * 64)
    # Its input, and the mean and deviation of each channel.
    assert bytes_kept(nn.BatchNorm2d(3), x.requires_grad_()) == 4 * (values + 2 * 3)
    # A view keeps all of what it is a view of.
    with torch.no_grad():
        half = x[:1]
    assert bytes_kept(nn.Conv2d(3, 5, 1), half) == 4 * values


def test_bytes_kept_under_autocast_are_of_narrow_maps():
    x = torch.randn(2, 16, 32, 32)
    network = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.ReLU(), nn.Conv2d(16, 16, 1, bias=False))
    wide = bytes_kept(network, x)
    narrow = bytes_kept(network, x, lambda: torch.autocast("cpu", torch.bfloat16))
    weights = 2 * 2 * 16 * 16  # autocast's copies of them
    assert narrow == wide // 2 + weights


def test_steps_take_turns_after_a_warm_up():
    turns = []

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert self.weight.grad is None
            turns.append(self.out_features)
            return super().forward(x)

    networks: dict[str, nn.Module] = {"a": Watched(4, 1), "b": Watched(4, 2)}
    seconds = step_seconds(networks, torch.randn(3, 4), repeats=3, warm_up=1)
    assert turns == [1, 2] * 4
    assert {label: len(times) for label, times in seconds.items()} == {"a": 3, "b": 3}
    assert all(0 < taken < math.inf for times in seconds.values() for taken in times)


def test_classes_are_found_by_their_initials():
    import en_bench.norms as package

    exported = [getattr(package, name) for name in package.__all__]
    classes = [cls for cls in exported if isinstance(cls, type) and issubclass(cls, Norm) and cls is not Norm]
    assert list(norm_classes().values()) == classes
    assert {"bn", "in", "ln", "gn", "sn", "en"} <= norm_classes().keys()
