"""The processes that run cells for a launcher, one for each slot, or for several that a cell takes together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from en_bench.matrix.local.worker import CUT_SHORT, READY
from en_bench.matrix.plan import PlannedCell
from en_bench.tied import Tie

STOPS = signal.SIGUSR1
PROGRAM = (sys.executable, "-m", "en_bench")


class Member:
    """A process that serves (`local.worker`) in the slots `places`. It ends with this one, however that ends.

    `item` is the cell it has to run, None while it has none; `ready` is whether it has got as far as reading cells,
    `cut_short` whether its cell's command has ended before it had saved.
    """

    def __init__(self, arguments: Sequence[str], places: tuple[int, ...], environment: Mapping[str, str], tie: Tie):
        self.places = places
        self.item: PlannedCell | None = None
        self.ready = False
        self.cut_short = False
        self.last_line = ""
        self._process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is passed on by the launcher, and all that it starts is one group
            pass_fds=tie.descriptors,
            env={**tie.environment, **environment},
        )
        self._partial: dict[int, bytes] = {}
        for stream in self.streams:
            os.set_blocking(stream.fileno(), False)

    @property
    def streams(self) -> tuple[IO[bytes], IO[bytes]]:
        """Its answers, and all else that it prints."""
        assert self._process.stdout is not None and self._process.stderr is not None
        return self._process.stdout, self._process.stderr

    def give(self, item: PlannedCell) -> None:
        """A cell to run. It may have died, which `ended` will tell."""
        assert self._process.stdin is not None
        self.item = item
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{item.cell.id}\n".encode())
            self._process.stdin.flush()

    def answers(self) -> list[Mapping[str, Any]]:
        """What it has answered about its cells since the last call."""
        found = [json.loads(line) for line in self._lines(self.streams[0])]
        if READY in found:
            self.ready = True
            found.remove(READY)
        if CUT_SHORT in found:
            self.cut_short = True
            found.remove(CUT_SHORT)
        return found

    def lines(self) -> list[str]:
        """The whole lines that it has printed since the last call; at its end also one that is not whole."""
        found = [line.decode(errors="replace").rstrip("\r") for line in self._lines(self.streams[1])]
        said = [line for line in found if line.strip()]
        self.last_line = said[-1] if said else self.last_line
        return found

    def ended(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None while it runs."""
        return self._process.poll()

    def how_it_ended(self) -> str:
        """In a few words."""
        code = self._process.returncode
        if code >= 0:
            return f"ended with exit code {code}" + (f": {self.last_line.strip()}" if self.last_line else "")
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        return f"was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")

    def dismiss(self) -> None:
        """Lets it end once it has run its cell."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def stop(self) -> None:
        """The step that is under way ends, and is saved.

        By another signal than Ctrl-C's, which all processes ignore that a script has started in its background.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(STOPS)

    def kill(self) -> None:
        """Ends it and what it has started at once; what it has left running, if it has ended itself."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, seconds: float) -> None:
        """Waits for its end so long at most, and frees what it holds."""
        self.dismiss()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        for stream in self.streams:
            stream.close()

    def _lines(self, stream: IO[bytes]) -> list[bytes]:
        found = self._partial.get(stream.fileno(), b"")
        while True:
            try:
                part = os.read(stream.fileno(), 65536)
            except BlockingIOError:
                break
            if not part:
                break
            found += part
        *whole, rest = found.split(b"\n")
        if rest and self._process.poll() is not None:
            whole, rest = [*whole, rest], b""
        self._partial[stream.fileno()] = rest
        return whole
