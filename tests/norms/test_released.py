"""States laid out as the released checkpoints are: names, shapes and what lies beside the weights in the files."""

import functools
import io

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from en_bench.norms import SwitchNorm, released_resnet_state, swap_norms

from .reference import assert_same
from .transcriptions import released_switch_norm

BLOCKS = (3, 4, 6, 3)


def convolution(state: dict[str, Tensor], name: str, out: int, into: int, size: int) -> None:
    state[f"{name}.weight"] = torch.randn(out, into, size, size) * (2 / (size * size * out)) ** 0.5


def switch_norm(state: dict[str, Tensor], name: str, channels: int, kinds: int = 3) -> None:
    state[f"{name}.weight"] = 0.5 + torch.rand(1, channels, 1, 1)
    state[f"{name}.bias"] = torch.randn(1, channels, 1, 1) / 10
    state[f"{name}.mean_weight"] = 1 + torch.randn(kinds) / 3
    state[f"{name}.var_weight"] = 1 + torch.randn(kinds) / 3
    state[f"{name}.running_mean"] = torch.randn(1, channels, 1) / 10
    state[f"{name}.running_var"] = 0.5 + torch.rand(1, channels, 1)


def released_state(kinds: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    convolution(state, "conv1", 64, 3, 7)
    switch_norm(state, "sn1", 64, kinds)
    into = 64
    for stage, blocks in enumerate(BLOCKS, start=1):
        planes = 32 * 2**stage
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            widths = (into, planes, planes, 4 * planes)
            for i, size in enumerate((1, 3, 1), start=1):
                convolution(state, f"{name}.conv{i}", widths[i], widths[i - 1], size)
                switch_norm(state, f"{name}.sn{i}", widths[i], kinds)
            if block == 0:
                convolution(state, f"{name}.downsample.0", 4 * planes, into, 1)
                switch_norm(state, f"{name}.downsample.1", 4 * planes, kinds)
            into = 4 * planes
    state |= {"fc.weight": torch.randn(1000, 2048) / 45, "fc.bias": torch.zeros(1000)}
    return state


@torch.no_grad()
def released_network(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits in evaluation, from the state alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        layer = nn.Module()
        for key in ("weight", "bias", "mean_weight", "var_weight", "running_mean", "running_var"):
            setattr(layer, key, state[f"{name}.{key}"].double().flatten())
        layer.eps, layer.training = 1e-5, False
        return released_switch_norm(layer, x)

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return nn.functional.conv2d(x, state[f"{name}.weight"].double(), stride=stride, padding=padding)

    x = norm(conv(x, "conv1", 2, 3), "sn1").relu()
    x = nn.functional.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            y = norm(conv(x, f"{name}.conv1"), f"{name}.sn1").relu()
            y = norm(conv(y, f"{name}.conv2", stride, 1), f"{name}.sn2").relu()
            y = norm(conv(y, f"{name}.conv3"), f"{name}.sn3")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + y).relu()
    return x.mean((2, 3)) @ state["fc.weight"].double().T + state["fc.bias"].double()


@pytest.mark.parametrize("build", [torchvision.models.resnet50, lambda: timm.create_model("resnet50")])
def test_a_released_resnet50_computes_what_it_did(build):
    state = released_state()
    file = io.BytesIO()
    torch.save({"epoch": 100, "model": "resnetv1sn50", "state_dict": state, "best_prec1": torch.tensor(77.5)}, file)
    file.seek(0)
    network = build()
    swap_norms(network, functools.partial(SwitchNorm, official=True))
    network.load_state_dict(released_resnet_state(torch.load(file, map_location="cpu", weights_only=True)))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert_same(network.double().eval()(x), released_network(state, x), "logits")


def test_names():
    state = {
        "sn1.mean_weight": torch.ones(3),
        "layer1.0.downsample.1.weight": torch.ones(1),
        "fc.weight": torch.ones(1),
    }
    state["layer1.10.sn3.bias"] = torch.ones(1)
    renamed = ["bn1.mean_weight", "layer1.0.downsample.1.weight", "fc.weight", "layer1.10.bn3.bias"]
    assert list(released_resnet_state(state)) == renamed
    assert list(released_resnet_state({f"module.{key}": value for key, value in state.items()})) == renamed


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"sn1.mean_weight": torch.ones(3), "fc.weight": torch.ones(1), "sn_out.bias": torch.ones(1)}, "v2"),
        ({"sn1.mean_weight": torch.ones(2), "fc.weight": torch.ones(1)}, "mixes 2 normalisers"),
        ({"bn1.weight": torch.ones(3), "fc.weight": torch.ones(1)}, "expected a ResNet with SwitchNorm"),
        ({"state_dict": {}}, "expected a ResNet with SwitchNorm"),
    ],
    ids=["v2", "without-bn", "batch-norm", "empty"],
)
def test_other_states_are_refused(state, words):
    with pytest.raises(ValueError, match=words):
        released_resnet_state(state)
