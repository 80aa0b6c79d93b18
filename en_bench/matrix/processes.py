"""Which process of which machine: so that another one tells whether it still runs."""

from __future__ import annotations

import os
import socket
from enum import Enum
from functools import cache
from pathlib import Path

_STARTED = 19  # of the fields of /proc/N/stat from the state on


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


class Condition(Enum):
    """What can be seen of a process."""

    RUNS = "it runs, or waits for something"
    STOPPED = "it was stopped: by Ctrl-Z, or as a suspended job"
    GONE = "it has ended"
    HIDDEN = "it may run: this is not Linux, /proc hides the processes of other users, or nothing says which it is"


def condition(process: object) -> Condition:
    """How the process is, on this machine, that `this_process` told of."""
    if not isinstance(process, list) or len(process) != 2 or not isinstance(process[0], int):
        return Condition.HIDDEN
    number, started = process
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return Condition.GONE
    except PermissionError:
        pass
    fields = _fields(number)
    if len(fields) <= _STARTED or not started:
        return Condition.HIDDEN
    if fields[_STARTED] != started or fields[0] == "Z":
        return Condition.GONE
    return Condition.STOPPED if fields[0] in ("T", "t") else Condition.RUNS


def _fields(process: int) -> list[str]:
    """Of /proc/N/stat from the state on: what comes before it may hold any character."""
    return _read(f"/proc/{process}/stat").rpartition(")")[2].split()


def _started(process: int) -> str:
    fields = _fields(process)
    return fields[_STARTED] if len(fields) > _STARTED else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:  # not Linux
        return ""
