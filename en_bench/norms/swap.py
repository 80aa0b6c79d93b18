"""Replaces every normaliser of a network, and says what that kept and what it lost."""

import inspect
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from en_bench.errors import InputError
from en_bench.norms.base import Norm
from en_bench.norms.fixed import BatchNorm, GroupNorm, InstanceNorm

Inherit = Literal["affine", "none"]
Preserved = Literal["yes", "in evaluation", "no"]

# What a layer computes is decided by the class whose forward it runs, so subclasses that leave forward alone need no
# entry and subclasses that change it are not mistaken for their base. Names, not classes: neither timm nor torchvision
# has to be importable.
_SWAPPED = {
    "torch.nn.modules.batchnorm._BatchNorm": "batch",
    "torch.nn.modules.batchnorm.SyncBatchNorm": "batch",
    "timm.layers.norm_act.BatchNormAct2d": "batch",
    "timm.layers.norm_act.SyncBatchNormAct": "batch",
    "timm.layers.norm_act.FrozenBatchNormAct2d": "frozen",
    "torchvision.ops.misc.FrozenBatchNorm2d": "frozen",
    "torch.nn.modules.instancenorm._InstanceNorm": "instance",
    "torch.nn.modules.normalization.GroupNorm": "group",
    "timm.layers.norm.GroupNorm": "group",
    "timm.layers.norm.GroupNorm1": "group",
    "timm.layers.norm_act.GroupNormAct": "group",
    "timm.layers.norm_act.GroupNorm1Act": "group",
}
_PER_POSITION = re.compile(r"timm\.layers\.norm(_act)?\.(LayerNorm|RmsNorm|SimpleNorm)\w*")
_LOOKS_LIKE_NORM = re.compile(r"Norm(?!al)|BN|Bn|Abn|EvoNorm")


@dataclass(frozen=True)
class Swap:
    """One module that was replaced."""

    name: str  # qualified, the first one where the module is shared
    old: str
    new: str
    affine: bool  # weight and bias were copied
    running: bool  # running moments were copied
    preserved: Preserved  # whether the layer computes what it did before
    lowered: tuple[int, int] | None  # the groups asked for and the fewer that divide the channels
    note: str


@dataclass(frozen=True)
class SwapReport:
    """What `swap_norms` did. `left` holds (name, class, reason) of normalisers that stayed."""

    swaps: tuple[Swap, ...]
    left: tuple[tuple[str, str, str], ...]

    @property
    def swapped(self) -> int:
        return len(self.swaps)

    @property
    def preserved(self) -> Preserved:
        """Whether the network computes what it did before: the least that holds for all its layers."""
        order: tuple[Preserved, ...] = ("yes", "in evaluation", "no")
        return max((swap.preserved for swap in self.swaps), key=order.index, default="yes")

    def __str__(self) -> str:
        """A line per kind of swap, and per kind of normaliser that was left."""
        lines = [f"{self.swapped} normalisers swapped, function preserved: {self.preserved}"]
        kinds: dict[tuple[str, ...], list[Swap]] = {}
        for swap in self.swaps:
            kinds.setdefault((swap.old, swap.new, swap.preserved, swap.note), []).append(swap)
        for (old, new, preserved, note), swaps in kinds.items():
            affine, running = sum(swap.affine for swap in swaps), sum(swap.running for swap in swaps)
            lines.append(
                f"{len(swaps):5} {old} -> {new}: affine kept {affine}, running moments kept {running}, "
                f"function preserved: {preserved}" + (f" ({note})" if note else "")
            )
        lowered = Counter(swap.lowered for swap in self.swaps if swap.lowered is not None)
        if lowered:
            counts = ", ".join(f"{asked} -> {got} in {n}" for (asked, got), n in sorted(lowered.items()))
            lines.append(f"      groups lowered to divide the channels: {counts}")
        left: dict[tuple[str, str], list[str]] = {}
        for name, cls, reason in self.left:
            left.setdefault((cls, reason), []).append(name)
        lines += [
            f"{len(names):5} {cls} left, {reason}: {', '.join(names[:2])}{', ...' if len(names) > 2 else ''}"
            for (cls, reason), names in left.items()
        ]
        return "\n".join(lines)


def swap_norms(model: nn.Module, factory: Callable[[int], Norm], inherit: Inherit = "affine") -> SwapReport:
    """Replaces, in place, each batch, instance and group normaliser of `model` by `factory(channels)`.

    dtype, device, mode, requires_grad, and an activation or drop layer fused into the old module carry over; so do eps
    and momentum, unless the factory set another than its class's default. `inherit="affine"` also copies weight and
    bias (to each of K rows) and running moments, where both have them. A module used at two places stays shared.
    Normalisers per position, such as `nn.LayerNorm`, and response normalisation are left.

    Raises InputError, with the model as it was, for a module that looks like a normaliser and is not known.
    """
    if inherit not in get_args(Inherit):
        raise ValueError(f"inherit is {inherit!r}, expected one of {get_args(Inherit)}")
    old_modules, left = _find(model)
    new_modules: dict[int, Norm] = {}
    swaps = []
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    for name, (old, kind) in old_modules.items():
        new = factory(_channels(old, name))
        if not isinstance(new, Norm):
            raise TypeError(f"factory returned a {type(new).__name__}, expected a Norm")
        swaps.append(_carry_over(name, old, kind, new, inherit, device))
        new_modules[id(old)] = new
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if id(child) in new_modules:
                setattr(parent, child_name, new_modules[id(child)])
    return SwapReport(tuple(swaps), tuple(left))


def _find(model: nn.Module) -> tuple[dict[str, tuple[nn.Module, str]], list[tuple[str, str, str]]]:
    """The modules to replace, with their kind, by name; and those to leave."""
    found: dict[str, tuple[nn.Module, str]] = {}
    left = []
    for name, module in model.named_modules():
        cls = type(module).__name__
        if (kind := _kind(module)) is not None:
            found[name] = (module, kind)
        elif (reason := _reason_to_leave(module)) is not None:
            left.append((name, cls, reason))
        elif _LOOKS_LIKE_NORM.search(cls) and _is_leaf(module):
            raise InputError(
                f"{name} ({type(module).__module__}.{cls}) looks like a normaliser, but none that can be swapped: "
                "replace it by a torch.nn normaliser first"
            )
    if "" in found:
        raise InputError("the model is itself a normaliser: put it into an nn.Sequential to have it swapped")
    return found, left


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, Norm):
        return "ours"
    return _SWAPPED.get(_forward_owner(module))


def _reason_to_leave(module: nn.Module) -> str | None:
    owner = _forward_owner(module)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) or _PER_POSITION.fullmatch(owner):
        return "per position"
    if isinstance(module, nn.LocalResponseNorm | nn.CrossMapLRN2d) or owner == "timm.layers.grn.GlobalResponseNorm":
        return "response normalisation"
    return None


def _forward_owner(module: nn.Module) -> str:
    owner = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    return f"{owner.__module__}.{owner.__qualname__}"


def _is_leaf(module: nn.Module) -> bool:
    """False for a container such as ConvNormAct, whose parameters sit in layers that are no normalisers."""
    children = [child for child in module.modules() if child is not module]
    owns = any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False))
    knows = any(_kind(child) is not None or _reason_to_leave(child) is not None for child in children)
    other = any(_kind(child) is None and any(True for _ in child.parameters(recurse=False)) for child in children)
    parametrises = type(module).__module__.startswith("torch.nn.utils.")
    return not parametrises and not other and (owns or not knows)


def _channels(old: nn.Module, name: str) -> int:
    if any(nn.parameter.is_lazy(parameter) for parameter in old.parameters(recurse=False)):
        raise InputError(f"{name} is a lazy normaliser without channels yet: run the model once before swapping")
    counts = (getattr(old, key, None) for key in ("num_features", "num_channels"))
    # FrozenBatchNorm2d keeps no count.
    return int(next((count for count in counts if count is not None), None) or len(old.weight))  # type: ignore[arg-type]


def _carry_over(name: str, old: nn.Module, kind: str, new: Norm, inherit: Inherit, device: torch.device) -> Swap:
    tensors = {key: getattr(old, key, None) for key in ("weight", "bias", "running_mean", "running_var")}
    weight, bias, running_mean, _ = tensors.values()
    like = next((tensor for tensor in tensors.values() if tensor is not None), None)
    if like is None:
        new.to(device)
    else:
        new.to(like.device, like.dtype)
    new.train(old.training)
    if new.eps == _default(new, "eps"):
        new.eps = old.eps  # type: ignore[assignment]
    used = new.tracks_running_moments and (kind == "batch" or running_mean is not None) and hasattr(old, "momentum")
    if used and new.momentum == _default(new, "momentum"):
        new.momentum = old.momentum  # type: ignore[assignment]
    for key in ("drop", "act"):
        if isinstance(fused := getattr(old, key, None), nn.Module):
            setattr(new, key, fused)

    # Parameters that only the new module has, a gate's or a mixture's, train where the old weight did.
    trains = weight is None or weight.requires_grad
    for parameter in new.parameter_tensors():
        parameter.requires_grad_(trains)
    new.bias.requires_grad_(trains if bias is None else bias.requires_grad)

    affine = inherit == "affine" and weight is not None and _copy(weight, new.weight)
    if affine and bias is not None:
        _copy(bias, new.bias)
    running = inherit == "affine" and running_mean is not None and new.tracks_running_moments
    if running:
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            if getattr(old, key, None) is not None:
                _copy(getattr(old, key), getattr(new, key))
    kept = affine or (inherit == "affine" and weight is None)
    preserved = _preserved(kind, old, new) if kept else "no"
    groups = (new.requested_groups, new.groups) if isinstance(new, GroupNorm) else None
    return Swap(
        name,
        type(old).__name__,
        type(new).__name__,
        affine,
        running,
        preserved,
        lowered=groups if groups is not None and groups[1] < groups[0] else None,
        note=_note(old, trains),
    )


def _default(new: Norm, name: str) -> object:
    """What the class gives where nobody asked for a value; None, which no layer has, for a class without one."""
    parameter = inspect.signature(type(new)).parameters.get(name)
    return None if parameter is None else parameter.default


def _copy(source: Tensor, target: Tensor) -> bool:
    """Copies (C,) to (C,) or to each row of (K, C); False where the shapes do not allow it."""
    if source.ndim > target.ndim or any(
        a not in (1, b) for a, b in zip(reversed(source.shape), reversed(target.shape), strict=False)
    ):
        return False
    with torch.no_grad():
        target.copy_(source)
    return True


def _preserved(kind: str, old: nn.Module, new: Norm) -> Preserved:
    """Whether `new`, with all of `old` that fits, computes what `old` did."""
    tracks = getattr(old, "running_mean", None) is not None
    if type(new) is BatchNorm and tracks and (kind != "ours" or type(old) is BatchNorm):
        # In training a frozen one used its running moments, a synchronised one the moments of all ranks, an instance
        # norm those of each sample.
        alike = kind in ("batch", "ours") and not isinstance(old, nn.SyncBatchNorm)
        return "yes" if alike else "in evaluation"
    groups = _groups(new, new.num_features)
    return "yes" if not tracks and groups is not None and groups == _groups(old, new.num_features) else "no"


def _groups(norm: nn.Module, channels: int) -> int | None:
    """The groups of channels that share moments within a sample; None for what is no group or instance norm."""
    if isinstance(norm, InstanceNorm | nn.modules.instancenorm._InstanceNorm):
        return channels
    return getattr(norm, "num_groups", getattr(norm, "groups", None))


def _note(old: nn.Module, trains: bool) -> str:
    notes = []
    if not trains:
        notes.append("frozen, as before")
    if old._forward_hooks or old._forward_pre_hooks or old._backward_hooks:
        notes.append("hooks lost")
    return ", ".join(notes)
