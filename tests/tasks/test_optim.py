import pytest
import timm
import torch
from torch import nn

from en_bench import backbones
from en_bench.norms import BatchNorm, ExemplarNorm, swap_norms
from en_bench.tasks.optim import Optimisation, decay_groups


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    ids = {id(p) for p in parameters}
    return {name for name, p in model.named_parameters() if id(p) in ids}


@pytest.mark.parametrize("norm", [None, BatchNorm, ExemplarNorm])
def test_only_convolutions_and_the_head_decay(norm):
    model = backbones.build("cifar/resnet20", 10)
    if norm is not None:
        swap_norms(model, norm)
    decayed, undecayed = decay_groups(model, 5e-4)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (5e-4, 0.0)
    expected = {
        name + ".weight"
        for name, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear)) and "gate" not in name
    }
    assert names_of(model, decayed["params"]) == expected
    assert len(decayed["params"]) + len(undecayed["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("norm", [None, BatchNorm, ExemplarNorm])
def test_everything_decays_on_demand_in_the_same_groups(norm):
    model = backbones.build("cifar/resnet8", 10)
    if norm is not None:
        swap_norms(model, norm)
    some, everything = decay_groups(model, 5e-4), decay_groups(model, 5e-4, decay_all=True)
    assert [group["weight_decay"] for group in everything] == [5e-4, 5e-4]
    # So that a checkpoint's optimiser fits both.
    assert [names_of(model, g["params"]) for g in some] == [names_of(model, g["params"]) for g in everything]
    assert set().union(*(names_of(model, g["params"]) for g in everything)) == {n for n, _ in model.named_parameters()}


def test_norms_that_are_not_ours_do_not_decay_either():
    model = timm.create_model("convnext_atto", num_classes=3)
    decayed, _ = decay_groups(model, 1.0)
    assert not any("norm" in name or name.endswith("bias") for name in names_of(model, decayed["params"]))


def test_frozen_and_shared_parameters():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, layer, nn.Linear(2, 2))
    model[2].weight.requires_grad_(False)
    decayed, undecayed = decay_groups(model, 1.0)
    assert [id(p) for p in decayed["params"]] == [id(layer.weight)]
    assert len(undecayed["params"]) == 2


def test_a_warm_up_that_is_longer_than_the_training_is_told_as_shortened():
    given = Optimisation(lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4, decay_all=False, warmup_epochs=5)
    assert given.told(given.length(30, 10)).startswith(
        "lr 0.1, warm-up of 5 epochs (shortened to the whole training, which is no longer), cosine"
    )
    assert given.told(given.length(50, 10)).startswith("lr 0.1, warm-up of 5 epochs, cosine")


def test_optimizer_takes_the_groups():
    groups = decay_groups(nn.Linear(3, 3), 0.1)
    optimizer = torch.optim.SGD(groups, lr=1.0)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
