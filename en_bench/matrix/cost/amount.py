"""How much a cell trains and validates: steps and images, from its overlays and the sizes of its sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from en_bench.data.places import Place, is_remote
from en_bench.errors import InputError
from en_bench.matrix.cost.shape import section, shape_of
from en_bench.matrix.plan import Cell
from en_bench.matrix.records import Json, Record
from en_bench.matrix.spec import Spec

Sizes = Callable[[str], int | None]
"""From a set's name to the number of its samples, None where nothing tells."""


@dataclass(frozen=True)
class Amount:
    """Of one cell: a step is a batch on every rank, `epoch` the steps of an epoch.

    `watched` are the images validated while it trains, `after` those of each validation that follows, by label, and
    `adapted` those that recalibrate the running moments and are then validated (for a normaliser without such moments
    none: this is the most it can be).
    """

    epoch: int
    steps: int
    watched: int
    after: Mapping[str, int]
    adapted: Mapping[str, int]


@dataclass(frozen=True)
class Unknown:
    """Why something cannot be told, in one line, and whether nothing tells what a step takes, which can be measured."""

    reason: str
    no_rate: bool = False


def set_sizes(shards: Place, records: Sequence[Record]) -> Sizes:
    """Of the manifests below `shards`, each read once; of sets that are not here what records counted."""
    counted: dict[str, int] = {}
    for record in records:
        held_out = (record.fit.get("held_out") or {}).get("n", 0)
        for part, more in (("train", held_out), ("val", 0)):
            _count(counted, record.fit.get(part), more)
        for result in record.validate.values():
            _count(counted, result, 0)

    @cache
    def size(name: str) -> int | None:
        if is_remote(shards) or (shards / name).is_dir():
            from en_bench.data.manifest import load_manifest

            try:
                return load_manifest(shards / name).count
            except InputError:  # the run itself says what is wrong with it
                return counted.get(name) if is_remote(shards) else None
        return counted.get(name)

    return size


def amount_of(cell: Cell, spec: Spec, ranks: int, sizes: Sizes) -> Amount | Unknown:
    """What `cell` does on `ranks` ranks.

    With a part held out, its size is the share's expectation: which samples it takes depends on their keys.
    """
    trainer, data = section(cell.config, "trainer"), section(cell.config, "data")
    # A label that stands for each training's own validation set selects none.
    targets = {label: spec.target(label).get("data.val", str(data.get("val"))) for label in spec.validate}
    found: dict[str, int] = {}
    missing: list[str] = []
    for name in dict.fromkeys(
        (str(data.get("train")), str(data.get("val")), *targets.values(), *spec.adapted.values())
    ):
        n = sizes(name)
        if n is None:
            missing.append(name)
        else:
            found[name] = n
    if missing:
        return Unknown(
            f"samples of {', '.join(missing)} unknown: no manifest here, and no record has counted them: prepare the "
            "data (data_scripts; README, Data sets), or say where they lie (--data-root)"
        )
    held_out = round(found[str(data["train"])] * float(data.get("held_out") or 0))
    batch = shape_of(cell.config).batch * ranks
    samples = found[str(data["train"])] - held_out
    epoch = _limited(samples // batch, trainer.get("limit_train_batches"))
    if epoch == 0:
        return Unknown(f"{samples} training samples make no batch of {batch}")
    epochs, most = trainer.get("max_epochs"), _most_steps(trainer)
    if not (isinstance(epochs, int) and epochs >= 0) and most is None:
        return Unknown("no end of the training: its overlays set no trainer.max_epochs")
    steps = epochs * epoch if isinstance(epochs, int) and epochs >= 0 else most
    steps = steps if most is None or steps is None else min(steps, most)
    assert steps is not None
    limit = trainer.get("limit_val_batches")
    per_validation = _limited_samples(found[str(data["val"])] + held_out, limit, data, ranks)
    after = {label: _limited_samples(found[name], limit, data, ranks) for label, name in targets.items()}
    return Amount(
        epoch,
        steps,
        _validations(trainer, steps, epoch) * per_validation,
        after,
        {label: found[split] + after[label] for label, split in spec.adapted.items()},
    )


def _count(counted: dict[str, int], part: Json | None, more: int) -> None:
    if part and isinstance(part.get("n"), int) and part.get("whole_set") is not False:
        counted[str(part.get("set"))] = part["n"] + int(part.get("unreadable") or 0) + more


def _most_steps(trainer: Json) -> int | None:
    """Batches that trainer.max_steps, which counts updates, leaves."""
    most = trainer.get("max_steps")
    return most * int(trainer.get("accumulate_grad_batches") or 1) if isinstance(most, int) and most >= 0 else None


def _validations(trainer: Json, steps: int, epoch: int) -> int:
    """How often a training validates."""
    interval = trainer.get("val_check_interval")
    if isinstance(interval, int) and interval > 0:
        return steps // interval
    often = round(1 / interval) if isinstance(interval, float) and 0 < interval < 1 else 1
    every = trainer.get("check_val_every_n_epoch") or 1
    return steps // epoch // int(every) * often


def _limited(batches: int, limit: object) -> int:
    if isinstance(limit, float):
        return int(batches * limit)
    return min(batches, limit) if isinstance(limit, int) else batches


def _limited_samples(samples: int, limit: object, data: Json, ranks: int) -> int:
    if limit is None:
        return samples
    batch = int(data.get("val_batch_size") or data.get("batch_size") or 1) * ranks
    return min(samples, _limited(-(-samples // batch), limit) * batch)
