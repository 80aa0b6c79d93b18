import pytest
import torch
import torch.nn.functional as F
from torch import nn

from en_bench.norms import BatchNorm, GroupNorm, InstanceNorm, LayerNorm

from .reference import assert_same, assert_same_layers


@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
@pytest.mark.parametrize(
    ("theirs", "shape"),
    [
        (nn.BatchNorm1d, (5, 6)),
        (nn.BatchNorm1d, (5, 6, 7)),
        (nn.BatchNorm2d, (5, 6, 4, 3)),
        (nn.BatchNorm3d, (5, 6, 2, 4, 3)),
    ],
)
def test_batch_norm(theirs, shape, momentum):
    assert_same_layers(BatchNorm(6, eps=1e-3, momentum=momentum), theirs(6, eps=1e-3, momentum=momentum), shape)


@pytest.mark.parametrize(
    ("theirs", "shape"),
    [
        (nn.InstanceNorm1d, (5, 6, 7)),
        (nn.InstanceNorm2d, (5, 6, 4, 3)),
        (nn.InstanceNorm3d, (5, 6, 2, 4, 3)),
    ],
)
def test_instance_norm(theirs, shape):
    assert_same_layers(InstanceNorm(6, eps=1e-3), theirs(6, eps=1e-3, affine=True), shape)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7), (5, 6, 4, 3), (5, 6, 2, 4, 3)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm(groups, shape):
    assert_same_layers(GroupNorm(6, groups, eps=1e-3), nn.GroupNorm(groups, 6, eps=1e-3), shape)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7), (5, 6, 4, 3)], ids=str)
def test_layer_norm_is_group_norm_of_one_group(shape):
    assert_same_layers(LayerNorm(6, eps=1e-3), nn.GroupNorm(1, 6, eps=1e-3), shape)


def test_layer_norm_spans_all_of_a_sample():
    x = torch.randn(5, 6, 4, 3, dtype=torch.float64)
    assert_same(LayerNorm(6).double()(x), F.layer_norm(x, (6, 4, 3)), "output")


@pytest.mark.parametrize(
    ("channels", "asked", "got"), [(64, 32, 32), (48, 32, 16), (7, 32, 1), (16, 32, 16), (6, 4, 2)]
)
def test_groups_are_lowered_to_what_divides(channels, asked, got):
    layer = GroupNorm(channels, asked)
    assert (layer.groups, layer.requested_groups) == (got, asked)
    assert f"groups={got}" in repr(layer)


def test_no_groups_are_refused():
    with pytest.raises(ValueError, match="groups is 0"):
        GroupNorm(8, 0)


def test_checkpoints_without_a_batch_count_load():
    # As torch's own BatchNorm: checkpoints of torch 0.4 and safetensors files carry no version.
    state = dict(nn.BatchNorm2d(6).state_dict())
    del state["num_batches_tracked"]
    layer = BatchNorm(6)
    assert layer.load_state_dict(state).missing_keys == []


def test_a_checkpoint_of_torch_that_lost_its_batch_count_does_not_load():
    state = nn.BatchNorm2d(6).state_dict()
    del state["num_batches_tracked"]
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        BatchNorm(6).load_state_dict(state)
