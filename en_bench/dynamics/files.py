"""The record of every sample of a training: Parquet files in the run's folder, and how to read them.

`<run>/dynamics/epoch=00003/rank=00000-step=00000120.parquet` holds what one rank recorded of epoch 3 (counted from 0)
until 120 batches of the training were done, since the file before. A row is a sample in an epoch:

    row        int32    row in the index of the training split
    step       int32    batch of the training that it was in, from 0
    target     int32    label that trained
    predicted  int32    class of the largest logit; -1 where a logit was not finite
    loss       float32  cross entropy of the logits against the target, whatever loss trained
    margin     float32  the target's logit minus the largest other
    ratio:<layer>:<normaliser>  float32  of each layer whose ratios depend on the sample

all of the images as they were trained on, before the step's update. The schema's metadata are JSON values: epoch, set,
manifest (digest), labels (column), noise, held_out, classes, seed.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from en_bench.errors import InputError, message_of
from en_bench.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "dynamics"
_CODED = ["step", "target", "predicted"]  # with few values each; the others' dictionaries would only cost time
_NAME = re.compile(r"epoch=(\d{5,})/rank=(\d{5,})-step=(\d{8,})\.parquet")
_REMAINS = re.compile(r"epoch=\d{5,}/\.rank=\d{5,}-step=\d{8,}\.parquet\.\w+")  # of `replacing`, cut off
_EPOCH = re.compile(r"epoch=\d{5,}")


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
    named = _named(run, "rank=*.parquet")
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
    _remove_remains(run)


def set_aside(run: Path, number: int) -> Path | None:
    """Renames the record that a former training left in `run`, so that a new one does not mix with it; its new folder.

    That is `dynamics.<number>`, or `dynamics.<number>.2` and so on where that is taken. What is no file of a record
    stays where it is, and with it the folder.
    """
    folder, files = run / FOLDER, files_of(run)
    removed = _remove_remains(run)
    if not files:
        if removed:
            _remove_empty(folder)
        return None
    names = itertools.chain([f"{FOLDER}.{number}"], (f"{FOLDER}.{number}.{k}" for k in itertools.count(2)))
    target = next(path for name in names if not (path := run / name).exists())
    if _is_nothing_but(folder, files):
        folder.rename(target)
        return target
    for name, path in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(target / name)
    _remove_empty(folder)
    return target


def _named(run: Path, pattern: str) -> dict[str, Path]:
    """The regular files of a run's record's epochs that match `pattern`, by name within the record."""
    folder = run / FOLDER
    return {p.relative_to(folder).as_posix(): p for p in folder.glob(f"epoch=*/{pattern}") if p.is_file()}


def _remove_remains(run: Path) -> bool:
    """Removes what a process left that was killed while it wrote; whether there was anything."""
    remains = [path for name, path in _named(run, ".rank=*").items() if _REMAINS.fullmatch(name)]
    for path in remains:
        path.unlink(missing_ok=True)
    return bool(remains)


def _is_nothing_but(folder: Path, files: Mapping[str, Path]) -> bool:
    """Whether there is nothing in `folder` but these files and their folders."""
    ours = {*files.values(), *(path.parent for path in files.values())}
    return all(path in ours or _is_empty_epoch(path) for path in folder.rglob("*"))


def _remove_empty(folder: Path) -> None:
    """Removes the empty folders of epochs, and then `folder` itself if nothing is left in it."""
    for path in list(folder.iterdir()):
        if _is_empty_epoch(path):
            path.rmdir()
    if not any(folder.iterdir()) and not folder.is_symlink():
        folder.rmdir()


def _is_empty_epoch(path: Path) -> bool:
    named = _EPOCH.fullmatch(path.name) is not None and path.parent.name == FOLDER
    return named and path.is_dir() and not path.is_symlink() and not any(path.iterdir())


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
        table = _joined(run, parts).sort_by("row")
        for name in wanted:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), there[name]))
        number = pa.repeat(pa.scalar(epoch, pa.int32()), len(table))
        epochs.append(table.select(wanted).add_column(0, "epoch", number))
    return _joined(run, epochs)


def _joined(run: Path, tables: Sequence[pa.Table]) -> pa.Table:
    """One below the other, each column with the widest of its types."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        told = message_of(error)
        raise InputError(f"{run / FOLDER} has files that do not fit together: {told}: copy the run again") from None


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
        schema = pq.read_schema(path)
    if "row" not in schema.names:
        raise InputError(f"{path} has no column 'row', so is of no record: do without it, or copy the run again")
    return schema


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
        told = message_of(error)
        raise InputError(f"{path} cannot be read: {told}: copy the run again, or do without the file") from None
