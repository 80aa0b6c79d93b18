"""Running moments over a set, against the moments of all its values at once."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from en_bench import norms
from en_bench.norms import BatchNorm, ExemplarNorm, InstanceNorm, Norm, SwitchNorm, swap_norms
from en_bench.norms.recalibrate import recalibrate
from en_bench.norms.sync import Ranks


def uneven(*shape: int, sizes: tuple[int, ...] = (5, 2, 7), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Batches whose means and spreads differ, so that pooling them wrongly shows."""
    torch.manual_seed(0)
    return [(1 + i) * torch.randn(n, *shape, dtype=dtype) + 3 * i for i, n in enumerate(sizes)]


def over_all(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance (C,) of all values as one batch."""
    values = torch.cat([x.transpose(0, 1).flatten(1) for x in batches], 1)
    return values.mean(1), values.var(1)


def close(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max()


def with_running_moments() -> list[type[Norm]]:
    classes = [value for name in norms.__all__ if isinstance(value := getattr(norms, name), type)]
    return [cls for cls in classes if issubclass(cls, Norm) and cls is not Norm and cls(8).tracks_running_moments]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm, *with_running_moments()], ids=lambda n: n.__name__)
def test_a_layer_ends_with_the_moments_of_all_values(norm):
    layer, batches = norm(4).double(), uneven(4, 3, 5)
    assert recalibrate(nn.Sequential(layer), batches).layers == 1
    mean, var = over_all(batches)
    close(layer.running_mean, mean)
    close(layer.running_var, var)
    assert layer.num_batches_tracked == 3


def test_vectors_maps_and_volumes():
    for layer, shape in ((nn.BatchNorm1d(4), ()), (nn.BatchNorm1d(4), (6,)), (nn.BatchNorm3d(4), (2, 3, 2))):
        batches = uneven(4, *shape)
        recalibrate(layer.double(), batches)
        close(layer.running_var, over_all(batches)[1])


def test_image_sizes_may_differ_between_batches():
    batches = [*uneven(4, 3, 5), *uneven(4, 8, 2)]
    layer = BatchNorm(4).double()
    recalibrate(layer, batches)
    close(layer.running_mean, over_all(batches)[0])
    close(layer.running_var, over_all(batches)[1])


def test_corrected_samples_are_pooled_as_the_layer_pools_them():
    """The released SwitchNorm keeps the variance of unbiased instance variances, without a further factor."""
    layer, batches = SwitchNorm(4, official=True).double(), uneven(4, 3, 5)
    recalibrate(layer, batches)
    x = torch.cat(batches)
    means, unbiased = x.mean((2, 3)), x.flatten(2).var(2)
    close(layer.running_mean, means.mean(0))
    close(layer.running_var, unbiased.mean(0) + means.var(0, unbiased=False))


def test_torchs_instance_norm_averages_over_samples():
    layer, batches = nn.InstanceNorm2d(4, track_running_stats=True).double(), uneven(4, 3, 5)
    recalibrate(layer, [*batches, batches[0][0]])  # it takes a sample without a batch dimension too
    x = torch.cat([*batches, batches[0][:1]])
    close(layer.running_mean, x.mean((0, 2, 3)))
    close(layer.running_var, x.flatten(2).var(2).mean(0))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNorm, ExemplarNorm, SwitchNorm])
def test_one_batch_gives_what_the_layer_itself_keeps_of_it(norm):
    (x,) = uneven(4, 3, 5, sizes=(6,))
    layer = norm(4, momentum=1.0).double()
    itself = copy.deepcopy(layer)
    itself(x)
    recalibrate(layer, [x])
    torch.testing.assert_close(layer.state_dict(), itself.state_dict(), rtol=1e-12, atol=0)


def test_large_means_in_float32_lose_no_digits():
    torch.manual_seed(0)
    batches = [torch.randn(8, 4, 16, 16) + 1e4 for _ in range(5)]
    layer = nn.BatchNorm2d(4)
    recalibrate(layer, batches)
    expected = over_all([x.double() for x in batches])[1]
    # The mean of a sample, in float32, is itself off by up to 5e-4 there.
    assert (layer.running_var.double() / expected - 1).abs().max() < 1e-5


def test_a_layer_above_sees_maps_normalised_by_their_own_batch():
    torch.manual_seed(1)
    network = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)).double()
    batches = uneven(4, 3, 5)
    recalibrate(network, batches)
    first = [nn.functional.batch_norm(x, None, None, training=True) for x in batches]
    mean, var = over_all([network[1](x) for x in first])
    close(network[2].running_mean, mean.detach())
    close(network[2].running_var, var.detach())


def test_sequences_and_order_count_for_nothing():
    batches, layers = uneven(4, 3, 5), [nn.BatchNorm2d(4).double() for _ in range(2)]
    recalibrate(layers[0], batches)
    recalibrate(layers[1], ((x, torch.zeros(len(x))) for x in reversed(batches)))
    close(layers[1].running_var, layers[0].running_var)


def network() -> nn.Module:
    """A network with all that a pass must leave alone, in mixed modes."""
    torch.manual_seed(2)
    model = timm.create_model("densenet121", num_classes=5, drop_rate=0.5, growth_rate=8, block_config=(2, 2, 2, 2))
    swap_norms(model, ExemplarNorm)
    model.train()
    model.features.denseblock2.eval()
    return model


def everything_but_running_moments(model: nn.Module) -> dict[str, Any]:
    kept = {k: v.clone() for k, v in model.state_dict().items() if "running_" not in k and "num_batches" not in k}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = {name: len(module._forward_pre_hooks) for name, module in model.named_modules()}
    momenta = {name: getattr(module, "momentum", None) for name, module in model.named_modules()}
    return {"modes": modes, "hooks": hooks, "momenta": momenta, **kept}


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, Tensor) else value == other[key], key


def test_all_else_is_as_before_and_dropout_rests():
    model, batches = network(), uneven(3, 40, 40, sizes=(3, 2), dtype=torch.float32)
    before, state = everything_but_running_moments(model), copy.deepcopy(model.state_dict())
    done = recalibrate(model, batches)
    assert (done.layers, done.batches, done.samples, done.unreached) == (len(running(model)), 2, 5, ())
    assert_equal(everything_but_running_moments(model), before)
    assert not any(torch.equal(model.state_dict()[key], state[key]) for key in state if "running_" in key)
    moments = copy.deepcopy(model.state_dict())
    recalibrate(model, batches)
    assert_equal(dict(model.state_dict()), dict(moments))  # a dropout would have drawn other masks


def running(model: nn.Module) -> list[Norm]:
    return [m for m in model.modules() if isinstance(m, Norm) and m.tracks_running_moments]


def test_a_drop_layer_inside_a_normaliser_rests():
    layer = BatchNorm(4)
    layer.drop = nn.Dropout(0.5)
    above = nn.BatchNorm2d(4)
    results = []
    for _ in range(2):
        recalibrate(nn.Sequential(layer, above), uneven(4, 3, 5, dtype=torch.float32))
        results.append(above.running_var.clone())
    assert torch.equal(*results)
    assert layer.drop.training


def test_annealed_buffers_do_not_advance():
    layer = norms.SparseSwitchNorm(4, anneal_steps=10)
    others = [name for name, _ in layer.named_buffers() if "running" not in name and "tracked" not in name]
    before = {name: layer.get_buffer(name).clone() for name in others}
    layer(uneven(4, 3, 5, dtype=torch.float32)[0])
    assert others and not all(torch.equal(layer.get_buffer(name), before[name]) for name in others)
    before = {name: layer.get_buffer(name).clone() for name in others}
    recalibrate(layer, uneven(4, 3, 5, dtype=torch.float32))
    assert all(torch.equal(layer.get_buffer(name), before[name]) for name in others)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_model_as_it_was(error):
    model = network()
    before, state = everything_but_running_moments(model), copy.deepcopy(model.state_dict())

    def interrupted() -> Iterator[Tensor]:
        yield from uneven(3, 40, 40, sizes=(3, 2), dtype=torch.float32)
        raise error

    with pytest.raises(error):
        recalibrate(model, interrupted())
    assert_equal(everything_but_running_moments(model), before)
    assert_equal(dict(model.state_dict()), dict(state))


def test_an_error_in_the_middle_of_a_forward_leaves_the_buffers():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(5, 5, 1))
    with pytest.raises(RuntimeError):
        recalibrate(model, uneven(4, 3, 5, dtype=torch.float32))
    assert not model[0].running_mean.any() and model[0].num_batches_tracked == 0
    assert model[0].training and not model[0]._forward_pre_hooks


def test_a_layer_that_no_batch_reaches_keeps_its_moments():
    class WithSpare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(input=x)

    model = WithSpare()
    done = recalibrate(model, uneven(4, 3, 5, dtype=torch.float32))
    assert done.layers == 1 and done.unreached == ("spare",)
    assert not model.spare.running_mean.any()
    assert model.used.running_mean.all()


def test_a_shared_layer_pools_all_its_places():
    layer = nn.BatchNorm2d(4, affine=False).double()
    batches = uneven(4, 3, 5)
    recalibrate(nn.Sequential(layer, layer), batches)
    inputs = batches + [nn.functional.batch_norm(x, None, None, training=True) for x in batches]
    close(layer.running_var, over_all(inputs)[1])


@pytest.mark.parametrize(
    ("model", "batches", "words"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 1), InstanceNorm(4)), [torch.ones(2, 4, 3, 3)], "Sequential has no normaliser"),
        (nn.BatchNorm2d(4), [], "give at least one"),
        (
            nn.Sequential(nn.BatchNorm2d(4)),
            [torch.full((2, 4, 3, 3), torch.nan)],
            "moments of 0 over 1 batches are not",
        ),
        (nn.BatchNorm2d(4), [torch.ones(1, 4, 1, 1)], "more than 1 value per channel"),
        (BatchNorm(4), [torch.ones(1, 4, 1, 1)], "more than one value per channel"),
    ],
    ids=["no running moments", "no batch", "nan", "one value", "one value of ours"],
)
def test_what_cannot_be_recalibrated(model, batches, words):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words):
        recalibrate(model, batches)
    assert_equal(dict(model.state_dict()), dict(before))


def test_evaluation_then_fits_the_set():
    """What it is for: a network whose running moments are of elsewhere scores as in training on the set at hand."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    x = 4 * torch.rand(64, 3, 9, 9) + 2
    expected = model.train()(x)
    model[1].reset_running_stats()
    assert not torch.allclose(model.eval()(x), expected, atol=0.1)
    recalibrate(model, x.split(16))
    torch.testing.assert_close(model.eval()(x), expected, rtol=1e-3, atol=1e-3)


def test_layers_over_several_ranks_are_left_alone_with_their_batches(monkeypatch):
    layer = BatchNorm(3, sync=True)
    monkeypatch.setattr(Ranks, "there_are", lambda: pytest.fail("asked for other ranks"))
    recalibrate(nn.Sequential(layer), [torch.randn(4, 3, 5, 5)])
    assert layer.sync
