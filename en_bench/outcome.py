"""What a training or a validation leaves behind: one JSON file, with all that is needed to trust it."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from en_bench import provenance
from en_bench.data.manifest import Manifest, classes_digest
from en_bench.data.module import ShardDataModule
from en_bench.data.variant import variant
from en_bench.errors import InputError
from en_bench.tasks.effective_batch import EffectiveBatch
from en_bench.telemetry.cost import CostMeter, peak_memory_bytes
from en_bench.telemetry.epoch_scores import EpochScores
from en_bench.telemetry.unreadable import Unreadable
from en_bench.telemetry.validation_cost import ValidationCost
from en_bench.trainer import EnBenchTrainer


def digest(*parts: str) -> str:
    """Identity of some texts (sha256, hex)."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def common_facts(command: str, seed: int, config: dict[str, Any], trainer: EnBenchTrainer) -> dict[str, Any]:
    """What both kinds of outcome state."""
    return {
        "command": command,
        "seed": seed,
        "config": config,
        "device": provenance.device_name(trainer.strategy.root_device),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "finished": provenance.now(),
    }


def fit_facts(
    trainer: EnBenchTrainer,
    data: ShardDataModule,
    cost: CostMeter,
    validations: ValidationCost,
    unreadable: Unreadable,
    scores: EpochScores,
) -> dict[str, Any]:
    """Of a training that has ended."""
    assert data.train_manifest is not None and data.val_manifest is not None and data.train_count is not None
    assert data.training_labels is not None
    skipped = unreadable.count(data.train, "train")
    trained = {"n": data.train_count - skipped, "unreadable": skipped}
    held_out = {"share": data.held_out, "n": data.held_out_count}
    if scores.trained_before:
        held_out["trained_before"] = True
    epochs = trainer.fit_loop.position().epoch  # whole ones: Lightning also counts one that was cut short
    return {
        "train": {**_set_facts(data.train, data.train_manifest, data.labels), **trained},
        "val": _set_facts(data.val, data.val_manifest, data.val_column),
        "noise": data.training_labels.facts(),
        "held_out": held_out if data.held_out_count else None,
        "classes_digest": classes_digest(data.classes),
        "epochs": epochs,
        "steps": trainer.global_step,
        "ranks": trainer.world_size,
        "batch": EffectiveBatch(data.batch_size, trainer.world_size, trainer.accumulate_grad_batches).facts(),
        "metrics": _metrics(trainer),
        "accuracies": scores.accuracies(epochs),
        "cost": {
            "seconds": round(cost.seconds, 3),
            "images_per_second": cost.images_per_second,
            "seconds_per_step": cost.seconds_per_step,
            "validation_images_per_second": validations.images_per_second,
            "parameters": sum(p.numel() for p in trainer.lightning_module.parameters()),
            "flops": cost.flops(trainer.lightning_module),
            "peak_memory_bytes": peak_memory_bytes(trainer.strategy.root_device),
        },
    }


def validation_facts(
    trainer: EnBenchTrainer, data: ShardDataModule, cost: ValidationCost, checkpoint: str
) -> dict[str, Any]:
    """Of a validation that has ended. Raises InputError if it scored nothing."""
    assert data.val_manifest is not None
    metrics = {name.removeprefix("val/"): value for name, value in _metrics(trainer).items()}
    facts = _set_facts(data.val, data.val_manifest, data.val_column)
    recalibrated = getattr(trainer.lightning_module, "recalibrated", None)
    n = round(metrics.pop("n", None) or 0)
    unreadable = round(metrics.pop("unreadable", None) or 0)
    if n == 0:
        raise InputError(f"nothing of {data.val} was validated: give --trainer.limit_val_batches more than 0")
    return {
        **facts,
        "n": n,
        "unreadable": unreadable,
        "whole_set": n == facts["n"],
        "classes_digest": classes_digest(data.classes),
        "checkpoint": checkpoint,
        **({"recalibrated": recalibrated} if recalibrated is not None else {}),
        "metrics": metrics,
        "cost": {"seconds": round(cost.seconds, 3), "images_per_second": cost.images_per_second},
    }


def validation_name(data: ShardDataModule, checkpoint: str) -> str:
    """One file name for each set, label column and checkpoint, whatever characters they hold."""
    return f"{data.val.strip('/').replace('/', '-')}-{digest(data.val, data.val_column, checkpoint)[:8]}.json"


def _metrics(trainer: EnBenchTrainer) -> dict[str, float | None]:
    """The last values logged; None for what is not a number, as after a training that diverged."""
    values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _set_facts(name: str, manifest: Manifest, labels: str) -> dict[str, Any]:
    return {
        "set": name,
        "digest": manifest.digest,
        "n": manifest.count,
        "labels": labels,
        "variant": variant(manifest),
    }
