import pytest
import torch

from en_bench.norms import BatchNorm, ExemplarNorm, InstanceNorm, LayerNorm
from en_bench.norms.exemplar import relations

from .reference import assert_same, randomise
from .transcriptions import exemplar_norm_and_ratios


def trained(channels: int = 12, shape: tuple[int, ...] = (5, 12, 4, 3), **options) -> ExemplarNorm:
    torch.manual_seed(1)
    layer = ExemplarNorm(channels, **{"reduction": 4, "hidden": 5, "eps": 1e-3, **options}).double()
    randomise(layer)
    layer(torch.randn(shape, dtype=torch.float64) + 2)
    return layer


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gate", ["relation", "mlp2", "mlp3"])
def test_ratios_are_those_of_the_forward_pass(gate, training):
    layer, x = trained(gate=gate).train(training), torch.randn(5, 12, 4, 3, dtype=torch.float64)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    ratios = layer.ratios(x)
    assert_same(ratios, exemplar_norm_and_ratios(layer, x)[1].detach(), "ratios")
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


@pytest.mark.parametrize(
    ("gate", "shapes"),
    [
        ("mlp2", {"fc1": (150, 64), "fc2": (3, 150)}),
        ("mlp3", {"fc1": (2, 64), "fc2": (150, 2), "fc3": (3, 150)}),
    ],
)
def test_gate_shapes_of_the_plain_mlps(gate, shapes):
    layer = ExemplarNorm(64, gate=gate)
    expected = {f"{name}.weight": shape for name, shape in shapes.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
    assert {name: tuple(p.shape) for name, p in layer.gate.named_parameters()} == expected
    assert layer.gate.layers[-1].out_features == 3


def test_relations_are_inner_products():
    torch.manual_seed(0)
    xhat = torch.randn(5, 3, 12, dtype=torch.float64)
    got = relations(xhat).unflatten(1, (3, 3))
    assert_same(got, torch.einsum("nkc,njc->nkj", xhat, xhat), "relations")


@pytest.mark.parametrize("options", [{}, {"gate": "mlp2"}, {"gate": "mlp3"}, {"reduce": False}], ids=str)
def test_sizes_named_as_growing_with_the_width_are_those(options):
    """9 and 150 are sizes of the gate, too; 7 has a single group."""
    layers = [ExemplarNorm(channels, reduction=3, **options) for channels in (9, 150, 7)]
    shapes = zip(*([t.shape for t in layer.parameter_tensors()] for layer in layers), strict=True)
    grown = tuple(tuple(i for i, sizes in enumerate(zip(*each, strict=True)) if len(set(sizes)) > 1) for each in shapes)
    assert [layer.width_dims() for layer in layers] == [grown] * 3


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
        ({"gate": "mlp4"}, "mlp4"),
        ({"gate": "mlp2", "reduce": False}, "reduce=False.*'mlp2'"),
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
    assert "gate=mlp3" in repr(ExemplarNorm(64, gate="mlp3"))
