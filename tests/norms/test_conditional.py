import pytest
import torch

from en_bench.norms import BatchNorm, ConditionalBatchNorm

from .reference import assert_same, randomise


def test_starts_as_batch_norm():
    layer, other = ConditionalBatchNorm(6).double(), BatchNorm(6).double()
    for training in (True, True, False):
        x = torch.randn(5, 6, 4, 3, dtype=torch.float64) + 2
        assert_same(layer.train(training)(x), other.train(training)(x), "output")


def test_learns_at_once():
    torch.manual_seed(0)
    layer = ConditionalBatchNorm(6)
    layer(torch.randn(5, 6, 4, 3)).square().mul(torch.randn(5, 6, 4, 3)).sum().backward()
    assert layer.mlp.gamma.weight.grad.abs().sum() > 0
    assert layer.mlp.beta.weight.grad.abs().sum() > 0


def test_samples_of_one_batch_have_their_own_affine_map():
    torch.manual_seed(0)
    layer = ConditionalBatchNorm(6).double().eval()
    randomise(layer)
    x = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    slope = [(layer(x + d) - layer(x - d))[:, :, 0, 0] for d in (0.5 * (x - x.mean((2, 3), keepdim=True)),)]
    at = (x - x.mean((2, 3), keepdim=True))[:, :, 0, 0]
    gamma = slope[0] / at * torch.sqrt(torch.tensor(1 + layer.eps, dtype=torch.float64))
    assert (gamma[0] - gamma[1]).abs().min() > 1e-3


def test_hidden_width():
    shapes = {name: tuple(p.shape) for name, p in ConditionalBatchNorm(6, hidden=5).mlp.named_parameters()}
    assert shapes == {
        "fc1.weight": (5, 6),
        "fc1.bias": (5,),
        "gamma.weight": (6, 5),
        "gamma.bias": (6,),
        "beta.weight": (6, 5),
        "beta.bias": (6,),
    }
    assert "hidden=5" in repr(ConditionalBatchNorm(6, hidden=5))


def test_no_hidden_units_are_refused():
    with pytest.raises(ValueError, match="hidden is 0"):
        ConditionalBatchNorm(6, hidden=0)
