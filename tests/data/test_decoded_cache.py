"""Decoded images in memory that processes share: whole or not there, whatever happens to who writes them."""

import fcntl
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from en_bench.data.decoded_cache import DecodedCache

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory without a file exists on Linux only")


def image(value: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process; returns its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended_well(child: int) -> bool:
    return os.waitpid(child, 0)[1] == 0


def test_what_was_put_in_comes_out():
    cache = DecodedCache(10, 1000)
    assert cache.get(3) is None
    cache.put(3, image(7))
    cache.put(9, image(8))
    found = [cache.get(i) for i in (3, 9, 4)]
    assert np.array_equal(found[0], image(7)) and np.array_equal(found[1], image(8)) and found[2] is None
    cache.put(3, image(9))
    assert np.array_equal(cache.get(3), image(9))


def test_images_of_another_size_are_not_kept():
    cache = DecodedCache(4, 10_000)
    cache.put(0, image(1))
    cache.put(1, image(2, height=5, width=6))
    assert cache.get(1) is None
    cache.put(2, image(3))
    assert np.array_equal(cache.get(2), image(3))


@pytest.mark.parametrize(("count", "kept"), [(11, True), (12, False)])
def test_a_set_that_does_not_fit_is_not_kept_at_all(count, kept):
    cache = DecodedCache(count, 11 * 6 * 5 * 3)
    cache.put(0, image(1))
    assert (cache.get(0) is not None) is cache.fits(6, 5) is kept
    smaller = image(2, height=1, width=1)
    cache.put(1, smaller)
    assert cache.get(1) is None


def test_processes_share_what_they_put_in():
    cache = DecodedCache(3, 1000)  # before any of them knows the size
    child = in_child(lambda: cache.put(1, image(5)))
    assert ended_well(child)
    assert np.array_equal(cache.get(1), image(5))
    cache.put(2, image(6))

    def read() -> None:
        assert np.array_equal(cache.get(1), image(5)) and np.array_equal(cache.get(2), image(6))

    assert ended_well(in_child(read))


def _fill(cache: DecodedCache) -> None:
    cache.put(1, cache.get(0) + 1)


def test_a_process_that_is_not_forked_is_given_the_memory():
    cache = DecodedCache(2, 1000)
    cache.put(0, image(41))
    process = multiprocessing.get_context("spawn").Process(target=_fill, args=(cache,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert np.array_equal(cache.get(1), image(42))


def test_one_process_decides_on_the_size_and_the_others_wait():
    cache = DecodedCache(2, 10**6)
    locked, lock = os.pipe()

    def decide() -> None:
        fcntl.lockf(cache._file, fcntl.LOCK_EX)
        os.write(lock, b"x")
        time.sleep(0.2)
        cache.put(0, image(1, height=10))

    child = in_child(decide)
    os.read(locked, 1)
    cache.put(1, image(2, height=20))
    assert ended_well(child)
    assert np.array_equal(cache.get(0), image(1, height=10)) and cache.get(1) is None


def test_a_killed_process_leaves_whole_images_only():
    side, count = 512, 60
    cache = DecodedCache(count, count * side * side * 3)
    cache.put(0, image(0, side, side))
    seen = 0
    for attempt in range(12):
        child = in_child(lambda: [cache.put(i, image(i, side, side)) for i in range(1, count)])
        time.sleep(0.002 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for i in range(count):
            found = cache.get(i)
            if found is not None:
                assert (found == i).all(), f"image {i} is not whole"
                seen += 1
    assert seen > 12, "no process came far enough"


def shared_memory() -> int:
    """Bytes of shared memory that this process touches."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssShmem")))


def test_memory_is_that_of_what_is_in_it_and_is_given_back():
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    memory, open_files = shared_memory(), handles()
    cache = DecodedCache(2**20, 2**33)
    cache.put(0, image(1, 32, 32))
    assert shared_memory() - memory < 2**20
    for i in range(1000):
        cache.put(i, image(1, 32, 32))
    assert 3 * 2**20 - 2**17 < shared_memory() - memory < 4 * 2**20
    del cache
    gc.collect()
    assert shared_memory() - memory < 2**17 and handles() <= open_files
