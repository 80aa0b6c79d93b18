"""Which process of which machine: so that another one tells whether it still runs."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


@cache
def this_machine() -> str:
    """Names the processes that can see each other: the machine since it was started, and the container.

    With the host's name, as machines that were copied while they ran were started as one.
    """
    boot = _read("/proc/sys/kernel/random/boot_id")
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {boot} {space}"


def this_process() -> list[int | str]:
    """The process and when it was started, as numbers of processes are used again."""
    return [os.getpid(), _started(os.getpid())]


def is_running(process: object) -> bool:
    """Whether the process that `this_process` told of, on this machine, still runs."""
    if not isinstance(process, list) or len(process) != 2 or not isinstance(process[0], int):
        return True  # nothing says that it does not
    number, started = process
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now = _started(number)
    if not now or not started:  # not Linux, or /proc hides the processes of other users: silence decides
        return True
    return now == started and _state(number) != "Z"


def is_at_work(process: object) -> bool:
    """Whether the process, on this machine, is seen to run, and is not stopped: by Ctrl-Z, or as a suspended job.

    False where that cannot be seen: not Linux, or /proc hides the processes of other users.
    """
    return is_running(process) and isinstance(process, list) and _state(process[0]) not in ("", "T", "t")


def _fields(process: int) -> list[str]:
    """Of /proc/N/stat from the state on: what comes before it may hold any character."""
    return _read(f"/proc/{process}/stat").rpartition(")")[2].split()


def _started(process: int) -> str:
    fields = _fields(process)
    return fields[19] if len(fields) > 19 else ""


def _state(process: int) -> str:
    fields = _fields(process)
    return fields[0] if fields else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:  # not Linux
        return ""
