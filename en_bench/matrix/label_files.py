"""The files of transition matrices and class maps that a training reads beside its data, told by what they hold."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from en_bench.matrix.records import Json

_PLACES = (  # where a configuration names one, and where the record of the training has its sha256
    (("model", "loss", "init_args", "matrix"), ("loss", "matrix_sha256")),
    (("data", "noise", "init_args", "matrix"), ("noise", "made", "matrix", "sha256")),
    (("data", "noise", "init_args", "mapping"), ("noise", "made", "mapping", "sha256")),
)


def changed_files(fit: Json) -> list[str]:
    """The files that the training behind `fit` has read, and that hold something else now.

    They are looked for where the training looked: as its configuration names them, from the folder of the command. One
    that is not here, or behind a URL, is believed, as sets are that are not here.
    """
    read = [(place, sha256) for place, recorded in _PLACES if (sha256 := _at(fit, recorded)) is not None]
    named = ((_at(fit.get("config"), place), sha256) for place, sha256 in read)
    return [path for path, sha256 in named if _sha256(path) not in (None, sha256)]


def label_files(config: Mapping[str, Any]) -> dict[str, str]:
    """The sha256, hex, of each such file that a configuration names and that is here, by its name there."""
    named = (_at(config, place) for place, _ in _PLACES)
    return {path: sha256 for path in named if (sha256 := _sha256(path)) is not None}


def _at(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _sha256(path: object) -> str | None:
    """None for what names no file here."""
    if not isinstance(path, str):
        return None
    try:
        found = Path(path.removeprefix("file://"))
        if not found.is_file():
            return None
        state = found.stat()
        return _of_bytes(found.absolute(), state.st_mtime_ns, state.st_size)
    except OSError:  # also of a name that is too long; the training itself says what is wrong with it
        return None


@lru_cache
def _of_bytes(path: Path, mtime_ns: int, size: int) -> str:
    """All cells of a matrix share a file: it is read once as long as its time and size stay."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
