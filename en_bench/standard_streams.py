"""Standard input, output and errors for a process that was started without, as by `<&-` or `>&-` in a shell."""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Opens those that are closed, to nowhere. To be called first thing, before any file is opened.

    The next file, a pipe to another process say, would be given their number, and be taken for one of them.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
