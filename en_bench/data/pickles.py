"""Arrays out of pickles of strangers: CIFAR's batches, and label files (.pt, .npy) beside them.

A pickle is a program that may call whatever Python can import. Here every name that it calls is a stand-in of ours
which builds plain arrays; numpy's and torch's own code never sees the file, and any other name ends in an error.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from en_bench.errors import InputError, message_of

MAX_UNPACKED = 2**28  # bytes of a zip's members, each as often as it is read; the labels of a set are a few MB
_CHUNK = 2**20  # bytes unpacked at a time
_ORDERS: dict[str, Literal["<", ">", "="]] = {"<": "<", ">": ">", "=": "=", "|": "="}
_STORAGES = {
    **{"BoolStorage": "?", "ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "i2", "IntStorage": "i4"},
    **{"LongStorage": "i8", "HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8"},
}


class _NotAllowed(Exception):  # noqa: N818 - becomes an InputError once the file's name is known
    """What the pickle asks for is none of what label files need. The message says what."""


def read_mapping(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a pickle, in a file of `torch.save` (.pt) or of `numpy.save` (.npy), told by content.

    Keys become str. Values are NDArrays of numbers where they were arrays or torch tensors, numbers where they were
    numpy's scalars; lists, strings and numbers stay as they are. Strings that Python 2 wrote are bytes.

    Args:
        content: of the file.
        where: names the file in errors.

    Raises InputError for a file that is none of these, is cut off, holds no dictionary, or asks for anything but plain
    arrays. Nothing that the file names is imported or called.
    """
    if not content:
        raise InputError(f"{where}: an empty file: download it again")
    try:
        if content.startswith(b"PK\x03\x04"):
            found = _from_zip(content)
        elif content.startswith(b"\x93NUMPY"):
            found = _from_npy(content)
        else:
            found = _unpickled(content)
        if not isinstance(found, Mapping):
            raise _NotAllowed(f"it holds {_kind(found)} without names, not a dictionary of arrays")
        return {_text(key): _plain(value) for key, value in found.items()}
    except _NotAllowed as error:
        raise InputError(f"{where}: {error}: name the file as published") from error
    except MemoryError:
        raise InputError(f"{where}: asks for more memory than there is: name the file as published") from None
    except Exception as error:  # the decoders raise nearly any type on a damaged file
        reason = message_of(error)
        raise InputError(f"{where}: not a whole pickle, .pt or .npy file ({reason}): download it again") from error


def _from_zip(content: bytes) -> Any:
    """What `torch.save` wrote: a pickle `<name>/data.pkl`, the numbers of tensors in `<name>/data/<key>`."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickles = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise _NotAllowed(f"a zip with {len(pickles)} files data.pkl, not one as torch.save makes it")
        root = pickles[0].removesuffix("data.pkl")

        unpacked = 0

        def member(name: str) -> bytes:
            nonlocal unpacked
            info = archive.getinfo(name)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _NotAllowed(f"{name!r} is packed in a way that torch.save does not use")
            held = bytearray()
            # What a member claims to hold need not be true. Asked for a little at a time, zlib unpacks no more; the
            # decompressors of the other methods cannot be asked so.
            with archive.open(info) as file:
                while chunk := file.read(_CHUNK):
                    unpacked += len(chunk)
                    if unpacked > MAX_UNPACKED:
                        raise _NotAllowed(f"its members unpack to more than {MAX_UNPACKED:,} bytes")
                    held += chunk
            return bytes(held)

        order = member(root + "byteorder") if root + "byteorder" in archive.namelist() else b"little"
        byte_order: Literal["<", ">"] = ">" if order == b"big" else "<"
        return _unpickled(member(pickles[0]), lambda key: member(f"{root}data/{key}"), byte_order)


def _from_npy(content: bytes) -> Any:
    """What `numpy.save` wrote: a dictionary (as an array of one object), or columns (a structured array)."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.char == "O":
        values = _unpickled(content[file.tell() :])
        held = values.content if isinstance(values, _Array) else None
        if not isinstance(held, list) or len(held) != 1:
            raise _NotAllowed("its array holds no single dictionary")
        return held[0]
    if dtype.hasobject:
        raise _NotAllowed("its array holds objects among its columns")
    if math.prod(shape) * dtype.itemsize > len(content):
        raise _NotAllowed(f"its header tells of {math.prod(shape):,} numbers, which it does not hold")
    array = np.load(io.BytesIO(content), allow_pickle=False)
    return {name: array[name] for name in dtype.names} if dtype.names else array


def _unpickled(content: bytes, storage: Callable[[str], bytes] | None = None, order: Literal["<", ">"] = "<") -> Any:
    _check_memo(content)
    return _Unpickler(content, storage, order).load()


def _check_memo(content: bytes) -> None:
    """Refuses an index into the unpickler's memo that no honest file needs: its table grows to the largest one."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise _NotAllowed(f"a memo index {argument} in a file of {len(content):,} bytes")


class _Unpickler(pickle.Unpickler):
    """Gives stand-ins for the few names that arrays need, and nothing else."""

    def __init__(self, content: bytes, storage: Callable[[str], bytes] | None, order: Literal["<", ">"]) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")  # as Python 2 wrote them, CIFAR's strings are bytes
        self._storage, self._order = storage, order

    def find_class(self, module: str, name: str, /) -> Any:
        stand_in = _STAND_INS.get((module.replace("numpy._core.", "numpy.core."), name))
        if stand_in is None:
            raise _NotAllowed(f"asks to load {f'{module}.{name}'!r}, which no file of arrays needs; nothing was run")
        return stand_in

    def persistent_load(self, pid: Any, /) -> Any:
        """Numbers of a tensor, which lie beside the pickle."""
        match pid:
            case ("storage", str(name), str(key), str(), int()) if self._storage is not None and name in _STORAGES:
                dtype = np.dtype(_STORAGES[name]).newbyteorder(self._order)
                return _Array(np.frombuffer(self._storage(key), dtype=dtype))
        raise _NotAllowed("refers to something outside the file")


class _Function:
    """A stand-in for a function, on which no pickle can set anything: functions proper have a `__dict__`."""

    __slots__ = ("_work",)
    _work: Callable[..., Any]

    def __init__(self, work: Callable[..., Any]) -> None:
        object.__setattr__(self, "_work", work)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _NotAllowed("sets attributes")

    def __call__(self, *arguments: Any) -> Any:
        return self._work(*arguments)


class _DType:
    """A dtype in the making: numpy calls `dtype("i8", False, True)`, then sets its state with the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        order = _text(state[1])
        if order not in _ORDERS or any(state[2:5]):
            raise _NotAllowed("an array of structures")
        self.order = order

    def numbers(self) -> np.dtype[Any]:
        if self.code[:1] not in ("b", "i", "u", "f") or not self.code[1:].isdigit():
            raise _NotAllowed(f"an array of type {self.code!r}, not of numbers")
        return np.dtype(self.code).newbyteorder(_ORDERS[self.order])


class _Array:
    """An array in the making: numpy makes an empty one, then sets its state (version, shape, dtype, Fortran?, data).

    `content` is None until then, a list in an array of objects. Arrays proper are never in the hands of a pickle.
    """

    __slots__ = ("content",)

    def __init__(self, content: NDArray[Any] | None = None) -> None:
        self.content: NDArray[Any] | list[Any] | None = content

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType) or self.content is not None:
            raise _NotAllowed("an array that numpy did not write")
        if dtype.code[:1] == "O" and isinstance(data, list):
            self.content = data
        else:
            self.content = _filled(data, dtype, shape, "F" if fortran else "C")

    def numbers(self) -> NDArray[Any]:
        if not isinstance(self.content, np.ndarray):
            raise _NotAllowed("an array of objects, not of numbers")
        return self.content


def _filled(data: Any, dtype: _DType, shape: Any, order: str) -> NDArray[Any]:
    """The numbers in `data`, exactly as many as `shape` asks for. A copy, so that it can be used like any array."""
    if not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        raise _NotAllowed("an array that numpy did not write")
    numbers = np.frombuffer(data, dtype=dtype.numbers())
    if any(not isinstance(side, int) or side < 0 for side in shape) or math.prod(shape) != len(numbers):
        raise _NotAllowed(f"an array of shape {shape} with {len(numbers):,} numbers")
    return numbers.reshape(shape, order="F" if order == "F" else "C").copy()


def _dtype(code: Any, *_: Any) -> _DType:
    return _DType(_text(code))


def _array(kind: Any, *_: Any) -> _Array:
    if kind != "ndarray":
        raise _NotAllowed("an array of a kind of its own")
    return _Array()  # the shape that is named here is not made: the state tells it again, with the numbers


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if not isinstance(dtype, _DType):
        raise _NotAllowed("an array that numpy did not write")
    return _Array(_filled(data, dtype, shape, _text(order)))


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _DType):
        raise _NotAllowed("a scalar that numpy did not write")
    return _filled(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2. No other encoding: some grow, some are modules to import."""
    if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
        raise _NotAllowed("an encoding other than latin1")
    return text.encode("latin1")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Array:
    if not isinstance(storage, _Array) or not all(isinstance(n, int) and n >= 0 for n in (offset, *size)):
        raise _NotAllowed("a tensor that torch did not write")
    rows = [math.prod(size[axis + 1 :]) for axis in range(len(size))]
    if any(step != row for step, row, side in zip(stride, rows, size, strict=True) if side > 1):
        raise _NotAllowed("a tensor that is not contiguous")
    return _Array(storage.numbers()[offset : offset + math.prod(size)].reshape(size).copy())


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Function(_dtype),
    ("numpy.core.multiarray", "_reconstruct"): _Function(_array),
    ("numpy.core.multiarray", "scalar"): _Function(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Function(_array_from_buffer),
    ("_codecs", "encode"): _Function(_encode),
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    **{("torch", name): name for name in _STORAGES},
}


def _plain(value: Any) -> Any:
    return value.numbers() if isinstance(value, _Array) else value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise _NotAllowed(f"{_kind(value)} where a name must stand")
    return value


def _kind(value: Any) -> str:
    return "an array" if isinstance(value, _Array | np.ndarray) else f"a value of type {type(value).__name__}"
