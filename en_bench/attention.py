"""SE, ECA and CBAM, timm's own blocks, put into residual networks as rivals of the normalisers.

They stand at the end of each residual branch, before it joins the shortcut: where SE's paper has its standard block
(Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, figure 3) and CBAM's its block in ResNets (Woo et al., ECCV
2018, figure 3); ECA's replaces SE there (Wang et al., CVPR 2020, section 4). In ShuffleNetV2 that is after the branch's
last activation and before the concatenation, as its authors' SE networks have it
(github.com/megvii-model/ShuffleNet-Series, ShuffleNetV2+).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from en_bench.errors import InputError

Attention = Literal["se", "eca", "cbam"]

# Which branch a block has is decided by the class whose forward it runs. Names, not classes: only the source that built
# the network has to be imported.
_TIMM_BLOCKS = ("timm.models.resnet.BasicBlock", "timm.models.resnet.Bottleneck")
_TORCHVISION_BLOCKS = ("torchvision.models.resnet.BasicBlock", "torchvision.models.resnet.Bottleneck")
_SHUFFLE_UNIT = "torchvision.models.shufflenetv2.InvertedResidual"
_CIFAR_BLOCK = "en_bench.backbones.BasicBlock"
_NETWORKS = {  # by the class of the network: its blocks
    "en_bench.backbones.CifarResNet": (_CIFAR_BLOCK,),
    "timm.models.resnet.ResNet": _TIMM_BLOCKS,
    "torchvision.models.resnet.ResNet": _TORCHVISION_BLOCKS,
    "torchvision.models.shufflenetv2.ShuffleNetV2": (_SHUFFLE_UNIT,),
}


def add_attention(network: nn.Module, kind: Attention, name: str) -> int:
    """Puts a new attention block into each residual branch of `network`, in place, and returns how many.

    The network's own weights keep their names and values. The blocks have timm's sizes, and its ResNets'
    initialisation: normal with variance 2 / fan-out for 2-d convolutions. CBAM's spatial half contains a BatchNorm of
    one channel, which a later swap replaces like any other normaliser. `name` is the network's, for messages.

    Raises InputError for an unknown kind, a network whose residual branches are not known, or one that has attention.
    """
    if kind not in get_args(Attention):
        raise InputError(f"unknown attention {kind!r}: choose one of {', '.join(get_args(Attention))}")
    from timm.layers import create_attn  # a second that only those who ask for attention spend

    places = list(_places(network, name))
    for channels, put in places:
        block = create_attn(kind, channels)
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        put(block)
    return len(places)


def _places(network: nn.Module, name: str) -> Iterator[tuple[int, Callable[[nn.Module], None]]]:
    """For each residual branch, the channels it ends with and what puts a module there."""
    blocks = _NETWORKS.get(_class(network), ())
    found = [(parent, key, child) for parent in network.modules() for key, child in parent.named_children()]
    branches = [(parent, key, child) for parent, key, child in found if _class(child) in blocks]
    if not branches:  # timm's Res2Net and ResNeSt are ResNets too, of blocks of their own
        raise InputError(
            f"{name}: attention goes to the end of residual branches, and where they end is known for cifar/resnet*, "
            "timm's and torchvision's resnet*, resnext* and wide_resnet*, and torchvision/shufflenet_v2_*: "
            "choose one of these, or leave attention out"
        )
    for parent, key, block in branches:
        if getattr(block, "se", None) is not None:
            raise InputError(f"{name} has attention already ({type(block.se).__name__}): leave attention out")
        if _class(block) in _TORCHVISION_BLOCKS:
            yield _last_norm(block).num_features, partial(_replace_block, parent, key, block)
        elif _class(block) == _SHUFFLE_UNIT:
            norms = [layer for layer in block.branch2.children() if isinstance(layer, nn.BatchNorm2d)]  # type: ignore[union-attr]
            yield norms[-1].num_features, partial(setattr, block.branch2, "attention")
        else:
            slot = "se" if _class(block) in _TIMM_BLOCKS else "attention"
            yield _last_norm(block).num_features, partial(setattr, block, slot)


def _last_norm(block: nn.Module) -> nn.BatchNorm2d:
    norm = block.bn3 if hasattr(block, "bn3") else block.bn2
    assert hasattr(norm, "num_features")
    return norm  # type: ignore[return-value]


def _class(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _replace_block(parent: nn.Module, key: str, block: nn.Module, attention: nn.Module) -> None:
    setattr(parent, key, ResidualBlock(block, attention))


class ResidualBlock(nn.Module):
    """A residual block of torchvision's ResNets with attention at the end of its branch.

    It holds the block's layers under the names they had.
    """

    def __init__(self, block: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.downsample: nn.Module | None = None
        for name, layer in block.named_children():
            setattr(self, name, layer)
        self.depth = 3 if hasattr(block, "conv3") else 2
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = torch.relu(y)
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.attention(y) + shortcut)
