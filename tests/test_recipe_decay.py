"""Which parameters of which network decay under each recipe."""

from functools import cache

import pytest
import torch

from en_bench import backbones
from en_bench.norms import BatchNorm, ExemplarNorm, Norm, SwitchNorm, swap_norms
from tests.test_recipes import RECIPES, made, recipe_config


@cache
def meta_network(backbone: str, norm: type[Norm] | None) -> tuple[torch.nn.Module, set[str]]:
    """The network, without memory for its weights, and its names of them before normalisers were swapped."""
    with torch.device("meta"):
        network = backbones.build(backbone, 1000)
        weights = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
        if norm is not None:
            swap_norms(network, norm, inherit="none")
    return network, weights


# Convolutions and the head: He et al.'s counts, and one for each of the shortcuts that a projection makes.
WEIGHTS = {"resnet50": 50 + 4, "resnet18": 18 + 3, "resnet20": 20, "resnet8": 8}


@pytest.mark.parametrize("norm", [None, BatchNorm, SwitchNorm, ExemplarNorm])
@pytest.mark.parametrize("name", RECIPES)
def test_what_decays(name, norm, shards):
    """Of the real network. Weights that it has whatever its normalisers are decay; what is a vector there (a bias, a
    normaliser's), and all that belongs to a normaliser of ours, only where everything does."""
    recipe = RECIPES[name]
    task, _, _ = made(recipe_config(recipe), shards, pretrained=False)
    network, weights = meta_network(task.backbone, norm)
    assert len(weights) == WEIGHTS[task.backbone.rpartition("/")[2]]
    optimizer = task.optimisation.optimizer(network)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decays[id(parameter)] for name, parameter in network.named_parameters()}
    assert len(found) > 2 * len(weights) and len(decays) == len(found)
    of_others = recipe.weight_decay if recipe.decay_all else 0.0
    assert found == {name: recipe.weight_decay if name in weights else of_others for name in found}
