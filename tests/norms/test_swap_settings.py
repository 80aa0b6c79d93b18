"""eps, momentum, dtype, device, mode, requires_grad and synchronisation carry over."""

from functools import partial

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from en_bench.norms import BatchNorm, ExemplarNorm, GroupNorm, InstanceNorm, SwitchNorm, swap_norms
from tests.norms.networks import FACTORIES, conv_net


def test_settings_carry_over():
    old = nn.BatchNorm2d(8, eps=1e-3, momentum=0.03, dtype=torch.float64).eval()
    old.weight.requires_grad_(False)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, dtype=torch.float64), old)
    report = swap_norms(model, ExemplarNorm)
    new = model[1]
    assert isinstance(new, ExemplarNorm)
    assert (new.eps, new.momentum, new.training) == (1e-3, 0.03, False)
    assert {p.dtype for p in new.parameters()} == {torch.float64}
    assert [name for name, p in new.named_parameters() if p.requires_grad] == ["bias"]
    assert "frozen, as before" in str(report)


def test_device_carries_over():
    model = conv_net(nn.InstanceNorm2d(8), nn.BatchNorm2d(8)).to("meta")
    swap_norms(model, ExemplarNorm)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_a_momentum_that_was_never_used_does_not_carry_over():
    model = conv_net(nn.InstanceNorm2d(8, momentum=0.9), nn.BatchNorm2d(8, momentum=None))
    swap_norms(model, SwitchNorm)
    assert (model[1].momentum, model[2].momentum) == (0.1, None)


def test_eps_and_momentum_that_the_factory_sets_win():
    model = conv_net(nn.BatchNorm2d(8, eps=1e-3, momentum=0.03), nn.BatchNorm2d(8))
    swap_norms(model, lambda channels: BatchNorm(channels, eps=0.5, momentum=None))
    assert [(m.eps, m.momentum) for m in model if isinstance(m, BatchNorm)] == [(0.5, None)] * 2


@pytest.mark.parametrize("norm", FACTORIES)
@pytest.mark.parametrize("inherit", ["affine", "preserve", "none"])
@pytest.mark.parametrize(("weight_trains", "bias_trains"), [(True, True), (True, False), (False, True), (False, False)])
def test_every_setting_carries_over_to_every_normaliser(norm, inherit, weight_trains, bias_trains):
    old = nn.BatchNorm2d(8, eps=1e-3, momentum=0.03, dtype=torch.float64)
    old.weight.requires_grad_(weight_trains)
    old.bias.requires_grad_(bias_trains)
    for training in (True, False):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), old.train(training))
        swap_norms(model, norm, inherit=inherit)
        new = model[1]
        assert isinstance(new, norm)
        assert {module.training for module in new.modules()} == {training}
        assert new.eps == 1e-3
        assert new.momentum == (0.03 if new.tracks_running_moments else None)
        floats = [tensor for tensor in new.state_dict().values() if tensor.is_floating_point()]
        assert {tensor.dtype for tensor in floats} == {torch.float64}
        trains = {name: parameter.requires_grad for name, parameter in new.named_parameters()}
        assert trains.pop("bias") == bias_trains
        assert set(trains.values()) == {weight_trains}


def test_a_frozen_layer_stays_frozen():
    model = conv_net(FrozenBatchNorm2d(8, eps=1e-3))
    report = swap_norms(model, ExemplarNorm, inherit="preserve")
    assert not any(parameter.requires_grad for parameter in model[1].parameters())
    assert model[1].eps == 1e-3
    assert "in evaluation, because in training it had its running moments (frozen, as before)" in str(report)


def test_a_layer_without_tensors_takes_dtype_and_device_of_the_model():
    for dtype, device in ((torch.float64, "cpu"), (torch.bfloat16, "meta")):
        model = conv_net(nn.InstanceNorm2d(8)).to(device, dtype)
        swap_norms(model, InstanceNorm)
        assert (model[1].weight.dtype, model[1].weight.device.type) == (dtype, device)


def with_group() -> nn.SyncBatchNorm:
    layer = nn.SyncBatchNorm(8)
    layer.process_group = object()
    return layer


@pytest.mark.parametrize(
    ("build", "factory", "sync", "preserved"),
    [
        (lambda: nn.SyncBatchNorm(8), BatchNorm, True, "yes"),
        (lambda: nn.SyncBatchNorm(8), ExemplarNorm, True, "yes"),
        (lambda: nn.SyncBatchNorm(8), partial(ExemplarNorm, normalizers=("in", "ln")), False, "no"),
        (lambda: nn.SyncBatchNorm(8), GroupNorm, False, "no"),
        (lambda: BatchNorm(8, sync=True), ExemplarNorm, True, "yes"),
        (lambda: nn.BatchNorm2d(8), ExemplarNorm, False, "yes"),
        (lambda: nn.BatchNorm2d(8), partial(ExemplarNorm, sync=True), True, "in evaluation"),
    ],
)
def test_moments_over_all_ranks_carry_over(build, factory, sync, preserved):
    model = conv_net(build())
    report = swap_norms(model, factory, inherit="preserve")
    assert (model[1].sync, report.preserved) == (sync, preserved)


def test_a_process_group_of_its_own_is_lost_and_said_to_be():
    report = swap_norms(conv_net(with_group()), BatchNorm)
    assert "(moments over the default process group, not its own)" in str(report)


def test_timms_synchronised_layers_keep_their_activation():
    model = conv_net(timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU))
    model = timm.layers.convert_sync_batchnorm(model)
    act = model[1].act
    assert swap_norms(model, BatchNorm).swaps[0].old == "SyncBatchNormAct"
    assert model[1].act is act
    assert model[1].sync
