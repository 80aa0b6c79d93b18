"""What the speed of a training depends on, as far as its overlays say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from en_bench.matrix.records import Json

_DEFAULT_BATCH = 128  # of ShardDataModule, which is not imported here: it needs torch. A test compares.
_DEFAULT_SIZES = {"PadCropFlip": 32, "ResizedCropFlip": 224}
_DEFAULT_BACKBONE = "cifar/resnet20"
_DEFAULT_LOSS = "CrossEntropy"
_REMEMBERING = ("EarlyLearningRegularization",)  # losses with a table of the training set's samples. A test compares.


@dataclass(frozen=True)
class Shape:
    """Trainings of one shape are taken to be equally fast on one kind of device.

    `norm` is the normaliser with its arguments and an attention block, `batch` the images per rank, `ranks` None where
    the overlays leave their number to the machine, `size` the side of the images in pixels, None if unknown. Memory
    formats differ in speed up to twofold, hence `channels_last`. `loss` is the loss with those arguments that switch
    something on (its numbers change no speed), and mixup.
    """

    backbone: str
    norm: str
    batch: int
    ranks: int | None
    size: int | None
    precision: str
    channels_last: bool = True
    loss: str = _DEFAULT_LOSS

    def __str__(self) -> str:
        ranks = "all ranks" if self.ranks is None else f"{self.ranks}"
        size = "" if self.size is None else f" at {self.size}"
        memory = "" if self.channels_last else ", NCHW"
        loss = "" if self.loss == _DEFAULT_LOSS else f", {self.loss}"
        return f"{self.backbone} {self.norm}, {ranks} x {self.batch}{size}, {self.precision}{memory}{loss}"

    @property
    def weights(self) -> tuple[str, str]:
        """What the size of the network in a checkpoint depends on (but for the number of classes)."""
        return self.backbone, self.norm

    @property
    def remembers(self) -> bool:
        """Whether the loss has a table with a row for each sample of the training set, in every checkpoint too."""
        return self.loss.startswith(_REMEMBERING)


def shape_of(config: Json) -> Shape:
    """The shape of the training that merged overlays configure; what they leave open has its default."""
    model, data, trainer = (section(config, name) for name in ("model", "data", "trainer"))
    return Shape(
        backbone=str(model.get("backbone") or _DEFAULT_BACKBONE),
        norm=_norm(model),
        batch=_whole(data.get("batch_size")) or _DEFAULT_BATCH,
        ranks=ranks_of(trainer),
        size=_size(data.get("train_transform")),
        precision=_precision(trainer.get("precision")),
        channels_last=model.get("channels_last") is not False,
        loss=_loss(model),
    )


def ranks_of(trainer: Json) -> int | None:
    """Devices x nodes; None where that is left to the machine."""
    devices = trainer.get("devices")
    if isinstance(devices, list):
        count: int | None = len(devices)
    elif isinstance(devices, str) and "," in devices:
        count = len([part for part in devices.split(",") if part.strip()])
    else:
        count = _whole(devices)
    nodes = _whole(trainer.get("num_nodes", 1))
    return count * nodes if count and nodes else None


def section(config: Json, name: str) -> Mapping[str, Any]:
    """A mapping within a configuration, empty where there is none."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _norm(model: Json) -> str:
    name, arguments = _class(model.get("norm"))
    told = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(arguments.items()))
    parts = [name or "its own", f"({told})" if told else ""]
    parts += [f" + {model['attention']}" if model.get("attention") else ""]
    parts += [f" where {model['where']}" if model.get("where") else ""]
    return "".join(parts)


def _loss(model: Json) -> str:
    name, arguments = _class(model.get("loss"))
    on = [key for key, value in sorted(arguments.items()) if value is True]
    told = f" ({', '.join(on)})" if on else ""
    return f"{name or _DEFAULT_LOSS}{told}" + (" + mixup" if model.get("mixup") else "")


def _size(transform: object) -> int | None:
    name, arguments = _class(transform)
    return _whole(arguments.get("size")) or _DEFAULT_SIZES.get(name or "")


def _class(value: object) -> tuple[str | None, Mapping[str, Any]]:
    """The last part of a class's path and its arguments, whether it is written short or as a mapping."""
    if isinstance(value, str):
        return value.rpartition(".")[2], {}
    if not isinstance(value, Mapping):
        return None, {}
    path = value.get("class_path")
    return None if path is None else str(path).rpartition(".")[2], section(value, "init_args")


def _precision(value: object) -> str:
    text = str(value or "32-true")
    return {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}.get(text, text)


def _whole(value: object) -> int | None:
    """A number above 0, also written as text."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
