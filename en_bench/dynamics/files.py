"""The record of every sample of a training: Parquet files in the run's folder, and how to read them.

`<run>/dynamics/epoch=00003/rank=00000-step=00000120.parquet` holds what one rank recorded of epoch 3 (counted from 0)
until 120 batches of the training were done, since the file before. A row is a sample in an epoch:

    row        int32    row in the index of the training split
    step       int32    batch of the training that it was in, from 0
    target     int32    label that trained
    predicted  int32    class of the largest logit; -1 where a logit was not finite
    loss       float32  cross entropy of the logits against the target, whatever loss trained
    margin     float32  the target's logit minus the largest other
    ratio:<layer>:<normaliser>  float16  of each layer whose ratios depend on the sample

all of the images as they were trained on, before the step's update. The schema's metadata are JSON values: epoch, set,
manifest (digest), labels (column), noise, held_out, classes, seed.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from en_bench.errors import InputError
from en_bench.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "dynamics"
SAMPLE_COLUMNS = ("row", "step", "target", "predicted", "loss", "margin")
_CODED = ["step", "target", "predicted"]  # with few values each; the others' dictionaries would only cost time
_NAME = re.compile(r"epoch=(\d{5,})/rank=(\d{5,})-step=(\d{8,})\.parquet")


def require_pyarrow() -> None:
    """Raises InputError where there is no pyarrow, which reads and writes the files."""
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(
            "per-sample dynamics are Parquet files, which need pyarrow: pip install 'en_bench[noise]'"
        ) from None


def ratio_column(layer: str, normaliser: str) -> str:
    """The column of a normaliser's share in the mixture of a layer, by the layer's qualified name."""
    return f"ratio:{layer}:{normaliser}"


def ratio_columns(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Of a table's column names those of ratios: for each layer, in order, the column of each of its normalisers."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        kind, _, where = name.partition(":")
        layer, separator, normaliser = where.rpartition(":")
        if kind == "ratio" and separator:
            found.setdefault(layer, {})[normaliser] = name
    return found


def file_name(epoch: int, rank: int, step: int) -> str:
    """Within the run's folder of dynamics."""
    return f"epoch={epoch:05d}/rank={rank:05d}-step={step:08d}.parquet"


def write_rows(path: Path, columns: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Writes equally long columns to `path` in one step, whole or not at all; `facts` become the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    table = table.replace_schema_metadata({name: json.dumps(value) for name, value in facts.items()})
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=_CODED)


def files_of(run: Path) -> dict[str, Path]:
    """The files of a run's record, by name, in the order of epoch, rank and step."""
    folder = run / FOLDER
    named = {path.relative_to(folder).as_posix(): path for path in folder.glob("epoch=*/rank=*.parquet")}
    ordered = sorted(
        (tuple(map(int, match.groups())), name) for name in named if (match := _NAME.fullmatch(name)) is not None
    )
    return {name: named[name] for _, name in ordered}


def holds(run: Path, kept: Mapping[str, int]) -> bool:
    """Whether all files of `kept`, by name, are in a run's record with so many bytes."""
    found = {name: path.stat().st_size for name, path in files_of(run).items()}
    return all(found.get(name) == size for name, size in kept.items())


def remove_others(run: Path, kept: Mapping[str, int]) -> None:
    """Removes from a run's record what is not in `kept`, and what a process left that was killed while it wrote."""
    for name, path in files_of(run).items():
        if name not in kept:
            path.unlink()
    for remains in (run / FOLDER).glob("epoch=*/.rank=*"):
        remains.unlink(missing_ok=True)


def set_aside(run: Path) -> Path | None:
    """Renames the record that a former training left in `run`, so that a new one does not mix with it; its new name."""
    folder = run / FOLDER
    if not folder.exists():
        return None
    if not any(folder.rglob("*.parquet")):
        shutil.rmtree(folder)
        return None
    target = next(p for k in itertools.count(1) if not (p := run / f"{FOLDER}.{k}").exists())
    folder.rename(target)
    return target


def read_dynamics(run: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The record of a run's training, sorted by (epoch, row), with the column `epoch` (int32) in front.

    Of a set of millions of samples ask for the columns that are needed: only these are read, epoch by epoch. A column
    that some files lack (ratios recorded in a part of the training) is null there. The record of a run that is still at
    work, or was killed, holds what was written until then.

    Args:
        run: the run's folder.
        columns: some of those in the files (default: all); `epoch` always comes too.

    Raises InputError for a run without a record, for a damaged file, and for a column that no file has.
    """
    require_pyarrow()
    import pyarrow as pa

    files = _required_files(run)
    schemas = {name: _schema(path) for name, path in files.items()}
    there = {field.name: field.type for schema in schemas.values() for field in schema}
    wanted = list(there) if columns is None else [name for name in columns if name != "epoch"]
    if unknown := [name for name in wanted if name not in there]:
        raise InputError(f"{run / FOLDER} has no column '{unknown[0]}': choose from epoch, {', '.join(there)}")
    epochs = []
    for epoch, of_epoch in itertools.groupby(files, key=_epoch):
        needed = {*wanted, "row"}
        parts = [_rows(files[name], [c for c in schemas[name].names if c in needed]) for name in of_epoch]
        table = pa.concat_tables(parts, promote_options="default").sort_by("row")
        for name in wanted:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), there[name]))
        number = pa.repeat(pa.scalar(epoch, pa.int32()), len(table))
        epochs.append(table.select(wanted).add_column(0, "epoch", number))
    return pa.concat_tables(epochs)


def dynamics_facts(run: Path) -> dict[str, Any]:
    """What the record of a run is of: set, manifest, labels, noise, held_out, classes and seed of its first file.

    Raises InputError as `read_dynamics` does.
    """
    require_pyarrow()
    path = next(iter(_required_files(run).values()))
    metadata = _schema(path).metadata or {}
    facts = {key.decode(): json.loads(value) for key, value in metadata.items()}
    return {name: value for name, value in facts.items() if name != "epoch"}


def _required_files(run: Path) -> dict[str, Path]:
    files = files_of(run)
    if not files:
        raise InputError(f"{run} holds no per-sample dynamics: train it with --dynamics.every_n_epochs 1")
    return files


def _epoch(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1])


def _schema(path: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    with _reading(path):
        return pq.read_schema(path)


def _rows(path: Path, columns: list[str]) -> pa.Table:
    import pyarrow.parquet as pq

    with _reading(path), pq.ParquetFile(path) as file:
        return file.read(columns=columns).replace_schema_metadata(None)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        told = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read: {told}: copy the run again, or do without the file") from None
