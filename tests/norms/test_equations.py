"""Every normaliser against a float64 transcription of its paper: outputs and all gradients, to 1e-12."""

import itertools

import pytest
import torch

from en_bench.norms import (
    BatchInstanceNorm,
    BatchNorm,
    ConditionalBatchNorm,
    ExemplarNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Norm,
    SparseSwitchNorm,
    SwitchNorm,
)

from . import transcriptions as paper
from .reference import assert_same_function, randomise

SUBSETS = [subset for n in (1, 2, 3) for subset in itertools.permutations(("in", "ln", "bn"), n)]
CASES = [
    (BatchNorm, {}, paper.single("bn")),
    (InstanceNorm, {}, paper.single("in")),
    (LayerNorm, {}, paper.single("ln")),
    *((GroupNorm, {"groups": groups}, paper.group_norm) for groups in (2, 4, 12)),
    (BatchInstanceNorm, {}, paper.batch_instance_norm),
    (SwitchNorm, {}, paper.switch_norm),
    (SwitchNorm, {"official": True}, paper.released_switch_norm),
    *((SparseSwitchNorm, {"radius": radius}, paper.sparse_switch_norm) for radius in (0, 0.3, 0.7, 1)),
    (ConditionalBatchNorm, {"hidden": 5}, paper.conditional_batch_norm),
    *(
        (ExemplarNorm, {"reduction": 4, "hidden": 5, **options}, paper.exemplar_norm)
        for options in (
            *({"normalizers": subset} for subset in SUBSETS),
            {"activation": "relu"},
            {"reduce": False},
            {"shared_affine": True},
            {"shared_affine": True, "normalizers": ("bn", "in"), "activation": "relu", "reduce": False},
            {"reduction": 1},
            {"reduction": 5},
            {"reduction": 64},
            {"hidden": 1},
            {"gate": "mlp2"},
            {"gate": "mlp3"},
            {"gate": "mlp3", "normalizers": ("bn", "ln"), "activation": "relu", "shared_affine": True},
        )
    ),
]


EACH = {case[0]: case for case in reversed(CASES)}.values()  # with its first options


def name(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={option}" for key, option in value.items())
    return getattr(value, "__name__", str(value))


def trained(norm: type[Norm], options: dict, shape: tuple[int, ...]) -> Norm:
    """With random parameters, and running moments that are neither the initial ones nor the batch's."""
    torch.manual_seed(1)
    radius = options.get("radius")
    layer = norm(shape[1], eps=1e-3, **{key: value for key, value in options.items() if key != "radius"}).double()
    randomise(layer)
    layer(torch.randn(shape, dtype=torch.float64) + 2)
    if radius is not None:
        layer.set_radius(radius)
    return layer


def test_every_normaliser_is_transcribed():
    from .test_contract import KEYS

    assert {norm for norm, *_ in CASES} == set(KEYS)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("norm", "options", "transcription"), CASES, ids=name)
def test_equals_the_paper(norm, options, transcription, training):
    shape = (5, 12, 4, 3)
    layer = trained(norm, options, shape).train(training)
    assert_same_function(layer, lambda x: transcription(layer, x), shape)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", [(5, 12, 1, 1), (1, 12, 4, 3)], ids=str)
@pytest.mark.parametrize(("norm", "options", "transcription"), EACH, ids=name)
def test_equals_the_paper_at_odd_shapes(norm, options, transcription, shape, training):
    layer = trained(norm, options, shape).train(training)
    assert_same_function(layer, lambda x: transcription(layer, x), shape)


@pytest.mark.parametrize(("norm", "options", "transcription"), EACH, ids=name)
def test_sync_in_a_single_process_changes_nothing(norm, options, transcription):
    if not norm(12).tracks_running_moments:
        with pytest.raises(TypeError, match="sync"):
            norm(12, sync=True)
        return
    x = torch.randn(5, 12, 4, 3, dtype=torch.float64)
    torch.manual_seed(0)
    alone = norm(12).double()
    torch.manual_seed(0)
    assert torch.equal(norm(12, sync=True).double()(x), alone(x))
