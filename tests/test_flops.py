"""FLOPs against counts by hand, and that counting leaves no trace."""

import copy

import pytest
import torch
from torch import nn

from en_bench import backbones
from en_bench.norms import BatchNorm, ExemplarNorm, SparseSwitchNorm, swap_norms
from en_bench.telemetry.cost import CostMeter
from en_bench.telemetry.flops import forward_flops


def resnet8_by_hand(side: int, classes: int) -> int:
    """2 x kernel positions x channels in x channels out x positions: seven convolutions of 3x3, one product."""

    def conv(inputs: int, outputs: int, side: int) -> int:
        return 2 * 9 * inputs * outputs * side * side

    stem = conv(3, 16, side) + 2 * conv(16, 16, side)
    second = conv(16, 32, side // 2) + conv(32, 32, side // 2)
    third = conv(32, 64, side // 4) + conv(64, 64, side // 4)
    return stem + second + third + 2 * 64 * classes


GATE = 2 * 9 * 150 + 2 * 150 * 3
"""The two layers of ExemplarNorm's gate: K * K to pi * K to K; K = 3, pi = 50. Before come no products."""


@pytest.mark.parametrize("side", [32, 16])
def test_a_residual_network_by_hand(side: int) -> None:
    network = backbones.build("cifar/resnet8", 10, pretrained=False)
    assert forward_flops(network, (3, side, side)) == resnet8_by_hand(side, 10)


def test_what_the_gate_of_exemplar_normalisation_multiplies_counts() -> None:
    network = backbones.build("cifar/resnet8", 10, pretrained=False)
    plain = forward_flops(network, (3, 32, 32))
    layers = swap_norms(network, ExemplarNorm).swapped
    found = forward_flops(network, (3, 32, 32))
    assert plain is not None and found is not None
    assert found - plain == layers * GATE


@pytest.mark.parametrize("norm", [BatchNorm, ExemplarNorm, SparseSwitchNorm])
def test_counting_leaves_no_trace(norm: type[nn.Module]) -> None:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), norm(32), nn.Dropout(0.5), Noise(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(4, 3, 8, 8)
    network(x).sum().backward()
    network[0].eval()  # a mode of its own
    network[1].weight.requires_grad_(False)
    random = torch.get_rng_state()
    wanted = network(x)
    torch.set_rng_state(random)
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network]
    assert forward_flops(network, (3, 8, 8))
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in network] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network(x), wanted), "and the compiled passes still serve"


def test_a_network_that_cannot_take_one_image_is_no_loss(capsys: pytest.CaptureFixture[str]) -> None:
    class Fussy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("two images at least")

    network = Fussy(2, 2).train()
    assert forward_flops(network, (2,)) is None
    assert network.training
    assert "FLOPs were not counted: ValueError: two images at least" in capsys.readouterr().err


def test_the_shape_survives_a_checkpoint_and_may_be_missing_from_an_old_one() -> None:
    meter, other = CostMeter(), CostMeter()
    assert meter.flops(nn.Linear(2, 2)) is None
    meter.shape = (2,)
    other.load_state_dict(meter.state_dict())
    assert other.flops(nn.Linear(2, 2)) == 8
    other.load_state_dict({"seconds": 1.0, "images": 1})
    assert other.flops(nn.Linear(2, 2)) is None
