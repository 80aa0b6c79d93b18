"""Networks by name: any classification model of timm or torchvision, and the CIFAR ResNets."""

import difflib
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from en_bench.attention import Attention, add_attention
from en_bench.errors import InputError


def build(name: str, num_classes: int, pretrained: bool = False, attention: Attention | None = None) -> nn.Module:
    """The network `name`, with its own normalisers and a head of `num_classes` outputs (N, num_classes).

    `name` is "cifar/resnet8|20|32|44|56|110", "timm/<model>" or "torchvision/<model>". With `pretrained`, the source's
    default weights are fetched; a head for another number of classes than theirs starts anew. `attention` adds a new
    block to each residual branch (`en_bench.attention`), and leaves all other weights as they are without it.

    Raises InputError for a name that is not known, weights that do not exist or cannot be fetched, and attention where
    the residual branches are not known.
    """
    if num_classes < 1:
        raise InputError(f"a network cannot tell {num_classes} classes apart: num_classes must be at least 1")
    source, _, model = name.partition("/")
    builders: dict[str, Callable[[str, int, bool], nn.Module]] = {
        "cifar": _build_cifar,
        "timm": _build_timm,
        "torchvision": _build_torchvision,
    }
    if source not in builders or not model:
        raise InputError(f"unknown backbone {name!r}: write <source>/<model>, with source {', '.join(builders)}")
    try:
        network = builders[source](model, num_classes, pretrained)
    except OSError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the weights of {name} cannot be fetched ({reason}): set pretrained to false, or go online"
        ) from error
    if attention is not None:
        add_attention(network, attention, name)
    return network


class CifarResNet(nn.Module):
    """The ResNet of 6n + 2 layers for 32x32 images; (N, 3, H, W) -> (N, num_classes).

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2: three stages of n basic
    blocks, 16, 32 and 64 wide, parameter-free shortcuts (option A), initialised for ReLU.
    """

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth is {depth}, expected 6n + 2 with n >= 1")
        self.conv1 = _conv3x3(3, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `attention` is applied to what the convolutions give."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.attention: nn.Module = nn.Identity()
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        shortcut = x
        if self.new_channels:
            # Option A: subsample, and zeros for the new channels, half of them on either side.
            half = self.new_channels // 2
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_channels - half))
        return F.relu(y + shortcut)


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def _build_cifar(model: str, num_classes: int, pretrained: bool) -> nn.Module:
    # The paper's depths, and 8 for studies that must end in minutes on a laptop.
    depths = {f"resnet{depth}": depth for depth in (8, 20, 32, 44, 56, 110)}
    _check_known("cifar", model, depths)
    if pretrained:
        raise InputError(f"there are no pretrained weights of cifar/{model}: set pretrained to false")
    return CifarResNet(depths[model], num_classes)


def _build_timm(model: str, num_classes: int, pretrained: bool) -> nn.Module:
    import timm

    architecture, _, tag = model.partition(".")
    _check_known("timm", architecture, timm.list_models())
    tags = [name.partition(".")[2] for name in timm.list_pretrained(architecture + ".*")]
    if tag and tag not in tags:
        raise InputError(f"timm/{architecture} has no weights {tag!r}: {_suggest(tag, tags)}")
    if pretrained and not tags and not timm.is_model_pretrained(architecture):
        raise InputError(f"there are no pretrained weights of timm/{model}: set pretrained to false")
    built: nn.Module = timm.create_model(model, pretrained=pretrained, num_classes=num_classes)
    return built


def _build_torchvision(model: str, num_classes: int, pretrained: bool) -> nn.Module:
    from torchvision import models

    _check_known("torchvision", model, models.list_models(module=models))
    # These two would return auxiliary logits beside their own in training.
    single = {"aux_logits": False, "init_weights": True} if model in ("googlenet", "inception_v3") else {}
    built: nn.Module = models.get_model(model, weights=None, num_classes=num_classes, **single)
    if pretrained:
        load_all_but_head(built, models.get_model(model, weights="DEFAULT").state_dict())
    return built


def load_all_but_head(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads `state`, of the same network with any number of classes; a head of another shape stays as it is."""
    own = model.state_dict()
    with torch.no_grad():
        for key in own.keys() & state.keys():
            if own[key].shape == state[key].shape:
                own[key].copy_(state[key])


def _check_known(source: str, model: str, known: Iterable[str]) -> None:
    names = list(known)
    if model not in names:
        raise InputError(f"unknown model {model!r} of {source}: {_suggest(model, names)}")


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known[:5])} ..."
