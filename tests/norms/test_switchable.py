import copy

import pytest
import torch

from en_bench.norms import SwitchNorm

from . import transcriptions as paper
from .reference import assert_same, randomise


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


def released(channels: int = 6, **options) -> SwitchNorm:
    torch.manual_seed(1)
    layer = SwitchNorm(channels, official=True, **options).double()
    randomise(layer)
    return layer


@pytest.mark.parametrize("momentum", [0.1, 0.003])
def test_running_moments_of_the_released_code(momentum):
    """Theirs, with 1 - momentum: from 0, and without a second correction of the variance."""
    layer, kept = released(momentum=momentum), 1 - momentum
    mean, variance = torch.zeros(2, 6, dtype=torch.float64)
    assert not layer.running_var.any()
    for _ in range(3):
        x = torch.randn(5, 6, 4, 3, dtype=torch.float64) + 2
        layer(x)
        mean_in, variance_in = x.mean((2, 3)), x.var((2, 3), correction=1)
        mean_bn = mean_in.mean(0)
        mean = kept * mean + momentum * mean_bn
        variance = kept * variance + momentum * ((variance_in + mean_in**2).mean(0) - mean_bn**2)
    assert_same(layer.running_mean, mean, "running_mean")
    assert_same(layer.running_var, variance, "running_var")


def test_the_released_code_differs_from_the_paper():
    layer, x = released(), torch.randn(5, 6, 4, 3, dtype=torch.float64)
    assert (layer(x) - paper.switch_norm(layer, x)).abs().max() > 1e-2


def test_the_released_code_needs_two_positions():
    for layer in (released(), released().eval()):
        with pytest.raises(ValueError, match="SwitchNorm: 1 position"):
            layer(torch.ones(5, 6, 1, 1, dtype=torch.float64))


def test_official_is_in_the_repr():
    assert "official" in repr(SwitchNorm(6, official=True))
    assert "official" not in repr(SwitchNorm(6))


@pytest.mark.parametrize("official", [True, False])
def test_states_in_the_shapes_of_the_released_code_load(official):
    shapes = {"weight": (1, 6, 1, 1), "bias": (1, 6, 1, 1), "running_mean": (1, 6, 1), "running_var": (1, 6, 1)}
    state = {key: torch.rand(shape) for key, shape in shapes.items()}
    state |= {"mean_weight": torch.rand(3), "var_weight": torch.rand(3)}
    before, layer = copy.deepcopy(state), SwitchNorm(6, official=official)
    assert layer.load_state_dict(state).missing_keys == []
    for key, value in state.items():
        assert torch.equal(getattr(layer, key), value.flatten()), key
        assert torch.equal(value, before[key])
        assert value.shape == before[key].shape


def test_states_of_other_widths_do_not_load():
    state = SwitchNorm(6).state_dict()
    state["weight"] = torch.ones(1, 8, 1, 1)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        SwitchNorm(6).load_state_dict(state)
