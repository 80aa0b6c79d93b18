"""`en-bench norms table`: what each normaliser costs in a network, beside the network as it is built."""

from __future__ import annotations

import copy
import inspect
import statistics
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from en_bench import backbones, norms, provenance
from en_bench.errors import InputError
from en_bench.norms import Norm, swap_norms
from en_bench.norms.cost import bytes_kept, input_shapes, network_flops, norm_flops, parameters, step_seconds

NUM_CLASSES = 1000
_VERSIONS = ("en_bench", "torch", "torchvision", "timm", "python")


@dataclass(frozen=True)
class Setting:
    """What is measured, on what: images (batch, 3, size, size) in `dtype`, narrow ones by autocast, channels_last."""

    model: str
    batch: int
    size: int
    dtype: torch.dtype
    device: torch.device
    repeats: int  # 0 times nothing

    def autocast(self) -> AbstractContextManager[Any]:
        narrow = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype) if narrow else nullcontext()


@dataclass(frozen=True)
class Row:
    """The costs of one network. Counts are per network; FLOPs of a training forward, per image."""

    label: str
    layers: int
    norm_parameters: int
    parameters: int
    norm_flops: float | None  # None for layers that are not ours
    flops: float | None
    bytes_kept: int
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows, the first of which is the network as built, which the others are measured by."""

    setting: Setting
    rows: tuple[Row, ...]


def norm_classes() -> dict[str, type[Norm]]:
    """Every normaliser of the package by its short name: the initials, as in the field (`bn` of BatchNorm)."""
    exported = (getattr(norms, name) for name in norms.__all__)
    classes = [
        cls for cls in exported if inspect.isclass(cls) and issubclass(cls, Norm) and not inspect.isabstract(cls)
    ]
    return {"".join(filter(str.isupper, cls.__name__)).lower(): cls for cls in classes}


def listing() -> str:
    """Every normaliser with its options, its documentation and the keys of its state dict."""
    lines = []
    for short, cls in norm_classes().items():
        options = [str(p.replace(annotation=p.empty)) for p in inspect.signature(cls).parameters.values()]
        keys = ", ".join(f"{key} {tuple(value.shape)}" for key, value in cls(64).state_dict().items())  # type: ignore[call-arg]
        paragraphs = textwrap.indent(inspect.getdoc(cls) or "", "    "), f"    Keys, at 64 channels: {keys}"
        lines += [f"{short}  {cls.__name__}({', '.join(options)})", "", *paragraphs, ""]
    return "\n".join(lines)


def chosen(names: str) -> list[type[Norm]]:
    """The classes that a list such as `bn,en` or `BatchNorm,ExemplarNorm` names, or `all`; InputError for others."""
    known = norm_classes()
    if names == "all":
        return list(known.values())
    found = {**known, **{cls.__name__.lower(): cls for cls in known.values()}}
    classes = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name.lower() not in found:
            listed = ", ".join(f"{short} ({cls.__name__})" for short, cls in known.items())
            raise InputError(f"--norms: unknown normaliser {name!r}: choose from {listed}, or all")
        classes.append(found[name.lower()])
    if not classes:
        raise InputError("--norms names no normaliser: give a list such as bn,en, or all")
    return list(dict.fromkeys(classes))


def measure(setting: Setting, classes: Sequence[type[Norm]], say: Callable[[str], None]) -> Table:
    """Builds the network, swaps each normaliser into a copy, and measures all; `say` is told what takes time.

    Raises InputError for a network that is not known or has no normaliser to swap, and for images that it cannot take.
    """
    built = backbones.build(setting.model, NUM_CLASSES)
    variants: dict[str, nn.Module] = {}
    for cls in classes:
        variants[cls.__name__] = network = copy.deepcopy(built)
        report = swap_norms(network, cls)
        if not report.swapped:
            raise InputError(f"{setting.model} has no normaliser to swap: choose another model")
    names = [swap.name for swap in report.swaps]
    kinds = Counter(type(built.get_submodule(name)).__name__ for name in names)
    image = torch.empty(setting.batch, 3, setting.size, setting.size, device="meta")
    on_meta = copy.deepcopy(built).to("meta")
    try:
        products = network_flops(on_meta, image)  # also the first to find a map too small for a kernel
        shapes = input_shapes(on_meta, names, image)
    except (ValueError, RuntimeError) as error:
        raise InputError(_unfit(setting, error)) from error
    x = torch.randn(image.shape, device=setting.device).contiguous(memory_format=torch.channels_last)
    networks = {f"as built ({', '.join(kinds)})": built, **variants}
    say(f"memory of {len(networks)} networks (the first use of a normaliser compiles it)")
    try:
        rows = [_row(setting, label, network, x, products, shapes) for label, network in networks.items()]
        if setting.repeats:
            say(f"times of {len(networks)} networks, {setting.repeats} steps each")
            seconds = step_seconds(networks, x, setting.repeats, setting.autocast)
            rows = [replace(row, seconds=tuple(seconds[row.label])) for row in rows]
    except (ValueError, torch.OutOfMemoryError) as error:
        raise InputError(_unfit(setting, error)) from error
    return Table(setting, tuple(rows))


def _unfit(setting: Setting, error: Exception) -> str:
    return (
        f"{setting.model} cannot be measured on {setting.batch} images of {setting.size} px in {_name(setting.dtype)}: "
        f"{str(error).splitlines()[0]}"
    )


def _row(
    setting: Setting, label: str, network: nn.Module, x: Tensor, products: int, shapes: dict[str, list[torch.Size]]
) -> Row:
    """The costs of a network but for its times; `shapes` are the inputs of each normaliser, by name."""
    network.to(setting.device).to(memory_format=torch.channels_last).train()
    layers = {name: network.get_submodule(name) for name in shapes}
    counted: int | None = 0
    for name, layer in layers.items():
        if isinstance(layer, Norm) and counted is not None:
            counted += sum(norm_flops(layer, shape) for shape in shapes[name])
        else:
            counted = None
    return Row(
        label,
        layers=len(layers),
        norm_parameters=parameters(layers.values()),
        parameters=parameters([network]),
        norm_flops=_divided(counted, by=setting.batch),
        flops=_divided(None if counted is None else products + counted, by=setting.batch),
        bytes_kept=bytes_kept(network, x, setting.autocast),
    )


def _divided(value: int | None, by: int) -> float | None:
    return None if value is None else value / by


def to_text(table: Table) -> str:
    """The table as aligned text, with what it was measured on and how above and below."""
    setting, (built, *_) = table.setting, table.rows
    head = ["normaliser", "layers", "parameters", "of network", "MFLOPs", "of network", "kept MB", "x"]
    lines = [head + (["step ms", "x", "(min - max)"] if setting.repeats else [])]
    for row in table.rows:
        cells = [
            row.label,
            f"{row.layers}",
            f"{row.norm_parameters:,}",
            f"{row.parameters:,}",
            "-" if row.norm_flops is None else f"{row.norm_flops / 1e6:,.2f}",
            "-" if row.flops is None else f"{row.flops / 1e6:,.1f}",
            f"{row.bytes_kept / 1e6:,.1f}",
            f"{row.bytes_kept / built.bytes_kept:.3f}",
        ]
        if setting.repeats:
            ratios = _ratios(row, built)
            cells += [
                f"{statistics.median(row.seconds) * 1e3:,.1f}",
                f"{statistics.median(ratios):.2f}",
                f"({min(ratios):.2f} - {max(ratios):.2f})",
            ]
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = [
        "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
        for cells in lines
    ]
    return "\n".join([_on_what(setting), "", *body, "", *_how(setting), ""])


def _ratios(row: Row, built: Row) -> list[float]:
    """Each step by the step of the network as built in the same turn, which the machine's other work met alike."""
    return [own / other for own, other in zip(row.seconds, built.seconds, strict=True)]


def _on_what(setting: Setting) -> str:
    versions = ", ".join(f"{name} {provenance.versions().get(name)}" for name in _VERSIONS)
    return (
        f"{setting.model}, {setting.batch} images of {setting.size}x{setting.size}, {_name(setting.dtype)}"
        f"{' autocast' if setting.dtype != torch.float32 else ''}, channels_last\n"
        f"{provenance.device_name(setting.device)}; {versions}"
    )


def _how(setting: Setting) -> list[str]:
    lines = [
        "MFLOPs: training forward, per image. Normalisers: 7 per value for moments and affine map, and the tables",
        "between, operation by operation (products of matrices 2 per multiplication, all else 1 per value); the",
        "network adds its convolutions and linear layers. '-': not our layers, so not counted.",
        "kept: what a training forward keeps for backward, each storage once, images included, parameters not.",
    ]
    if setting.repeats:
        lines += [
            f"step: forward and backward, median of {setting.repeats} turns of all networks, after two of warm-up;",
            "its x is the median of the turns' ratios, with the least and the largest.",
        ]
    return [*lines, "x: by the network as built."]


def to_json(table: Table) -> dict[str, Any]:
    """The same as plain values, with every single time."""
    setting, (built, *_) = table.setting, table.rows
    plain = {**asdict(setting), "dtype": _name(setting.dtype), "device": provenance.device_name(setting.device)}
    rows = []
    for row in table.rows:
        median = statistics.median(_ratios(row, built)) if row.seconds else None
        rows.append({**asdict(row), "memory_ratio": row.bytes_kept / built.bytes_kept, "step_ratio": median})
    return {
        "command": "norms table",
        **plain,
        "memory_format": "channels_last",
        "rows": rows,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "finished": provenance.now(),
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def device_called(name: str) -> torch.device:
    """The device `name`, if it is there; InputError otherwise."""
    try:
        device = torch.device(name)
        Tensor([0.0]).to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"--device {name} cannot be used here ({reason}): give cpu, or a device that is there"
        ) from None
    return device
