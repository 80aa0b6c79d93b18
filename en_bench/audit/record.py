"""What a training recorded of its samples, checked against the split that is here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from en_bench.audit.ratios import LayerRatios
from en_bench.audit.scores import Floats, Ints
from en_bench.data.manifest import Manifest
from en_bench.data.targets import Targets
from en_bench.dynamics.files import FOLDER, dynamics_facts, files_of, ratio_columns, read_dynamics
from en_bench.errors import InputError
from en_bench.noise.in_words import labels_told

_OTHER_SET = "give --data.root and --data.train of the set that was trained on"
_COLUMNS = ("row", "target", "predicted", "loss", "margin")


@dataclass(frozen=True, eq=False)
class Record:
    """R records, sorted by epoch: one of each sample in each epoch that was recorded.

    Attributes:
        run: folder of the training.
        rows: of the training split.
        epochs: that were recorded, from 1.
        row, predicted: (R,).
        loss, margin: (R,).
        layers: of each layer whose ratios were recorded, the column of each normaliser.
    """

    run: Path
    rows: int
    epochs: tuple[int, ...]
    row: Ints
    predicted: Ints
    loss: Floats
    margin: Floats
    layers: dict[str, dict[str, str]]

    def ratios(self) -> Iterator[LayerRatios]:
        """Those of one layer after the other, each read from the files when it is its turn."""
        for layer, columns in self.layers.items():
            names = list(columns.values())
            table = read_dynamics(self.run, ["row", "epoch", *names])
            row, epoch = (table.column(name).to_numpy() for name in ("row", "epoch"))
            by_epoch = np.full((len(self.epochs), self.rows, len(names)), np.nan, np.float32)
            place = np.searchsorted(np.asarray(self.epochs) - 1, epoch)
            for k, name in enumerate(names):
                by_epoch[place, row, k] = table.column(name).to_numpy()
            there = ~np.isnan(by_epoch)
            sums, counts = np.where(there, by_epoch, 0).sum(0, dtype=np.float64), there.sum(0)
            mean = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0).astype(np.float32)
            yield LayerRatios(layer, tuple(columns), self.epochs, mean, by_epoch)


def read_record(run: Path, manifest: Manifest, name: str, given: Targets, trains: str) -> Record | None:
    """The record of `run`, None if it made none.

    Args:
        run: folder of the training.
        manifest, name: of its training split.
        given: the labels (N,) that the split has here.
        trains: which these are, as `labels_told` tells.

    Raises InputError for files that cannot be read, of another set, or of other labels.
    """
    if not files_of(run):
        return None
    table = read_dynamics(run, [*_COLUMNS, "epoch"])
    facts = dynamics_facts(run)
    found = facts.get("manifest")
    if found != manifest.digest:
        raise InputError(
            f"{run / FOLDER} is of a set with manifest {str(found)[:12]}, {name} here has {manifest.digest[:12]}: "
            f"{_OTHER_SET}"
        )
    row, target = (table.column(column).to_numpy().astype(np.int64) for column in ("row", "target"))
    if len(row) == 0:
        return None
    if row.min() < 0 or row.max() >= manifest.count:
        raise InputError(f"{run / FOLDER} records rows that {name} does not have: {_OTHER_SET}")
    differing = int((given[row] != target).sum())
    if differing:
        trained = labels_told(str(facts.get("labels")), facts.get("noise"))
        which = f"it is of {trained}, here are {trains}: leave --data.labels and --data.noise out"
        raise InputError(
            f"{run / FOLDER}: {differing:,} of {len(row):,} records are of other labels than {name} has here: "
            + (which if trained != trains else f"use the {trained} that the training had")
        )
    loss, margin = (table.column(column).to_numpy().astype(np.float64) for column in ("loss", "margin"))
    epochs = tuple(int(epoch) + 1 for epoch in np.unique(table.column("epoch").to_numpy()))
    predicted = table.column("predicted").to_numpy().astype(np.int64)
    return Record(run, manifest.count, epochs, row, predicted, loss, margin, _layers(run))


def check_same_share(run: Path, held_out: float) -> None:
    """Raises InputError where the record of `run`, if it made one, is of another held-out part."""
    share = dynamics_facts(run).get("held_out", held_out) if files_of(run) else held_out
    if share != held_out:
        raise InputError(
            f"{run / FOLDER} is of a training with a share of {share} held out, here it is {held_out}: use "
            f"--data.held_out {share}, and the checkpoint of that training"
        )


def _layers(run: Path) -> dict[str, dict[str, str]]:
    """Layers whose ratios some file holds, with their columns."""
    import pyarrow.parquet as pq

    names = [name for path in files_of(run).values() for name in pq.read_schema(path).names]
    return ratio_columns(dict.fromkeys(names))
