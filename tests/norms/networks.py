"""Networks whose normalisers are away from their initial values, so that nothing of them can be lost unseen."""

from collections.abc import Callable

import timm
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import en_bench.norms
from en_bench.norms import BatchNorm, ExemplarNorm, GroupNorm, InstanceNorm, LayerNorm, Norm, SwitchNorm

EXPORTED = [getattr(en_bench.norms, name) for name in en_bench.norms.__all__]
FACTORIES: list[type[Norm]] = [
    cls for cls in EXPORTED if isinstance(cls, type) and issubclass(cls, Norm) and cls is not Norm
]

# What may be found in a network of 8 channels, and of which kind it is.
SOURCES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BatchNorm2d": (lambda: nn.BatchNorm2d(8), "batch"),
    "BatchNorm2d, no affine": (lambda: nn.BatchNorm2d(8, affine=False), "batch"),
    "BatchNormAct2d": (lambda: timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU), "batch"),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(8), "batch"),
    "FrozenBatchNorm2d": (lambda: FrozenBatchNorm2d(8), "frozen"),
    "FrozenBatchNormAct2d": (lambda: timm.layers.FrozenBatchNormAct2d(8, apply_act=False), "frozen"),
    "BatchNorm2d, untracked": (lambda: nn.BatchNorm2d(8, track_running_stats=False), "untracked"),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(8), "instance"),
    "InstanceNorm2d, affine": (lambda: nn.InstanceNorm2d(8, affine=True), "instance"),
    "InstanceNorm2d, tracked": (lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), "tracked"),
    "GroupNorm(1)": (lambda: nn.GroupNorm(1, 8), "layer"),
    "GroupNorm(8)": (lambda: nn.GroupNorm(8, 8), "instance"),
    "GroupNorm(4)": (lambda: nn.GroupNorm(4, 8), "groups"),
    "GroupNorm1": (lambda: timm.layers.GroupNorm1(8), "layer"),
    "GroupNormAct": (lambda: timm.layers.GroupNormAct(8, num_groups=8, apply_act=False), "instance"),
    "GroupNorm1Act": (lambda: timm.layers.norm_act.GroupNorm1Act(8), "layer"),
    "our BatchNorm": (lambda: BatchNorm(8), "batch"),
    "our InstanceNorm": (lambda: InstanceNorm(8), "instance"),
    "our GroupNorm(8)": (lambda: GroupNorm(8), "instance"),
    "our GroupNorm(4)": (lambda: GroupNorm(8, groups=4), "groups"),
    "our LayerNorm": (lambda: LayerNorm(8), "layer"),
    "our SwitchNorm": (lambda: SwitchNorm(8), "mixture"),
    "our ExemplarNorm": (lambda: ExemplarNorm(8), "mixture"),
    "our ExemplarNorm of one": (lambda: ExemplarNorm(8, normalizers=("bn",)), "batch"),
}


def conv_net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), *layers)


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Affine parameters and running moments of every normaliser; variances and most weights stay positive."""
    for module in model.modules():
        if hasattr(module, "running_mean") or hasattr(module, "num_groups") or isinstance(module, Norm):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                if tensor.is_floating_point():
                    tensor.add_(0.4 * torch.rand_like(tensor) - (0 if name == "running_var" else 0.2))
    return model


def network(name: str) -> nn.Module:
    """A model of timm, or of torchvision as `torchvision/<name>`, with seven classes and random weights."""
    torch.manual_seed(0)
    if name.startswith("torchvision/"):
        return randomise(torchvision.models.get_model(name.removeprefix("torchvision/"), num_classes=7))
    return randomise(timm.create_model(name, num_classes=7, drop_rate=0.0))
