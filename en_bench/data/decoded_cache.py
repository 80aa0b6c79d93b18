"""Decoded images in memory that the loading processes of a rank share and fill."""

from __future__ import annotations

import fcntl
import mmap
import os
from multiprocessing.reduction import DupFd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from en_bench.data.decoding import Pixels

_UNDECIDED, _TOO_LARGE = 0, -1  # in place of a height
_SHAPE = 2 * np.dtype(np.int64).itemsize


class DecodedCache:
    """Pixels of the equally large images of a data set, in one piece of memory for all processes that have this object.

    Forked processes inherit it, others are given it when they start. Nobody waits for anybody: a sample counts as
    cached once its pixels are whole, which is noted after they were written. (Whoever reads them is another process
    only after both have exchanged a batch and a request with the process that trains, which orders their memory.) The
    first image decides on the size; images of another size are not kept. The memory is anonymous, that of the images
    that were put in and no more, and freed with the last process that has the cache.

    Args:
        count: samples of the data set.
        limit: bytes of pixels. A set that has more is not cached at all.
    """

    def __init__(self, count: int, limit: int) -> None:
        descriptor = os.memfd_create("en_bench decoded images")
        os.ftruncate(descriptor, _SHAPE + count)
        self._open(descriptor, count, limit)

    def _open(self, descriptor: int, count: int, limit: int) -> None:
        self._file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 - closed when the cache is collected
        self._count, self._limit = count, limit
        memory = mmap.mmap(descriptor, _SHAPE + count)
        self._shape: NDArray[np.int64] = np.frombuffer(memory, np.int64, 2)
        self._whole: NDArray[np.bool_] = np.frombuffer(memory, np.bool_, count, _SHAPE)
        self._pixels: NDArray[np.uint8] | None = None

    def fits(self, height: int, width: int) -> bool:
        """Whether there would be room if all images were of this size: the same answer whatever was put in before."""
        return self._count * height * width * 3 <= self._limit

    def holds(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which samples are there, whose `get` is then never None."""
        return self._whole[positions]

    def get(self, position: int) -> Pixels | None:
        """The pixels of a sample, not to be changed. None if they are not there."""
        return self._images()[position] if self._whole[position] else None

    def put(self, position: int, pixels: Pixels) -> None:
        """Keeps the pixels (H, W, 3) of a sample, if all of the set have room and it has the size of the others."""
        if self._shape[0] == _UNDECIDED:
            self._decide(*pixels.shape[:2])
        if pixels.shape[:2] == tuple(self._shape):
            self._images()[position] = pixels
            self._whole[position] = True

    def _decide(self, height: int, width: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX)  # which the kernel takes back from a process that is killed
        try:
            if self._shape[0] != _UNDECIDED:
                return
            if not self.fits(height, width):
                self._shape[0] = _TOO_LARGE
                return
            os.ftruncate(self._file.fileno(), self._first_pixel + self._count * height * width * 3)
            self._shape[1] = width
            self._shape[0] = height
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _images(self) -> NDArray[np.uint8]:
        """All pixels, (count, H, W, 3), once their size is decided. A page takes memory when it is written to."""
        if self._pixels is None:
            height, width = (int(side) for side in self._shape)
            length = self._count * height * width * 3
            memory = mmap.mmap(self._file.fileno(), self._first_pixel + length)
            pixels = np.frombuffer(memory, np.uint8, length, self._first_pixel)
            self._pixels = pixels.reshape(self._count, height, width, 3)
        return self._pixels

    @property
    def _first_pixel(self) -> int:
        return -(-(_SHAPE + self._count) // mmap.PAGESIZE) * mmap.PAGESIZE

    def __getstate__(self) -> dict[str, Any]:
        return {"descriptor": DupFd(self._file.fileno()), "count": self._count, "limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(state["descriptor"].detach(), state["count"], state["limit"])
