"""Tables for programs, as Parquet: with the types that CSV does not keep."""

from __future__ import annotations

import io

from en_bench.errors import InputError
from en_bench.report.sheet import Frame


def to_parquet(frame: Frame) -> bytes:
    """A Parquet file of a frame; null where there is no value. Raises InputError where there is no pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("--format parquet needs pyarrow: pip install 'en_bench[noise]', or use csv") from None
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in frame.columns.items()])
    columns = list(zip(*frame.rows, strict=True)) or [()] * len(frame.columns)
    texts = [kind is str for kind in frame.columns.values()]
    arrays = [
        pa.array([None if value is None else str(value) for value in values] if text else values, field.type)
        for values, text, field in zip(columns, texts, schema, strict=True)
    ]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), stream)
    return stream.getvalue()
