"""Matrices to measure with: a large one whose records are made up, and a small one that trains for real."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning import Trainer
from PIL import Image

from en_bench import provenance
from en_bench.data.images import ImageEncoder
from en_bench.data.module import ShardDataModule
from en_bench.data.sources import Source
from en_bench.data.writer import write_split
from en_bench.matrix.plan import Cell, plan_cells
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec, load_spec
from en_bench.tasks.classification import ClassificationTask

NORMS = ("BatchNorm", "InstanceNorm", "LayerNorm", "GroupNorm", "SwitchNorm", "SparseSwitchNorm", "ExemplarNorm")
_SIZE, _CLASSES = 32, ("dark", "grey", "bright")


@dataclass(frozen=True)
class Shape:
    """How many normalisers, training sets and seeds a matrix has; there are two validation sets."""

    norms: int
    trains: int
    seeds: int

    @property
    def cells(self) -> int:
        return self.norms * self.trains * self.seeds


def large_matrix(folder: Path, shape: Shape, recorded: bool) -> Path:
    """The specification of a matrix of so many normalisers (variants of those of NORMS), sets and seeds.

    With `recorded` each cell has a record beside it in `results`, as long as those of real trainings are.
    """
    norms = [(NORMS[i % len(NORMS)], i // len(NORMS)) for i in range(shape.norms)]
    spec_path = _write_spec(
        folder,
        name="large",
        base={"trainer": {"max_epochs": 90, "devices": 8, "strategy": "ddp", "precision": "bf16-mixed"}}
        | {"model": {"backbone": "timm/resnet50"}, "data": {"batch_size": 32}},
        norms={
            f"{norm}{variant or ''}": {
                "model": {"norm": {"class_path": f"en_bench.norms.{norm}", "init_args": {"eps": 1e-5 * (1 + variant)}}}
            }
            for norm, variant in norms
        },
        train={f"set{i}": {"data": {"train": f"set{i}/train", "val": f"set{i}/val"}} for i in range(shape.trains)},
        validate=["set0", "set1"],
        seeds=list(range(shape.seeds)),
    )
    if recorded:
        spec = load_spec(spec_path)
        results, draw = Results(folder / "results" / spec.name), random.Random(0)
        results.records.mkdir(parents=True)
        for cell in plan_cells(spec):
            # Not by `save`, which waits for the disk.
            results.record(cell.id).write_text(json.dumps(_record(spec, cell, draw).to_json(), indent=1))
    return spec_path


def small_matrix(folder: Path, images: int, epochs: int, seeds: int) -> Path:
    """The specification of a matrix of 2 normalisers and 2 training sets of so many images, which it writes too."""
    for name in ("a", "b"):
        _write_set(folder / "data" / name / "train", images, seed=ord(name))
        _write_set(folder / "data" / name / "val", max(30, images // 5), seed=ord(name) + 100)
    transform = {"class_path": "en_bench.data.transforms.CenterCrop", "init_args": {"size": _SIZE}}
    data = {"batch_size": 64, "val_batch_size": 256, "train_transform": transform, "val_transform": transform}
    trainer = {"max_epochs": epochs, "devices": 1, "accelerator": "cpu", "num_sanity_val_steps": 0}
    return _write_spec(
        folder,
        name="small",
        base={"seed_everything": 0, "trainer": trainer, "model": {"backbone": "cifar/resnet20"}, "data": data},
        norms={norm: {"model": {"norm": norm}} for norm in ("BatchNorm", "ExemplarNorm")},
        train={name: {"data": {"train": f"{name}/train", "val": f"{name}/val"}} for name in ("a", "b")},
        validate=["a", "b"],
        seeds=list(range(seeds)),
    )


def _write_spec(folder: Path, name: str, base: dict[str, Any], **axes: Any) -> Path:
    """With its overlays in files, as specifications have them."""
    folder.mkdir(parents=True, exist_ok=True)

    def file_of(name: str, overlay: dict[str, Any]) -> str:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(overlay))
        return f"{name}.yaml"

    spec: dict[str, Any] = {"name": name, "base": [file_of("base", base)], **axes}
    for axis in ("norms", "train"):
        spec[axis] = {label: file_of(f"{axis}-{label}", overlay) for label, overlay in axes[axis].items()}
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def _record(spec: Spec, cell: Cell, draw: random.Random) -> Record:
    config = _resolved(cell)
    common = {
        "seed": cell.seed,
        "config": config,
        "device": "NVIDIA H100 80GB HBM3",
        "versions": provenance.versions(),
        "commit": {"sha": _digest("commit")[:40], "dirty": False},
        "finished": provenance.now(),
    }

    def counted(name: str, n: int) -> dict[str, Any]:
        return {"set": f"{name}/val", "digest": _digest(name), "n": n, "labels": "given"}

    def validated(label: str) -> dict[str, Any]:
        top1 = draw.random()
        metrics = {"top1": top1, "top5": (1 + top1) / 2, "nll": 2 - top1, "ece": 0.05}
        cost = {"seconds": 20.0, "images_per_second": 2500.0}
        checkpoint = f"results/large/runs/{cell.id}/checkpoints/last.ckpt"
        return {"command": "validate", **counted(label, 50_000), "whole_set": True, "unreadable": 0} | {
            "classes_digest": _digest("classes"),
            "checkpoint": checkpoint,
            "metrics": metrics,
            "cost": cost,
            **common,
        }

    accuracies = {name: {"epoch": 90, "top1": draw.random(), "held_out": None} for name in ("last", "best", "selected")}
    fit = {
        "command": "fit",
        "train": {**counted(cell.train, 1_281_167), "set": f"{cell.train}/train", "unreadable": 0},
        "val": counted(cell.train, 50_000),
        "noise": {"made": None, "changed": None, "wrong": None},
        "held_out": None,
        "classes_digest": _digest("classes"),
        "epochs": 90,
        "steps": 450_360,
        "ranks": 8,
        "metrics": {"train/loss": 1.0, "val/top1": draw.random(), "val/nll": 1.0, "val/ece": 0.05, "val/n": 50_000},
        "accuracies": accuracies,
        "cost": {"seconds": 1e5, "images_per_second": 1200.0 + draw.random(), "parameters": 25_557_032}
        | {"peak_memory_bytes": 2**34},
        "loss": {"class": "CrossEntropy"},
        **common,
    }
    return Record(
        id=cell.id,
        spec=spec.name,
        status="done",
        norm=cell.norm,
        train=cell.train,
        seed=cell.seed,
        overlays=cell.config,
        log=f"runs/{cell.id}/log.txt",
        fit=fit,
        validate={label: validated(label) for label in spec.validate},
        targets={label: spec.target(label) for label in spec.validate},
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _resolved(cell: Cell) -> dict[str, Any]:
    """A configuration as long as those of trainings: all options of the classes, and what the cell sets of them."""
    parts = {"trainer": Trainer, "model": ClassificationTask, "data": ShardDataModule}
    found: dict[str, Any] = {"seed_everything": cell.seed, "result": None, "ckpt_path": None}
    for part, of in parts.items():
        options = inspect.signature(of).parameters.values()
        plain = {o.name: o.default if isinstance(o.default, int | float | str | None) else None for o in options}
        found[part] = {**plain, **cell.config.get(part, {})}
    return found


def _write_set(folder: Path, count: int, seed: int) -> None:
    encoder = ImageEncoder(encoding="png")
    samples = [
        Source(
            key=f"{seed}-{i:06d}",
            labels={"given": i % len(_CLASSES)},
            load=lambda i=i: _image(i % len(_CLASSES), seed * 1_000_000 + i),  # type: ignore[misc]
            origin=f"made up {i}",
        )
        for i in range(count)
    ]
    with contextlib.redirect_stdout(sys.stderr):
        write_split(
            folder,
            samples,
            dataset=folder.parent.name,
            split=folder.name,
            classes=_CLASSES,
            encode=encoder,
            image=encoder.describe(),
            source={"made": "for a benchmark"},
            shards=4,
        )


def _image(label: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 60, (_SIZE, _SIZE, 3)) + 60 * label
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
