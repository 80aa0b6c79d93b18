"""MATLAB files (.mat, version 5) of strangers: their unpacked size is checked before scipy reads them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

_MAX_UNPACKED = 2**26  # bytes; the largest file that is read, meta.mat of ILSVRC 2012, has about 2**21
_HEADER = 128  # bytes before the first element
_COMPRESSED = 15  # the kind of element that zlib has packed


def load_mat(content: bytes, variable_names: Sequence[str]) -> dict[str, Any]:
    """The variables of these names, as far as they are there, without their axes of length one.

    Raises ValueError for what would unpack to far more than a table of classes. scipy raises nearly any type on a file
    that is none of MATLAB's.
    """
    _check_unpacked_size(content)
    from scipy.io import loadmat

    return dict(loadmat(io.BytesIO(content), squeeze_me=True, variable_names=list(variable_names)))


def _check_unpacked_size(content: bytes) -> None:
    order = "<" if content[126:128] == b"IM" else ">"  # as scipy takes it, whatever else stands there
    offset, size = _HEADER, len(content)
    while offset + 8 <= len(content) and size <= _MAX_UNPACKED:
        kind, length = struct.unpack_from(f"{order}II", content, offset)
        offset += 8
        if kind == _COMPRESSED:
            size += len(zlib.decompressobj().decompress(content[offset : offset + length], _MAX_UNPACKED))
        offset += length
    if size > _MAX_UNPACKED:
        raise ValueError(f"unpacks to more than {_MAX_UNPACKED:,} bytes")
