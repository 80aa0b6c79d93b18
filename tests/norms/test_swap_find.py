"""Which modules are taken for normalisers, and which of them are swapped."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from en_bench.errors import InputError
from en_bench.norms import BatchNorm, ExemplarNorm, LayerNorm, Norm, swap_norms
from tests.norms.networks import conv_net, network


def test_response_normalisation_is_left():
    model = timm.create_model("convnextv2_atto", num_classes=7)
    reasons = {cls: reason for _, cls, reason in swap_norms(model, ExemplarNorm).left}
    assert reasons == {"LayerNorm2d": "per position", "GlobalResponseNorm": "response normalisation"}


def test_normalisers_per_position_are_left():
    model = timm.create_model("convnext_atto", num_classes=7)
    before = copy.deepcopy(model)
    report = swap_norms(model, ExemplarNorm)
    assert report.swapped == 0
    assert {cls for _, cls, _ in report.left} >= {"LayerNorm2d"}
    assert "left, per position: stem.1" in str(report)
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]


@pytest.mark.parametrize("unknown", ["EvoNorm2dS0", "FilterResponseNormAct2d", "SplitBatchNorm2d", "InplaceAbn"])
def test_an_unknown_normaliser_is_named_and_nothing_is_changed(unknown):
    torch.manual_seed(0)
    cls = getattr(timm.layers, unknown, None) or timm.layers.split_batchnorm.SplitBatchNorm2d
    layer = object.__new__(cls) if unknown == "InplaceAbn" else cls(8)
    if unknown == "InplaceAbn":  # its constructor needs a compiled extension
        nn.Module.__init__(layer)
        layer.weight = nn.Parameter(torch.ones(8))
    model = nn.ModuleDict({"stem": conv_net(nn.BatchNorm2d(8)), "body": nn.ModuleDict({"n1": layer})})
    with pytest.raises(
        InputError, match=rf"^body\.n1 \(timm\..*{unknown}\) looks like a normaliser.*: replace it"
    ) as info:
        swap_norms(model, ExemplarNorm)
    assert "\n" not in str(info.value)
    assert type(model["stem"][1]) is nn.BatchNorm2d


def test_a_subclass_that_changes_forward_is_not_taken_for_its_base():
    class ShiftedBatchNorm(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    class RenamedBatchNorm(nn.BatchNorm2d):
        pass

    assert swap_norms(conv_net(RenamedBatchNorm(8)), BatchNorm).preserved == "yes"
    with pytest.raises(InputError, match="ShiftedBatchNorm"):
        swap_norms(conv_net(ShiftedBatchNorm(8)), BatchNorm)


def test_containers_and_weight_normalisation_are_no_normalisers():
    class ConvNormAct(nn.Sequential):
        pass

    class NormWrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.BatchNorm2d(8)

    model = nn.Sequential(
        ConvNormAct(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)),
        NormWrapper(),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
        torchvision.transforms.Normalize((0.5,), (0.5,)),
    )
    report = swap_norms(model, ExemplarNorm)
    assert [swap.name for swap in report.swaps] == ["0.1", "1.inner"]
    assert report.left == ()


def test_a_lazy_normaliser_has_no_channels_yet():
    with pytest.raises(InputError, match=r"1 is a lazy normaliser.*run the model once"):
        swap_norms(conv_net(nn.LazyBatchNorm2d()), ExemplarNorm)


def swapped(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, Norm)}


def test_where_is_a_regular_expression_over_qualified_names():
    model = network("resnet18")
    everything = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    report = swap_norms(model, ExemplarNorm, where=r"[34]\..*bn2$")
    assert swapped(model) == {f"layer{stage}.{block}.bn2" for stage in (3, 4) for block in (0, 1)}
    assert {name for name, _, reason in report.left if reason == "not named by where"} == everything - swapped(model)
    assert "16 BatchNorm2d left, not named by where: bn1, layer1.0.bn1, ..." in str(report)
    model(torch.randn(2, 3, 64, 64)).sum().backward()


def test_where_is_a_function_of_name_and_module():
    model = network("resnet18")
    asked = []

    def wide(name: str, module: nn.Module) -> bool:
        asked.append(name)
        return module.num_features == 512  # only normalisers are asked about

    swap_norms(model, ExemplarNorm, where=wide)
    assert swapped(model) == {f"layer4.{name}" for name in ("0.bn1", "0.bn2", "0.downsample.1", "1.bn1", "1.bn2")}
    assert len(asked) == len(set(asked)) == 20


def test_where_may_name_a_shared_module_by_any_of_its_names():
    shared = nn.BatchNorm2d(8)
    model = nn.ModuleDict({"a": conv_net(shared), "b": conv_net(shared, nn.BatchNorm2d(8))})
    swap_norms(model, ExemplarNorm, where=r"^b\.1$")
    assert model["a"][1] is model["b"][1]
    assert isinstance(model["a"][1], ExemplarNorm)
    assert isinstance(model["b"][2], nn.BatchNorm2d)


def test_an_unknown_normaliser_that_where_leaves_out_is_no_error():
    model = conv_net(nn.BatchNorm2d(8), timm.layers.EvoNorm2dS0(8))
    with pytest.raises(InputError, match="let where leave it out"):
        swap_norms(model, ExemplarNorm)
    report = swap_norms(model, ExemplarNorm, where="1")
    assert report.left == (("2", "EvoNorm2dS0", "not named by where"),)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("layer9", r"where, 'layer9', names no normaliser to swap; the model has 1$"),
        (lambda *_: False, r"where, the function given, names no normaliser to swap; the model has 1$"),
        ("bn[", r"where, 'bn\[', is no regular expression: unterminated character set"),
    ],
)
def test_a_where_that_names_nothing_is_an_error(where, message):
    with pytest.raises(InputError, match=message):
        swap_norms(conv_net(nn.BatchNorm2d(8)), ExemplarNorm, where=where)


CHANNELS_FIRST = {
    "torchvision": lambda: LayerNorm2d(8, eps=1e-3),
    **{
        name: lambda name=name: getattr(timm.layers.norm, name)(8, eps=1e-3)
        for name in ("LayerNorm2d", "LayerNorm2dFp32", "LayerNormExp2d", "RmsNorm2d", "SimpleNorm2d")
    },
    "LayerNormAct2d": lambda: timm.layers.norm_act.LayerNormAct2d(8, eps=1e-3, act_layer=nn.SiLU),
}


@pytest.mark.parametrize("name", CHANNELS_FIRST)
@torch.no_grad()
def test_normalisers_per_position_that_where_names_are_swapped(name):
    torch.manual_seed(0)
    model = conv_net(CHANNELS_FIRST[name](), nn.Identity())
    old = model[1]
    for parameter in old.parameters():
        parameter.uniform_(0.5, 2)
    report = swap_norms(model, LayerNorm, where=r"^1$")
    assert (report.preserved, report.swaps[0].affine, report.left) == ("no", True, ())
    x = 3 * torch.randn(2, 3, 9, 9) + 1
    want = F.group_norm(model[0](x), 1, old.weight, getattr(old, "bias", None), eps=1e-3)
    torch.testing.assert_close(model(x), F.silu(want) if name == "LayerNormAct2d" else want)


def test_a_convnext_with_its_channels_first_normalisers_swapped():
    model = timm.create_model("convnext_atto", num_classes=7, conv_mlp=False)
    named = {name for name, module in model.named_modules() if type(module).__name__ == "LayerNorm2d"}
    report = swap_norms(model, ExemplarNorm, "preserve", where=lambda _, module: type(module).__name__ == "LayerNorm2d")
    assert swapped(model) == named
    assert len(named) >= 5
    assert {cls for _, cls, _ in report.left} == {"LayerNorm"}
    assert "because it had the moments of each position" in str(report)
    model(torch.randn(2, 3, 64, 64)).sum().backward()


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.LayerNorm(8),
        lambda: nn.RMSNorm(8),
        lambda: timm.layers.LayerNorm(8),
        lambda: timm.layers.norm_act.LayerNormAct(8),
        lambda: timm.layers.RmsNorm(8),
    ],
)
def test_normalisers_of_tokens_cannot_be_named(build):
    model = nn.ModuleDict({"stem": conv_net(nn.BatchNorm2d(8)), "blocks": nn.Sequential(build())})
    with pytest.raises(InputError, match=r"^blocks\.0 \(\w+\), which where names, .*\(N, \.\.\., C\).*: let where"):
        swap_norms(model, ExemplarNorm, where="stem|blocks")
    assert type(model["stem"][1]) is nn.BatchNorm2d
    swap_norms(model, ExemplarNorm, where="stem")
    assert isinstance(model["stem"][1], ExemplarNorm)
