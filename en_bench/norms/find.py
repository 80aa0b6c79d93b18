"""Which modules of a network are normalisers, and which of them can be swapped."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from en_bench.errors import InputError
from en_bench.norms.base import Norm

Kind = Literal["batch", "frozen", "instance", "group", "position", "ours"]
Where = str | Callable[[str, nn.Module], bool]

# What a layer computes is decided by the class whose forward it runs, so subclasses that leave forward alone need no
# entry and subclasses that change it are not mistaken for their base. Names, not classes: neither timm nor torchvision
# has to be importable.
_SWAPPED: dict[str, Kind] = {
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
_CHANNELS_FIRST = re.compile(
    r"timm\.layers\.norm(_act)?\.(LayerNorm|RmsNorm|SimpleNorm)\w*2d(Fp32)?|"
    r"torchvision\.models\.convnext\.LayerNorm2d"
)
_LOOKS_LIKE_NORM = re.compile(r"Norm(?!al)|BN|Bn|Abn|EvoNorm")


@dataclass(frozen=True)
class Found:
    """A normaliser to swap, under its qualified name, the first one where the module is shared."""

    name: str
    module: nn.Module
    kind: Kind


@dataclass(frozen=True)
class Left:
    """A normaliser to leave."""

    name: str
    cls: str
    reason: str


def find_norms(model: nn.Module, where: Where | None = None) -> tuple[list[Found], list[Left]]:
    """The normalisers of `model`, each once, in its order: those to swap and those to leave.

    `where` as in `swap_norms`. Raises InputError for a module that looks like a normaliser and is not known, for one
    that `where` names and no normaliser of (N, C, *spatial) can replace, for a `where` that names none, and for a
    model that is itself a normaliser.
    """
    if _kind(model) is not None or _reason_to_leave(model) is not None:
        raise InputError("the model is itself a normaliser: put it into an nn.Sequential to have it swapped")
    names = _matcher(where) if where is not None else None
    qualified: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        qualified.setdefault(module, []).append(name)
    found, left = [], []
    for module, all_names in qualified.items():
        name, cls = all_names[0], type(module).__name__
        kind, reason = _kind(module), _reason_to_leave(module)
        if kind is None and reason is None and not (_LOOKS_LIKE_NORM.search(cls) and _is_leaf(module)):
            continue
        named = None if names is None else any(names(each, module) for each in all_names)
        if reason == "per position" and named:
            if not _CHANNELS_FIRST.fullmatch(_forward_owner(module)):
                raise InputError(
                    f"{name} ({cls}), which where names, normalises the last dimension of (N, ..., C), where no "
                    "normaliser of (N, C, *spatial) fits: let where leave it out"
                )
            found.append(Found(name, module, "position"))
        elif reason is not None:
            left.append(Left(name, cls, reason))
        elif named is False:
            left.append(Left(name, cls, "not named by where"))
        elif kind is not None:
            found.append(Found(name, module, kind))
        else:
            raise InputError(
                f"{name or 'the model'} ({type(module).__module__}.{cls}) looks like a normaliser, but none that can "
                "be swapped: replace it by a torch.nn normaliser first, or let where leave it out"
            )
    if where is not None and not found:
        shown = repr(where) if isinstance(where, str) else "the function given"
        raise InputError(
            f"where, {shown}, names no normaliser to swap" + (f"; the model has {left[0].name}" if left else "")
        )
    return found, left


def channels(found: Found) -> int:
    """The channels that a normaliser takes. Raises InputError for a lazy one that has not met them."""
    name, old = found.name, found.module
    if any(nn.parameter.is_lazy(parameter) for parameter in old.parameters(recurse=False)):
        raise InputError(f"{name} is a lazy normaliser without channels yet: run the model once before swapping")
    if found.kind == "position":
        return int(old.normalized_shape[0])  # type: ignore[index]
    counts = (getattr(old, key, None) for key in ("num_features", "num_channels"))
    # FrozenBatchNorm2d keeps no count.
    return int(next((count for count in counts if count is not None), None) or len(old.weight))  # type: ignore[arg-type]


def _matcher(where: Where) -> Callable[[str, nn.Module], bool]:
    if not isinstance(where, str):
        return where
    try:
        pattern = re.compile(where)
    except re.error as error:
        raise InputError(f"where, {where!r}, is no regular expression: {error}") from None
    return lambda name, _: pattern.search(name) is not None


def _kind(module: nn.Module) -> Kind | None:
    return "ours" if isinstance(module, Norm) else _SWAPPED.get(_forward_owner(module))


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
