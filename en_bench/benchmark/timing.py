"""Times of calls that take turns, so that what disturbs the machine disturbs all of them."""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch

Call = Callable[[], object]

_WARM_UPS = 2
_BLOCK_S = 0.02  # of wall clock: what lasts less is repeated until it lasts as long, and told for one call


class Reading(NamedTuple):
    """Seconds of one call; and on a device those until the host had queued it, which may be more or fewer."""

    seconds: float
    host: float | None


class Watch(Protocol):
    """`prepare` is called once for each call, when that has warmed up."""

    def prepare(self, call: Call) -> int: ...
    def read(self, call: Call, prepared: int) -> Reading: ...


class WallClock:
    """What a caller waits for; `prepared` is the number of calls in a reading."""

    def __init__(self, device: torch.device, block: float = _BLOCK_S) -> None:
        self.device, self.block = device, block

    def prepare(self, call: Call) -> int:
        seconds = self.read(call, 1).seconds
        if seconds < self.block:  # a single short reading may have met a disturbance
            seconds = min(seconds, *(self.read(call, 1).seconds for _ in range(2)))
        return max(1, math.ceil(self.block / max(seconds, 1e-6)))

    def read(self, call: Call, prepared: int) -> Reading:
        self._wait()
        start = time.perf_counter()
        for _ in range(prepared):
            call()
        self._wait()
        return Reading((time.perf_counter() - start) / prepared, None)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class DeviceEvents:
    """What a GPU works, without what the host needs to queue it, and with nothing of the operands in the GPU's cache.

    Before each call the GPU writes a buffer that the cache cannot hold, as often as it takes for the whole call to be
    queued meanwhile; `prepared` is that number.
    """

    def __init__(self, device: torch.device) -> None:
        cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))
        self.device = device
        self.filler = torch.empty(max(4 * cache, 2**28), dtype=torch.uint8, device=device)
        self._fill(3)
        self.fill_seconds = self._events(lambda: self._fill(10)) / 10

    def prepare(self, call: Call) -> int:
        torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        call()
        host = time.perf_counter() - start
        torch.cuda.synchronize(self.device)
        return 1 + math.ceil(1.5 * host / self.fill_seconds)

    def read(self, call: Call, prepared: int) -> Reading:
        torch.cuda.synchronize(self.device)
        self._fill(prepared)
        host = 0.0

        def timed() -> None:
            nonlocal host
            start = time.perf_counter()
            call()
            host = time.perf_counter() - start

        seconds = self._events(timed)
        return Reading(seconds, host)

    def _fill(self, times: int) -> None:
        for _ in range(times):
            self.filler.zero_()

    def _events(self, call: Call) -> float:
        with torch.cuda.device(self.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            call()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


class OwnClock:
    """For calls that time what matters of them, and return its seconds."""

    def prepare(self, call: Call) -> int:
        return 1

    def read(self, call: Call, prepared: int) -> Reading:
        seconds = call()
        assert isinstance(seconds, float)
        return Reading(seconds, None)


def interleaved(
    calls: Mapping[str, Call], watch: Watch, repeats: int, warm_ups: int = _WARM_UPS
) -> dict[str, dict[str, Any] | None]:
    """For each call the median and quartiles of `repeats` readings in seconds; None where memory did not suffice.

    All calls are read once before any is read again, in an order drawn anew each time.
    """
    prepared: dict[str, int] = {}
    for name, call in calls.items():
        try:
            for _ in range(warm_ups):
                call()
            prepared[name] = watch.prepare(call)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    readings: dict[str, list[Reading]] = {name: [] for name in prepared}
    draw, order = random.Random(0), list(prepared)
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(repeats):
            draw.shuffle(order)
            for name in order:
                readings[name].append(watch.read(calls[name], prepared[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: summarised(readings[name]) if name in readings else None for name in calls}


def summarised(readings: list[Reading]) -> dict[str, Any]:
    """Median and quartiles in seconds, and their number; the median of the host's times where there are any."""
    seconds = sorted(reading.seconds for reading in readings)
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    found: dict[str, Any] = {"median": median, "lower": lower, "upper": upper, "n": len(seconds)}
    hosts = [reading.host for reading in readings if reading.host is not None]
    return {**found, "host": statistics.median(hosts)} if hosts else found
