"""Tables for programs, as Parquet: with the types that CSV does not keep."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from en_bench.errors import InputError
from en_bench.report.sheet import Frame


def to_parquet(frame: Frame) -> bytes:
    """A Parquet file of a frame; null where there is no value. Raises InputError where there is no pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("--format parquet needs pyarrow: pip install 'en_bench[noise]', or use csv") from None
    columns = list(zip(*frame.rows, strict=True)) or [()] * len(frame.columns)
    arrays = [pa.array(_of_one_type(values)) for values in columns]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, names=list(frame.columns)), stream)
    return stream.getvalue()


def _of_one_type(values: tuple[Any, ...]) -> list[object]:
    """Whole numbers beside others become fractional, anything else beside others text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return list(values)
    convert: Callable[[Any], object] = float if kinds == {int, float} else str
    return [None if value is None else convert(value) for value in values]
