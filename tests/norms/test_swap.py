import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from en_bench.errors import InputError
from en_bench.norms import (
    BatchNorm,
    ExemplarNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Norm,
    SwitchNorm,
    swap_norms,
)

FACTORIES = [BatchNorm, InstanceNorm, LayerNorm, GroupNorm, SwitchNorm, ExemplarNorm]
COUNTS = {
    "torchvision/resnet18": 20,
    "resnet18": 20,
    "mobilenetv3_small_050": 34,
    "efficientnet_b0": 49,
    "densenet121": 121,
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("torchvision/"):
        model = torchvision.models.get_model(name.removeprefix("torchvision/"), num_classes=7)
    else:
        model = timm.create_model(name, num_classes=7, drop_rate=0.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model


def conv_net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), *layers)


@pytest.mark.parametrize("name", COUNTS)
def test_batch_norm_for_batch_norm_leaves_the_function_as_it_was(name):
    old = network(name).double()
    new = copy.deepcopy(old)
    report = swap_norms(new, BatchNorm)
    assert (report.swapped, report.preserved, report.left) == (COUNTS[name], "yes", ())
    assert all(swap.affine and swap.running for swap in report.swaps)
    assert list(new.state_dict()) == list(old.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for training in (False, True, False):
        torch.manual_seed(1)
        want = old.train(training)(x)
        torch.manual_seed(1)
        torch.testing.assert_close(new.train(training)(x), want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["efficientnet_b0", "densenet121"])
@pytest.mark.parametrize("norm", [GroupNorm, ExemplarNorm])
def test_fused_activations_survive(name, norm):
    model = network(name)
    acts = [m.act for m in model.modules() if type(m).__name__ == "BatchNormAct2d"]
    swap_norms(model, norm)
    new = [m for m in model.modules() if isinstance(m, Norm)]
    assert [m.act for m in new] == acts
    assert len({type(act) for act in acts}) >= 1
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(m.weight.grad is not None for m in new)


def test_a_fused_activation_and_dropout_are_applied():
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    fused = timm.layers.BatchNormAct2d(8, act_layer=nn.ReLU, drop_layer=Doubling)
    model = conv_net(fused)
    x = torch.randn(4, 3, 9, 9)
    want = model(x)
    swap_norms(model, BatchNorm)
    assert isinstance(model[1], BatchNorm)
    torch.testing.assert_close(model(x), want)
    assert want.min() == 0


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


@pytest.mark.parametrize("norm", FACTORIES)
@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda: nn.BatchNorm2d(8), "batch"),
        (lambda: nn.SyncBatchNorm(8), "sync"),
        (lambda: FrozenBatchNorm2d(8), "frozen"),
        (lambda: timm.layers.FrozenBatchNormAct2d(8, apply_act=False), "frozen"),
        (lambda: nn.BatchNorm2d(8, track_running_stats=False), "untracked"),
        (lambda: nn.InstanceNorm2d(8), "instance"),
        (lambda: nn.InstanceNorm2d(8, affine=True), "instance"),
        (lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), "tracked instance"),
        (lambda: nn.GroupNorm(1, 8), "group 1"),
        (lambda: nn.GroupNorm(8, 8), "group 8"),
        (lambda: nn.GroupNorm(4, 8), "group 4"),
        (lambda: timm.layers.GroupNorm1(8), "group 1"),
        (lambda: timm.layers.GroupNormAct(8, num_groups=8, apply_act=False), "group 8"),
        (lambda: timm.layers.norm_act.GroupNorm1Act(8, apply_act=False), "group 1"),
        (lambda: BatchNorm(8), "batch"),
        (lambda: InstanceNorm(8), "instance"),
        (lambda: GroupNorm(8), "group 8"),
        (lambda: LayerNorm(8), "group 1"),
        (lambda: SwitchNorm(8), "switch"),
        (lambda: ExemplarNorm(8), "exemplar"),
    ],
)
def test_what_is_called_preserved_is_preserved(build, kind, norm):
    promised = {
        ("batch", BatchNorm): "yes",
        ("sync", BatchNorm): "in evaluation",
        ("frozen", BatchNorm): "in evaluation",
        ("instance", InstanceNorm): "yes",
        ("instance", GroupNorm): "yes",  # 32 groups asked for, and lowered to one per channel
        ("tracked instance", BatchNorm): "in evaluation",
        ("group 1", LayerNorm): "yes",
        ("group 8", GroupNorm): "yes",
        ("group 8", InstanceNorm): "yes",
    }.get((kind, norm), "no")
    torch.manual_seed(0)
    old = conv_net(build())
    with torch.no_grad():
        for tensor in (*old[1].parameters(), *old[1].buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    new = copy.deepcopy(old)
    report = swap_norms(new, norm)
    assert report.preserved == promised
    assert report.swapped == 1
    x = 3 * torch.randn(4, 3, 9, 9)
    if promised == "yes":
        torch.testing.assert_close(new(x), old(x))
    if promised != "no":
        torch.testing.assert_close(new.eval()(x), old.eval()(x))
    elif (kind, norm) != ("untracked", BatchNorm):
        # The mixed normalisers differ from what they hold at their initial values, too.
        assert not torch.allclose(new.eval()(x), old.eval()(x), atol=1e-4)


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


@pytest.mark.parametrize("norm", FACTORIES)
@pytest.mark.parametrize("inherit", ["affine", "none"])
def test_affine_and_running_moments(norm, inherit):
    old = nn.BatchNorm2d(8)
    with torch.no_grad():
        for tensor in (old.weight, old.bias, old.running_mean, old.running_var):
            tensor.copy_(torch.rand(8) + 2)
        old.num_batches_tracked.fill_(11)
    model, fresh = conv_net(old), norm(8)
    report = swap_norms(model, norm, inherit=inherit)
    new = model[1]
    kept = inherit == "affine"
    assert [swap.affine for swap in report.swaps] == [kept]
    assert [swap.running for swap in report.swaps] == [kept and new.tracks_running_moments]
    for key in ("weight", "bias"):
        want = getattr(old, key).expand_as(getattr(new, key)) if kept else getattr(fresh, key)
        assert torch.equal(getattr(new, key), want)
    if new.tracks_running_moments:
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(getattr(new, key), getattr(old if kept else fresh, key))
    if inherit == "none":
        assert report.preserved == "no"


def test_per_normaliser_affine_does_not_fit_a_single_one():
    model = conv_net(ExemplarNorm(8))
    with torch.no_grad():
        model[1].weight.fill_(3)
    report = swap_norms(model, BatchNorm)
    assert not report.swaps[0].affine
    assert torch.equal(model[1].weight, torch.ones(8))


def test_a_missing_bias_stays_zero():
    class NoBias(nn.GroupNorm):
        def __init__(self) -> None:
            super().__init__(1, 8)
            self.bias = None
            nn.init.constant_(self.weight, 2.0)

    model = conv_net(NoBias())
    x = torch.randn(2, 3, 9, 9)
    want = model(x)
    assert swap_norms(model, LayerNorm).preserved == "yes"
    torch.testing.assert_close(model(x), want)


def test_shared_modules_stay_shared():
    shared = nn.BatchNorm2d(8)
    model = nn.ModuleDict({"a": conv_net(shared, shared), "b": nn.ModuleList([shared, nn.BatchNorm2d(8)])})
    report = swap_norms(model, ExemplarNorm)
    assert report.swapped == 2
    assert report.swaps[0].name == "a.1"
    assert model["a"][1] is model["a"][2] is model["b"][0]
    assert isinstance(model["a"][1], ExemplarNorm)
    assert model["b"][1] is not model["b"][0]


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


def test_a_network_without_normalisers():
    report = swap_norms(nn.Sequential(nn.Conv2d(3, 8, 3)), ExemplarNorm)
    assert (report.swapped, report.preserved) == (0, "yes")
    assert str(report) == "0 normalisers swapped, function preserved: yes"


def test_a_bare_normaliser_cannot_be_swapped_in_place():
    with pytest.raises(InputError, match=r"nn\.Sequential"):
        swap_norms(nn.BatchNorm2d(8), ExemplarNorm)


def test_a_lazy_normaliser_has_no_channels_yet():
    with pytest.raises(InputError, match=r"1 is a lazy normaliser.*run the model once"):
        swap_norms(conv_net(nn.LazyBatchNorm2d()), ExemplarNorm)


def test_inherit_is_checked():
    with pytest.raises(ValueError, match="inherit is 'afine'"):
        swap_norms(conv_net(nn.BatchNorm2d(8)), ExemplarNorm, inherit="afine")


def test_a_factory_must_make_normalisers():
    with pytest.raises(TypeError, match="factory returned a BatchNorm2d"):
        swap_norms(conv_net(nn.BatchNorm2d(8)), nn.BatchNorm2d)


def test_the_report_reads_as_a_table():
    model = nn.Sequential(
        nn.BatchNorm2d(64), nn.BatchNorm2d(48), nn.BatchNorm2d(24), nn.BatchNorm2d(48), nn.InstanceNorm2d(64)
    )
    model[0].register_forward_hook(lambda *_: None)
    report = swap_norms(model, lambda channels: GroupNorm(channels, groups=32))
    assert str(report).splitlines() == [
        "5 normalisers swapped, function preserved: no",
        "    1 BatchNorm2d -> GroupNorm: affine kept 1, running moments kept 0, function preserved: no (hooks lost)",
        "    3 BatchNorm2d -> GroupNorm: affine kept 3, running moments kept 0, function preserved: no",
        "    1 InstanceNorm2d -> GroupNorm: affine kept 0, running moments kept 0, function preserved: no",
        "      groups lowered to divide the channels: 32 -> 8 in 1, 32 -> 16 in 2",
    ]


def test_eps_and_momentum_that_the_factory_sets_win():
    model = conv_net(nn.BatchNorm2d(8, eps=1e-3, momentum=0.03), nn.BatchNorm2d(8))
    swap_norms(model, lambda channels: BatchNorm(channels, eps=0.5, momentum=None))
    assert [(m.eps, m.momentum) for m in model if isinstance(m, BatchNorm)] == [(0.5, None)] * 2
