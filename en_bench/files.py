"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from en_bench.lease_guard import require_lease

# A list of numbers as `json.dumps` indents it. No string of JSON holds a line break.
_NUMBERS = re.compile(r"(?<=\[)\n *-?\d[\d.eE+-]*(?:,\n *-?\d[\d.eE+-]*)*\n *(?=\])")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` in one step, once it is whole and on the disk.

    Whoever reads, at any time and after any crash, finds the old or the new. Raises LeaseLost where this process works
    under a lease that was taken over.
    """
    with _beside(path) as (file, temporary):
        yield file
        _finish(file, temporary)
        require_lease()
        os.replace(temporary, path)


def create(path: Path, data: bytes) -> None:
    """Writes `data` to a new file in one step: of several who try it at the same time one succeeds.

    The others, and all later ones, get FileExistsError. Also where locks do not work, as on many shared folders.
    Raises LeaseLost as `replacing` does.
    """
    with _beside(path) as (file, temporary):
        file.write(data)
        _finish(file, temporary)
        require_lease()
        try:
            os.link(temporary, path)
        except FileExistsError:
            # A file server may have made the link though its answer got lost, and was asked twice.
            if os.stat(temporary).st_nlink != 2:
                raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _write_new(path, data)
        os.unlink(temporary)


def _write_new(path: Path, data: bytes) -> None:
    with path.open("xb") as target:
        try:
            target.write(data)
            target.flush()
            os.fsync(target.fileno())
        except BaseException:  # a full disk, say: half a file is none
            path.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """A new file in the folder of `path`, which is removed if anything fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w+b") as file:  # torch's archives are added to
            yield file, temporary
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:  # of a full disk, say
            error.filename = str(path)
        raise


def _finish(file: IO[bytes], temporary: str) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    umask = os.umask(0)  # mkstemp makes files that only their owner can read
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` in one step, as `replacing` does."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """`write_text` of `value` as indented JSON, lists of numbers on one line each.

    NaN and infinities, which JSON lacks, raise ValueError.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")
