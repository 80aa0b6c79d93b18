"""SE, ECA and CBAM in the branches of residual networks: where, how large, and that all else stays as it is."""

import math
from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from torch import nn

from en_bench import backbones
from en_bench.cli import main
from en_bench.errors import InputError
from en_bench.matrix.commands import cell_commands
from en_bench.matrix.plan import plan_cells
from en_bench.matrix.spec import load_spec
from en_bench.norms import ExemplarNorm, swap_norms
from tests.conftest import REPO

BLOCKS = {"se": SEModule, "eca": EcaModule, "cbam": CbamModule}
# The channels that each network's residual branches end with.
WIDTHS = {
    "cifar/resnet8": [16, 32, 64],
    "cifar/resnet20": [16] * 3 + [32] * 3 + [64] * 3,
    "timm/resnet18": [64] * 2 + [128] * 2 + [256] * 2 + [512] * 2,
    "timm/resnet26d": [256] * 2 + [512] * 2 + [1024] * 2 + [2048] * 2,
    "torchvision/resnet18": [64] * 2 + [128] * 2 + [256] * 2 + [512] * 2,
    "torchvision/resnet50": [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3,
    "torchvision/shufflenet_v2_x0_5": [24] * 4 + [48] * 8 + [96] * 4,
}
SMALL = ["cifar/resnet8", "timm/resnet18", "torchvision/resnet18", "torchvision/shufflenet_v2_x0_5"]


def size(kind: str, channels: int) -> int:
    """Parameters of a block by hand."""
    if kind == "se":  # two layers with biases around C/16 units, a multiple of 8
        units = max(8, round(channels / 16 / 8) * 8)
        return 2 * channels * units + units + channels
    if kind == "eca":  # one filter over channels, of odd width next to (log2 C + 1) / 2, at least 3
        width = int((math.log2(channels) + 1) / 2)
        return max(3, width + 1 - width % 2)
    units = round(channels / 16)  # two layers without biases; a 7x7 filter over mean and maximum, and its BatchNorm
    return 2 * channels * units + 2 * 49 + 2


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("name", WIDTHS)
def test_each_branch_gets_one_block_of_known_size(name, kind):
    plain, attended = backbones.build(name, 10), backbones.build(name, 10, attention=kind)
    blocks = [m for m in attended.modules() if isinstance(m, BLOCKS[kind])]
    assert len(blocks) == len(WIDTHS[name])
    assert parameters(attended) - parameters(plain) == sum(size(kind, channels) for channels in WIDTHS[name])
    assert [parameters(block) for block in blocks] == [size(kind, channels) for channels in WIDTHS[name]]


def test_se_resnet50_has_the_size_of_its_paper():
    """Section 5.2: some 2.5 million beyond the 25 million of ResNet-50."""
    added = parameters(backbones.build("timm/resnet50", 1000, attention="se")) - 25_557_032
    assert added == sum(n * size("se", c) for n, c in ((3, 256), (4, 512), (6, 1024), (3, 2048))) == 2_530_992


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("name", SMALL)
def test_the_networks_own_weights_keep_names_and_values(name, kind):
    states = []
    for attention in (None, kind):
        torch.manual_seed(0)
        states.append(backbones.build(name, 10, attention=attention).state_dict())
    plain, attended = states
    assert [key for key in attended if key in plain] == list(plain)
    assert all(torch.equal(attended[key], value) for key, value in plain.items())
    slot = ".se." if name.startswith("timm/") else ".attention."
    assert all(slot in key for key in attended.keys() - plain.keys())


def test_timms_own_attention_networks_have_the_same_weights():
    own = timm.create_model("seresnet18", num_classes=10)
    ours = backbones.build("timm/resnet18", 10, attention="se")
    ours.load_state_dict(own.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.eval()(x), own.eval()(x))
    fresh = backbones.build("timm/resnet18", 10, attention="se").layer4[1].se.fc1.weight
    assert fresh.std().item() == pytest.approx(own.layer4[1].se.fc1.weight.std().item(), rel=0.05)


@pytest.mark.parametrize(
    ("name", "kind"),
    # CBAM's one or two hidden units on narrow maps, without biases, may rest from the start: wide networks for it.
    [(n, k) for n in SMALL for k in BLOCKS if k != "cbam" or "resnet18" in n],
)
def test_gradients_reach_every_weight(name, kind):
    torch.manual_seed(0)
    network = backbones.build(name, 10, attention=kind)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)  # timm's ResNets begin with branches of zeros
    (network(torch.randn(4, 3, 64, 64)) * torch.randn(4, 10)).sum().backward()
    still = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still


class Closed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("name", ["cifar/resnet8", "torchvision/resnet18", "torchvision/resnet50", "timm/resnet18"])
def test_a_closed_gate_leaves_the_shortcut_and_an_open_one_the_network(name):
    torch.manual_seed(0)
    plain = backbones.build(name, 10).eval()
    attended = backbones.build(name, 10, attention="se").eval()
    attended.load_state_dict(plain.state_dict(), strict=False)
    blocks = [
        (parent, key) for parent in attended.modules() for key, m in parent.named_children() if type(m) is SEModule
    ]
    x = torch.randn(2, 3, 64, 64)
    for parent, key in blocks:
        setattr(parent, key, nn.Identity())
    assert torch.equal(attended(x), plain(x))
    for parent, key in blocks:
        setattr(parent, key, Closed())
    block = attended.layer1[-1]
    shortcut = torch.rand(2, block.conv1.in_channels, 8, 8)
    assert torch.equal(block(shortcut), shortcut)


def test_shuffle_units_gate_the_branch_after_its_activation_and_not_the_other_half():
    network = backbones.build("torchvision/shufflenet_v2_x0_5", 10, attention="se").eval()
    unit = network.stage2[1]
    assert [type(layer) for layer in unit.branch2.children()][-2:] == [nn.ReLU, SEModule]
    unit.branch2.attention = Closed()
    x = torch.rand(2, 48, 8, 8)
    assert torch.equal(unit(x)[:, ::2], x[:, :24])
    assert not unit(x)[:, 1::2].any()


@pytest.mark.parametrize("kind", BLOCKS)
def test_normalisers_are_swapped_all_the_same(kind):
    network = backbones.build("torchvision/shufflenet_v2_x0_5", 10, attention=kind)
    swapped = swap_norms(network, ExemplarNorm).swapped
    assert swapped == 56 + (16 if kind == "cbam" else 0)
    assert network(torch.randn(2, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("timm/densenet121", "se", "timm/densenet121: attention goes to the end of residual branches"),
        ("timm/res2net50_26w_4s", "se", "known for cifar/resnet"),
        ("torchvision/mobilenet_v3_small", "cbam", "leave attention out"),
        ("timm/seresnet18", "eca", "timm/seresnet18 has attention already (SEModule)"),
        ("cifar/resnet8", "sse", "unknown attention 'sse': choose one of se, eca, cbam"),
    ],
)
def test_where_attention_cannot_go(name, kind, words):
    with pytest.raises(InputError) as info:
        backbones.build(name, 10, attention=kind)
    assert words in str(info.value)


def test_attention_beside_batch_norm_is_a_row_of_a_matrix(tmp_path, capsys):
    experiments = REPO / "experiments"
    rows = {
        "BatchNorm+SE": ["norm/bn.yaml", "attention/se.yaml"],
        "BatchNorm+ECA": ["norm/bn.yaml", "attention/eca.yaml"],
        "BatchNorm+CBAM": ["norm/bn.yaml", "attention/cbam.yaml"],
        "ExemplarNorm": ["norm/en.yaml"],
    }
    spec = {
        "name": "attended",
        "base": [str(experiments / "base.yaml"), str(experiments / "recipe" / "digits.yaml")],
        "norms": {label: [str(experiments / file) for file in files] for label, files in rows.items()},
        "train": {"handwritten": str(experiments / "data" / "digits_handwritten.yaml")},
        "seeds": [0],
    }
    path = tmp_path / "attended.yaml"
    path.write_text(yaml.safe_dump(spec))
    loaded = load_spec(path)
    cells = plan_cells(loaded)
    assert {cell.norm for cell in cells} == rows.keys()
    assert len({cell.id for cell in cells}) == 4
    for cell in cells:
        (fit, *_) = cell_commands(loaded, cell, tmp_path / "run", None)
        assert main([*fit, "--print_config"]) == 0
        model = yaml.safe_load(capsys.readouterr().out)["model"]
        assert model["attention"] == (cell.norm.partition("+")[2].lower() or None)


def test_a_run_with_attention_trains_and_validates(shards, tmp_path):
    files = ("base.yaml", "recipe/digits.yaml", "norm/bn.yaml", "attention/se.yaml")
    overlays = [part for file in files for part in ("--config", str(REPO / "experiments" / file))]
    data = ("--data.root", str(shards), "--data.train", "a/train", "--data.val", "a/val", "--data.batch_size", "32")
    short = ("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.limit_train_batches", "2")
    run = tmp_path / "run"
    assert main(["fit", *overlays, *data, *short, "--trainer.default_root_dir", str(run)]) == 0
    checkpoint = run / "checkpoints" / "last.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert "network.layer1.0.attention.fc1.weight" in state
    validate = ["validate", "--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint)]
    assert main(validate) == 0
    assert Path(run / "config.yaml").read_text().count("attention: se") == 1


def test_an_unknown_attention_is_told_in_one_line(capsys):
    assert main(["fit", "--data.train", "x", "--data.val", "x", "--model.attention", "see"]) == 2
    assert "--model.attention: expected one of" in capsys.readouterr().err
