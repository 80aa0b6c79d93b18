import pytest
import torch
from torch import Tensor

from en_bench.norms import SwitchNorm

from .reference import assert_same, assert_same_function, randomise


def transcribed(layer: SwitchNorm, x: Tensor) -> Tensor:
    """Equations 2 and 3 of the paper, on whole maps; x is (N, C, H, W)."""
    dims = {"in": (2, 3), "ln": (1, 2, 3), "bn": (0, 2, 3)}
    means = {kind: x.mean(dim, keepdim=True) for kind, dim in dims.items()}
    variances = {kind: x.var(dim, correction=0, keepdim=True) for kind, dim in dims.items()}
    if not layer.training:
        means["bn"] = layer.running_mean.view(1, -1, 1, 1)
        variances["bn"] = layer.running_var.view(1, -1, 1, 1)
    share_of_mean = torch.exp(layer.mean_weight) / torch.exp(layer.mean_weight).sum()
    share_of_var = torch.exp(layer.var_weight) / torch.exp(layer.var_weight).sum()
    mean = sum(share_of_mean[k] * means[kind] for k, kind in enumerate(dims))
    variance = sum(share_of_var[k] * variances[kind] for k, kind in enumerate(dims))
    xhat = (x - mean) / torch.sqrt(variance + layer.eps)
    return layer.weight.view(1, -1, 1, 1) * xhat + layer.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 6, 4, 3), (1, 6, 4, 3), (5, 6, 1, 1)], ids=str)
def test_equals_the_paper(shape, training):
    torch.manual_seed(0)
    layer = SwitchNorm(6, eps=1e-3).double()
    randomise(layer)
    layer(torch.randn(shape, dtype=torch.float64) + 2)
    layer.train(training)
    assert_same_function(layer, lambda x: transcribed(layer, x), shape)


def test_running_moments_are_those_of_batch_norm():
    ours, theirs = SwitchNorm(6).double(), torch.nn.BatchNorm2d(6).double()
    for _ in range(3):
        x = torch.randn(5, 6, 4, 3, dtype=torch.float64) + 2
        ours(x), theirs(x)
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        assert_same(getattr(ours, key).double(), getattr(theirs, key).double(), key)


@pytest.mark.parametrize(("k", "dims"), [(0, (2, 3)), (1, (1, 2, 3)), (2, (0, 2, 3))])
def test_order_is_instance_layer_batch(k, dims):
    layer = SwitchNorm(6).double()
    with torch.no_grad():
        layer.mean_weight[k] = layer.var_weight[k] = 100.0
    x = torch.randn(5, 6, 4, 3, dtype=torch.float64)
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    assert_same(layer(x), (x - mean) / torch.sqrt(variance + layer.eps), "output")
