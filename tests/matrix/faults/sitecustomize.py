"""Python imports this at the start of every process that finds it on its path: the fault that FAULT describes.

FAULT is JSON: `once`, a file that is made when the fault happens, so that it happens in one process only; `what`:

- `kill after`: `seconds` after its start this process is gone, if its command line has the word `whose`.
- `kill writing`, `kill before`, `kill after writing`: at the file number `count` whose path has `path` in it, this
  process is gone: when half of it is written, when it is whole but not in its place, when it is.
- `full disk`: from that file on nothing can be written.
"""

import errno
import json
import os
import signal
import sys
import threading
import time

FAULT = json.loads(os.environ.get("FAULT", "null"))


def happens() -> bool:
    try:
        os.close(os.open(FAULT["once"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die() -> None:
    if happens():
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def die_later() -> None:
    time.sleep(FAULT["seconds"])
    die()


def at_files() -> None:
    what, left, full = FAULT["what"], FAULT["count"], False
    fsync, replace, link = os.fsync, os.replace, os.link

    def counted(path: str) -> bool:
        """Whether this is the file that is meant: files are counted when they are synced, before they are placed."""
        nonlocal left
        left -= FAULT["path"] in path
        return left == 0 and FAULT["path"] in path

    meant = ""

    def faulty_fsync(handle: int) -> None:
        nonlocal full, meant
        path = os.readlink(f"/proc/self/fd/{handle}")
        if full or counted(path):
            if what == "full disk" and (full or happens()):
                full = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if what == "kill writing":
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                die()
            meant = path
        fsync(handle)

    def placing(place):
        def faulty(source, target, **options) -> None:
            is_meant = str(source) == meant
            if is_meant and what == "kill before":
                die()
            place(source, target, **options)
            if is_meant and what == "kill after writing":
                die()

        return faulty

    os.fsync, os.replace, os.link = faulty_fsync, placing(replace), placing(link)


if FAULT is not None and FAULT["what"] == "kill after":
    # Before Python has run its main module the command line is known as the kernel has it only.
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().decode().split("\0")
    if FAULT["whose"] in words:
        threading.Thread(target=die_later, daemon=True).start()
elif FAULT is not None and "-c" not in sys.argv:
    at_files()
