import itertools

import pytest
import torch
from torch import Tensor

from en_bench.norms import BatchNorm, ExemplarNorm, InstanceNorm, LayerNorm

from .reference import assert_same, assert_same_function, randomise

SUBSETS = [subset for n in (1, 2, 3) for subset in itertools.permutations(("in", "ln", "bn"), n)]


def transcribed(layer: ExemplarNorm, x: Tensor, activation: str = "tanh") -> tuple[Tensor, Tensor]:
    """The paper's steps 1 to 6, sample by sample and normaliser by normaliser, on whole maps; x is (N, C, H, W).

    Returns the output and the ratios (N, K).
    """
    state = dict(layer.named_parameters())
    normalised, pooled = [], []
    for kind in layer.normalizers:
        dims = {"in": (2, 3), "ln": (1, 2, 3), "bn": (0, 2, 3)}[kind]
        mean, variance = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
        if kind == "bn" and not layer.training:
            mean, variance = layer.running_mean.view(1, -1, 1, 1), layer.running_var.view(1, -1, 1, 1)
        normalised.append((x - mean) / torch.sqrt(variance + layer.eps))
        pooled.append(((x.mean((2, 3), keepdim=True) - mean) / torch.sqrt(variance + layer.eps))[:, :, 0, 0])
    outputs, ratios = [], []
    for n in range(len(x)):
        features = [xhat[n] for xhat in pooled]
        if "gate.reduce.weight" in state:
            weight, bias = state["gate.reduce.weight"], state["gate.reduce.bias"]
            width = weight.shape[1]
            features = [
                torch.stack([xhat[g * width : (g + 1) * width] @ weight[g, :, 0] + bias[g] for g in range(len(weight))])
                for xhat in features
            ]
        relations = torch.stack([a @ b for a in features for b in features])
        hidden = state["gate.fc1.weight"] @ relations + state["gate.fc1.bias"]
        hidden = torch.tanh(hidden) if activation == "tanh" else hidden.clamp_min(0)
        logits = state["gate.fc2.weight"] @ hidden + state["gate.fc2.bias"]
        ratio = torch.exp(logits) / torch.exp(logits).sum()
        ratios.append(ratio)
        rows = [min(k, len(layer.weight) - 1) for k in range(len(ratio))]
        outputs.append(
            sum(
                ratio[k] * (layer.weight[row][:, None, None] * normalised[k][n] + layer.bias[row][:, None, None])
                for k, row in enumerate(rows)
            )
        )
    return torch.stack(outputs), torch.stack(ratios)


def trained(channels: int = 12, shape: tuple[int, ...] = (5, 12, 4, 3), **options) -> ExemplarNorm:
    torch.manual_seed(1)
    layer = ExemplarNorm(channels, **{"reduction": 4, "hidden": 5, "eps": 1e-3, **options}).double()
    randomise(layer)
    layer(torch.randn(shape, dtype=torch.float64) + 2)
    return layer


OPTIONS = [
    *({"normalizers": subset} for subset in SUBSETS),
    {"activation": "relu"},
    {"reduce": False},
    {"shared_affine": True},
    {"shared_affine": True, "normalizers": ("bn", "in"), "activation": "relu", "reduce": False},
    {"reduction": 1},
    {"reduction": 5},
    {"reduction": 64},
    {"hidden": 1},
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_paper(options, training):
    layer = trained(**options).train(training)
    activation = options.get("activation", "tanh")
    assert_same_function(layer, lambda x: transcribed(layer, x, activation)[0], (5, 12, 4, 3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 12, 1, 1), (1, 12, 4, 3)], ids=str)
def test_equals_the_paper_at_odd_shapes(shape, training):
    layer = trained(shape=shape).train(training)
    assert_same_function(layer, lambda x: transcribed(layer, x)[0], shape)


@pytest.mark.parametrize("training", [True, False])
def test_ratios_are_those_of_the_forward_pass(training):
    layer, x = trained().train(training), torch.randn(5, 12, 4, 3, dtype=torch.float64)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    ratios = layer.ratios(x)
    assert_same(ratios, transcribed(layer, x)[1].detach(), "ratios")
    assert_same(ratios.sum(1), torch.ones(5, dtype=torch.float64), "sum")
    assert ratios.std(0).min() > 1e-3
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_ratios_under_autocast_are_fp32():
    layer, x = trained().float(), torch.randn(5, 12, 4, 3)
    plain = layer.ratios(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.ratios(x), plain)


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize(("normalizer", "single"), [("in", InstanceNorm), ("ln", LayerNorm), ("bn", BatchNorm)])
def test_one_normaliser_is_that_normaliser(normalizer, single, reduce):
    layer, other = ExemplarNorm(12, (normalizer,), reduce=reduce).double(), single(12).double()
    for training in (True, True, False):
        x = torch.randn(5, 12, 4, 3, dtype=torch.float64) + 2
        assert_same(layer.train(training)(x), other.train(training)(x), "output")
    assert layer.tracks_running_moments == (normalizer == "bn")


@pytest.mark.parametrize(
    ("channels", "reduction", "groups"),
    [
        (64, 32, 2),
        (2048, 32, 64),
        (16, 32, 1),
        (12, 5, 2),
        (100, 32, 2),
        (97, 3, 1),
        (12, 1, 12),
        (90, 10, 9),
        (88, 10, 8),
    ],
)
def test_gate_shapes(channels, reduction, groups):
    layer = ExemplarNorm(channels, reduction=reduction)
    assert {name: tuple(p.shape) for name, p in layer.gate.named_parameters()} == {
        "reduce.weight": (groups, channels // groups, 1),
        "reduce.bias": (groups,),
        "fc1.weight": (150, 9),
        "fc1.bias": (150,),
        "fc2.weight": (3, 150),
        "fc2.bias": (3,),
    }


def test_parameter_count_of_the_reduction_does_not_depend_on_it():
    counts = {
        sum(p.numel() for n, p in ExemplarNorm(64, reduction=r).named_parameters() if n == "gate.reduce.weight")
        for r in (1, 4, 32)
    }
    assert counts == {64}


def test_state_dict_of_the_ablations():
    assert ExemplarNorm(64, shared_affine=True).state_dict()["weight"].shape == (1, 64)
    assert ExemplarNorm(64, ("in", "ln")).state_dict()["weight"].shape == (2, 64)
    assert not any("running" in key or "tracked" in key for key in ExemplarNorm(64, ("in", "ln")).state_dict())
    assert not any("reduce" in key for key in ExemplarNorm(64, reduce=False).state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalizers": ()}, "normalizers"),
        ({"normalizers": ("in", "in")}, "each once"),
        ({"normalizers": ("in", "gn")}, "gn"),
        ({"activation": "gelu"}, "gelu"),
        ({"reduction": 0}, "reduction 0"),
        ({"hidden": 0}, "hidden 0"),
    ],
    ids=str,
)
def test_what_cannot_be_built(options, words):
    with pytest.raises(ValueError, match=words):
        ExemplarNorm(64, **options)


def test_repr_tells_the_ablations_apart():
    text = repr(ExemplarNorm(64, ("bn", "in"), activation="relu", shared_affine=True))
    for part in ("normalizers=bn+in", "reduced=2", "activation=relu", "shared_affine"):
        assert part in text
    assert "reduced=none" in repr(ExemplarNorm(64, reduce=False))
