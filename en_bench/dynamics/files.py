"""The record of a training's samples: Parquet files in the run's folder, one per rank and flush."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from en_bench.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "dynamics"


def dynamics_files(run: Path) -> list[Path]:
    """The files of a run's record, by epoch and name."""
    return sorted((run / FOLDER).glob("epoch=*/*.parquet"))


def read_dynamics(run: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The record of `run` as one table, with the column `epoch` (from 0), sorted by epoch and row.

    Raises InputError where there is none, where a file of it cannot be read, and without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(
            "the record of a training's samples is in Parquet files: pip install 'en_bench[noise]'"
        ) from None
    files = dynamics_files(run)
    if not files:
        raise InputError(f"{run / FOLDER} holds no record of samples: train with --dynamics.every_n_epochs 1")
    tables = []
    for file in files:
        epoch = int(file.parent.name.partition("=")[2])
        try:
            table = pq.ParquetFile(file).read(None if columns is None else [c for c in columns if c != "epoch"])
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file} is damaged ({str(error).splitlines()[0]}): train again from its start") from None
        tables.append(table.append_column("epoch", pa.array([epoch] * len(table), pa.int32())))
    joined = pa.concat_tables(tables)
    return joined.sort_by([("epoch", "ascending"), ("row", "ascending")])
