"""The state of a split folder that is being filled, in its subfolder `.preparing`.

    lock        held by the process that fills a local folder
    plan.json   what is being made: options, classes, a fingerprint of the samples, the number of shards
    part-N.json what shard N holds, written after the shard

A split is whole when its manifest.json is there, which is written last; `.preparing` goes after it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from en_bench.data.manifest import MANIFEST_NAME, PREPARING, Shard
from en_bench.data.places import Place, is_remote, names_in, read_bytes, remove, shown, size_of, write_file
from en_bench.data.shard_task import Part, part_name
from en_bench.errors import InputError

_LOCK_NAME = "lock"
_PLAN_NAME = "plan.json"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what shared folders without locks answer


def read_plan(folder: Place) -> dict[str, Any] | None:
    """The plan of an interrupted preparation in a split folder, None if there is none. Raises OSError."""
    if _PLAN_NAME not in names_in(folder / PREPARING):
        return None
    try:
        plan = json.loads(read_bytes(folder / PREPARING / _PLAN_NAME))
    except ValueError:
        return {}
    return plan if isinstance(plan, dict) else {}


def write_plan(folder: Place, plan: dict[str, Any]) -> None:
    """Raises OSError."""
    write_file(folder / PREPARING / _PLAN_NAME, json.dumps(plan, indent=1, sort_keys=True).encode())


def read_parts(folder: Place, shards: int) -> dict[int, Part]:
    """The parts that are done, by the number of their shard. Raises OSError."""
    names = set(names_in(folder / PREPARING))
    present = set(names_in(folder))

    def is_whole(shard: Shard) -> bool:
        return shard.name in present and (is_remote(folder) or size_of(folder / shard.name) == shard.bytes)

    parts = {}
    for number in range(shards):
        if part_name(number) in names:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # not ours: that shard is made again
                part = Part.from_json(read_bytes(folder / PREPARING / part_name(number)))
                if part.shard is None or is_whole(part.shard):
                    parts[number] = part
    return parts


def clear(folder: Place) -> None:
    """Removes `.preparing`, and the folder itself where nothing else is in it. Raises OSError."""
    names = names_in(folder / PREPARING)
    for name in sorted(names, key=lambda name: name in (_PLAN_NAME, _LOCK_NAME)):  # the plan last, then the lock
        remove(folder / PREPARING / name)
    if not is_remote(folder):
        with contextlib.suppress(OSError):  # not empty, or gone
            (folder / PREPARING).rmdir()
            folder.rmdir()


def sweep(folder: Place) -> None:
    """Removes the unfinished files that a killed run left in `.preparing`. Raises OSError."""
    for name in names_in(folder / PREPARING):
        if name not in (_LOCK_NAME, _PLAN_NAME) and not (name.startswith("part-") and name.endswith(".json")):
            remove(folder / PREPARING / name)


@contextlib.contextmanager
def alone_in(folder: Place) -> Iterator[None]:
    """Keeps a second process out of a local folder; the system drops the lock with the process.

    On shared folders that have no locks, and for URLs, nothing is kept out. Raises InputError if another process is
    writing the folder, OSError if the folder cannot be made.
    """
    if is_remote(folder):
        yield
        return
    (folder / PREPARING).mkdir(parents=True, exist_ok=True)
    path = folder / PREPARING / _LOCK_NAME
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{shown(folder)}: another process is writing it: wait for it, or stop it") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        # Between opening and locking, the other process may have finished and removed its state.
        if not path.exists() or path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
            raise InputError(f"{shown(folder)}: another process has just written it: run again")
        yield


def is_finished(folder: Place) -> bool:
    """Whether a split folder has its manifest. Raises OSError."""
    return MANIFEST_NAME in names_in(folder)
