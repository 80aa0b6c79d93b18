"""How much a cell trains and validates: steps and images, from its overlays and the sizes of its sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from en_bench.data.places import Place, is_remote
from en_bench.errors import InputError, OutOfReachError
from en_bench.matrix.cost.shape import section, shape_of
from en_bench.matrix.plan import Cell
from en_bench.matrix.records import Json, Record
from en_bench.matrix.spec import Spec

if TYPE_CHECKING:
    from en_bench.data.manifest import Manifest

PREPARE = "prepare the data (data_scripts; README, Data sets), or say where they lie (--data-root)"
"""What to do about sets that are not here."""

_DEFAULT_LABELS = "given"  # of ShardDataModule, which needs torch. A test compares.


@dataclass(frozen=True)
class Sizes:
    """What is known of sets, by their names; None where nothing tells.

    `samples` are all of a set, `labelled` those that have a label in a column (the others do not train), `classes` the
    number of its classes.
    """

    samples: Callable[[str], int | None]
    labelled: Callable[[str, str], int | None] = lambda name, column: None
    classes: Callable[[str], int | None] = lambda name: None


@dataclass(frozen=True)
class Amount:
    """Of one cell: a step is a batch on every rank, `epoch` the steps of an epoch.

    `watched` are the images validated while it trains, `after` those of each validation that follows, by label, and
    `adapted` those that recalibrate the running moments, on one rank, before those of `after` are validated again (for
    a normaliser without such moments none: this is the most it can be).
    """

    epoch: int
    steps: int
    watched: int
    after: Mapping[str, int]
    adapted: Mapping[str, int]


@dataclass(frozen=True)
class Unknown:
    """Why something cannot be told, in one line, and whether nothing tells what a step takes, which can be measured.

    `lacking` are sets of which nothing tells the number of their samples, where that is why.
    """

    reason: str
    no_rate: bool = False
    lacking: tuple[str, ...] = ()


def no_samples(names: Sequence[str]) -> Unknown:
    """Where nothing tells how many samples sets have."""
    told = f"samples of {', '.join(names)} unknown: no manifest here, and no record has counted them: {PREPARE}"
    return Unknown(told, lacking=tuple(names))


def set_sizes(shards: Place, records: Sequence[Record]) -> Sizes:
    """Of the manifests below `shards`, each read once; of sets that are not here what records counted.

    Which samples have a label only records tell, those of the set as it is here. The sizes raise OutOfReachError where
    a URL does not tell, after few tries: somebody waits.
    """
    counted: dict[str, int] = {}
    labelled: dict[tuple[str, str, object], int] = {}  # by set, column and digest, and by the newest record's with None
    for record in sorted(records, key=lambda record: str(record.fit.get("finished", ""))):
        train, val = record.fit.get("train") or {}, record.fit.get("val") or {}
        trained = _counted(train, (record.fit.get("held_out") or {}).get("n", 0))
        validated = [(part, _counted(part)) for part in (val, *record.validate.values())]
        for name, n in ((str(part.get("set")), n) for part, n in [(train, trained), *validated] if n is not None):
            counted[name] = max(n, counted.get(name, 0))  # smaller ones are of samples with a label
        if trained is not None:
            key = str(train.get("set")), str(train.get("labels"))
            labelled[*key, None] = labelled[*key, train.get("digest")] = trained

    @cache
    def manifest(name: str) -> Manifest | None:
        from en_bench.data.fetch import Patience
        from en_bench.data.manifest import load_manifest

        try:
            return load_manifest(shards / name, Patience(tries=3))
        except OutOfReachError:
            raise
        except InputError:  # the run itself says what is wrong with it
            return None

    def is_here(name: str) -> bool:
        return (manifest(name) is not None) if is_remote(shards) else (shards / name).is_dir()

    def samples(name: str) -> int | None:
        if is_here(name):
            return None if (found := manifest(name)) is None else found.count
        return counted.get(name)

    def with_label(name: str, column: str) -> int | None:
        if not is_here(name):
            return labelled.get((name, column, None))
        return None if (found := manifest(name)) is None else labelled.get((name, column, found.digest))

    def classes(name: str) -> int | None:
        return len(found.classes) if is_here(name) and (found := manifest(name)) is not None else None

    return Sizes(samples, with_label, classes)


def amount_of(cell: Cell, spec: Spec, ranks: int, sizes: Sizes) -> Amount | Unknown:
    """What `cell` does on `ranks` ranks.

    With a part held out, its size is the share's expectation: which samples it takes depends on their keys.
    """
    trainer, data = section(cell.config, "trainer"), section(cell.config, "data")
    # A label that stands for each training's own validation set selects none.
    targets = {label: spec.target(label).get("data.val", str(data.get("val"))) for label in spec.validate}
    train, val = str(data.get("train")), str(data.get("val"))
    found = {name: sizes.samples(name) for name in (val, *targets.values(), *spec.adapted.values())}
    labelled = sizes.labelled(train, str(data.get("labels") or _DEFAULT_LABELS))
    if labelled is None:
        labelled = sizes.samples(train)
    counts = {train: labelled, **found}
    known = {name: n for name, n in found.items() if n is not None}
    missing = [name for name, n in counts.items() if n is None]
    if missing or labelled is None:
        return no_samples(missing)
    held_out = round(labelled * float(data.get("held_out") or 0))
    batch = shape_of(cell.config).batch * ranks
    samples = labelled - held_out
    epoch = _limited(samples // batch, trainer.get("limit_train_batches"))
    if epoch == 0:
        return Unknown(f"{samples} training samples make no batch of {batch}")
    epochs, most = trainer.get("max_epochs"), _most_steps(trainer)
    if not (isinstance(epochs, int) and epochs >= 0) and most is None:
        why = "its overlays set no trainer.max_epochs" if epochs is None else f"trainer.max_epochs is {epochs!r}"
        return Unknown(f"no end of the training: {why}")
    steps = epochs * epoch if isinstance(epochs, int) and epochs >= 0 else most
    steps = steps if most is None or steps is None else min(steps, most)
    assert steps is not None
    limit = trainer.get("limit_val_batches")
    # Of two loaders, each of which the limit is for.
    per_validation = sum(_limited_samples(n, limit, data, ranks) for n in (known[val], held_out))
    after = {label: _limited_samples(known[name], limit, data, ranks) for label, name in targets.items()}
    return Amount(
        epoch,
        steps,
        _validations(trainer, steps, epoch) * per_validation,
        after,
        {label: known[split] for label, split in spec.adapted.items()},
    )


def _counted(part: Json, more: int = 0) -> int | None:
    """How many samples a training or validation of a whole set has counted."""
    if not isinstance(part.get("n"), int) or part.get("whole_set") is False:
        return None
    return int(part["n"]) + int(part.get("unreadable") or 0) + more


def _most_steps(trainer: Json) -> int | None:
    """Batches that trainer.max_steps, which counts updates, leaves."""
    most = trainer.get("max_steps")
    return most * int(trainer.get("accumulate_grad_batches") or 1) if isinstance(most, int) and most >= 0 else None


def _validations(trainer: Json, steps: int, epoch: int) -> int:
    """How often a training validates, as Lightning counts: within each epoch, or through all if it says so by null."""
    interval = trainer.get("val_check_interval")
    if isinstance(interval, float):
        interval = max(1, int(epoch * interval))
    between = interval if isinstance(interval, int) and interval > 0 else epoch
    every = trainer.get("check_val_every_n_epoch", 1)
    if every is None:
        return steps // between
    if not isinstance(every, int) or every < 1:
        raise InputError(f"trainer.check_val_every_n_epoch: {every!r} is no whole number of 1 or more")
    epochs, begun = divmod(steps, epoch)
    last = begun // between if (epochs + 1) % int(every) == 0 else 0
    return epochs // int(every) * (epoch // between) + last


def _limited(batches: int, limit: object) -> int:
    if isinstance(limit, float):
        return int(batches * limit)
    return min(batches, limit) if isinstance(limit, int) else batches


def _limited_samples(samples: int, limit: object, data: Json, ranks: int) -> int:
    if limit is None:
        return samples
    batch = int(data.get("val_batch_size") or data.get("batch_size") or 1) * ranks
    return min(samples, _limited(-(-samples // batch), limit) * batch)
