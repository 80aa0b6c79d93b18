"""Replaces the normalisers of a network, and says what that kept and what it lost."""

import inspect
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from en_bench.norms.base import Norm
from en_bench.norms.find import Found, Where, channels, find_norms
from en_bench.norms.fixed import GroupNorm
from en_bench.norms.preserve import preserve, source_of, starts_as
from en_bench.norms.swap_report import Preserved, Swap, SwapReport

__all__ = ["Inherit", "SwapReport", "Where", "swap_norms"]

Inherit = Literal["affine", "preserve", "none"]


def swap_norms(
    model: nn.Module, factory: Callable[[int], Norm], inherit: Inherit = "affine", where: Where | None = None
) -> SwapReport:
    """Replaces, in place, each batch, instance and group normaliser of `model` by `factory(channels)`.

    dtype, device, mode, requires_grad, and an activation or drop layer fused into the old module carry over; so do eps
    and momentum, unless the factory set another than its class's default, and moments over all ranks (SyncBatchNorm),
    where the new module has running ones. A module used at two places stays shared.

    `inherit` says what else the new modules take over:

    - `"affine"`: weight and bias (to each of K rows) and running moments, where both have them.
    - `"preserve"`: the function. Parameters are set so that the network computes what it did before, in training and
      in evaluation, and can still learn all it could; `"affine"` where that is impossible, with the reason reported.
    - `"none"`: neither.

    `where` names the modules to swap: a regular expression that is searched for in their qualified names (`layer[34]`),
    or a function of (name, module). Without it normalisers per position, such as `nn.LayerNorm`, are left; those for
    (N, C, H, W), the LayerNorm2d of timm and torchvision, are swapped where they are named. Response normalisation is
    always left.

    Raises InputError, with the model as it was, for a module that looks like a normaliser and is not known; for a named
    one whose channels come last; and for a `where` that is no regular expression or names nothing to swap.
    """
    if inherit not in get_args(Inherit):
        raise ValueError(f"inherit is {inherit!r}, expected one of {get_args(Inherit)}")
    found, left = find_norms(model, where)
    like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    new_modules: dict[nn.Module, Norm] = {}
    swaps = []
    for each in found:
        new = factory(channels(each))
        if not isinstance(new, Norm):
            raise TypeError(f"factory returned a {type(new).__name__}, expected a Norm")
        swaps.append(_carry_over(each, new, inherit, like))
        new_modules[each.module] = new
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if child in new_modules:
                setattr(parent, child_name, new_modules[child])
    return SwapReport(tuple(swaps), tuple((each.name, each.cls, each.reason) for each in left))


def _carry_over(found: Found, new: Norm, inherit: Inherit, like: Tensor) -> Swap:
    """Makes `new` stand for the old module; `like` has the dtype and device for one without a tensor."""
    old = found.module
    trains = _carry_settings(found, new, like)
    affine, running, preserved, reason = _carry_tensors(found, new, inherit)
    groups = (new.requested_groups, new.groups) if isinstance(new, GroupNorm) else None
    return Swap(
        found.name,
        type(old).__name__,
        type(new).__name__,
        affine,
        running,
        preserved,
        reason,
        lowered=groups if groups is not None and groups[1] < groups[0] else None,
        note=_note(old, trains),
    )


def _carry_settings(found: Found, new: Norm, like: Tensor) -> bool:
    """Everything but values; returns whether the new parameters train."""
    old = found.module
    weight, bias = getattr(old, "weight", None), getattr(old, "bias", None)
    own = (*old.parameters(recurse=False), *old.buffers(recurse=False))
    like = next((tensor for tensor in own if tensor.is_floating_point()), like)
    new.to(like.device, like.dtype)
    new.train(old.training)
    if new.eps == _default(new, "eps"):
        new.eps = old.eps  # type: ignore[assignment]
    if new.tracks_running_moments:
        new.sync = new.sync or _over_ranks(old)
        used = found.kind == "batch" or getattr(old, "running_mean", None) is not None
        if used and hasattr(old, "momentum") and new.momentum == _default(new, "momentum"):
            new.momentum = old.momentum  # type: ignore[assignment]
    # Parameters that only the new module has, a gate's or a mixture's, train where the old weight did.
    trains = weight is None or weight.requires_grad
    new.requires_grad_(trains)
    new.bias.requires_grad_(trains if bias is None else bias.requires_grad)
    for key in ("drop", "act"):
        if isinstance(fused := getattr(old, key, None), nn.Module):
            setattr(new, key, fused)
    return trains


def _carry_tensors(found: Found, new: Norm, inherit: Inherit) -> tuple[bool, bool, Preserved, str]:
    """Whether affine and running moments were taken over, whether the function is preserved, and why not."""
    if inherit == "none":
        return False, False, "no", ""
    old = found.module
    source = source_of(found)
    running = _copy_running(old, new)
    reason = ""
    if inherit == "preserve":
        reason = (source if isinstance(source, str) else preserve(new, source)) or ""
    kept = inherit == "preserve" and not reason
    affine = getattr(old, "weight", None) is not None and (kept or _copy_affine(old, new))
    if isinstance(source, str) or not (kept or (starts_as(new) == source.pool and new.eps == source.eps)):
        return affine, running, "no", reason
    in_training = source.in_training
    if source.pool == "batch" and new.sync and not _over_ranks(old):
        in_training = in_training or "the moments of its own rank"
    if in_training:
        return affine, running, "in evaluation", f"in training it had {in_training}"
    return affine, running, "yes", ""


def _over_ranks(old: nn.Module) -> bool:
    return isinstance(old, nn.SyncBatchNorm) or (isinstance(old, Norm) and old.sync)


def _default(new: Norm, name: str) -> object:
    """What the class gives where nobody asked for a value; None, which no layer has, for a class without one."""
    parameter = inspect.signature(type(new)).parameters.get(name)
    return None if parameter is None else parameter.default


def _copy_running(old: nn.Module, new: Norm) -> bool:
    if getattr(old, "running_mean", None) is None or not new.tracks_running_moments:
        return False
    with torch.no_grad():
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            if getattr(old, key, None) is not None:
                getattr(new, key).copy_(getattr(old, key))
    return True


def _copy_affine(old: nn.Module, new: Norm) -> bool:
    """Copies weight and bias, a single one also to each row of (K, C); False where the shapes do not allow it."""
    weight, bias = getattr(old, "weight", None), getattr(old, "bias", None)
    if weight is None or not (weight.shape == new.weight.shape or weight.numel() == new.num_features):
        return False
    with torch.no_grad():
        for source, target in ((weight, new.weight), (bias, new.bias)):
            if source is not None:
                target.copy_(source if source.shape == target.shape else source.flatten())
    return True


def _note(old: nn.Module, trains: bool) -> str:
    notes = []
    if not trains:
        notes.append("frozen, as before")
    if old._forward_hooks or old._forward_pre_hooks or old._backward_hooks or old._backward_pre_hooks:
        notes.append("hooks lost")
    if getattr(old, "process_group", None) is not None:
        notes.append("moments over the default process group, not its own")
    return ", ".join(notes)
