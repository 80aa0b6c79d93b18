"""Memory for the images of batches: filled by a worker, read by the training process, then filled again.

New shared memory is dear: its pages are made and cleared one by one when they are first written, which takes as long as
a tenth of decoding into them. So a worker uses the memory of a batch again, once the training process has let go of
every tensor and array that shows it.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import get_worker_info

from en_bench.data.dataset import Batch

_PIECES = 8  # of each worker. Two are prefetched and one or two are in use; beyond these memory is new for each batch.


class Loan(NamedTuple):
    """Whose piece of memory a batch lies in. No two loans of any workers have the same number."""

    worker: int
    piece: int
    number: int


class Sent:
    """A batch on its way from a worker.

    Only the images go through shared memory: for what is small, opening it takes longer than copying.
    """

    def __init__(self, batch: Batch, loan: Loan | None, copied: bool = False) -> None:
        self.batch, self.loan, self.copied = batch, loan, copied

    def __getstate__(self) -> tuple[Any, ...]:
        image, *others = self.batch
        return self.loan, self.copied, image, *(part.numpy() for part in others)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.loan, self.copied, image, *others = state
        self.batch = Batch(image, *(torch.from_numpy(part) for part in others))

    def pin_memory(self) -> Sent:
        """What a DataLoader with `pin_memory` asks for."""
        return Sent(Batch(*(part.pin_memory() for part in self.batch)), self.loan, copied=True)


class BatchMemory:
    """The memory of one loader's batches. Workers `take` it, the training process takes batches out by `receive`.

    Args:
        workers: loading processes of the loader.
    """

    def __init__(self, workers: int) -> None:
        # Per piece the last loan that came back. A number and not a flag, as a loan may come back to the successor of
        # the worker that made it.
        self._returned: Tensor = torch.full((workers, _PIECES), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._pieces: list[Tensor] = []  # of this worker
        self._lent: list[int] = []  # the number under which each of them was last lent
        self._number = 0
        self._seen: dict[Loan, StorageWeakRef] = {}  # what the training process has in use

    def __getstate__(self) -> Tensor:
        return self._returned  # a worker that is not forked begins with nothing else

    def __setstate__(self, returned: Tensor) -> None:
        self.__init__(len(returned))  # type: ignore[misc]
        self._returned = returned

    def take(self, *shape: int) -> tuple[Tensor, Loan | None]:
        """Uninitialised uint8 images of this shape, which a worker shares, and the loan if the memory is on loan."""
        worker = get_worker_info()
        if worker is None:
            return torch.empty(shape, dtype=torch.uint8), None
        piece = self._free_piece(worker.id, math.prod(shape))
        if piece is None:
            return _shared(math.prod(shape)).view(shape), None
        self._number += 1
        self._lent[piece] = self._number
        return self._pieces[piece].view(shape), Loan(worker.id, piece, self._number)

    def receive(self, sent: Sent) -> Batch:
        """The batch that a worker sent. Its memory goes back to the worker when nothing shows it any more."""
        for loan in [loan for loan, storage in self._seen.items() if storage.expired()]:  # type: ignore[no-untyped-call]
            del self._seen[loan]
            self._give_back(loan)
        if sent.loan is not None:
            if sent.copied:
                self._give_back(sent.loan)
            else:
                storage = sent.batch.image.untyped_storage()
                self._seen[sent.loan] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        return sent.batch

    def _free_piece(self, worker: int, size: int) -> int | None:
        for piece, (memory, number) in enumerate(zip(self._pieces, self._lent, strict=True)):
            if memory.numel() == size and self._returned[worker, piece] == number:
                return piece
        if len(self._pieces) == _PIECES:
            return None
        if not self._pieces:
            self._number = time.monotonic_ns()  # above those of any worker before this one
        self._pieces.append(_shared(size))
        self._lent.append(-1)
        return len(self._pieces) - 1

    def _give_back(self, loan: Loan) -> None:
        self._returned[loan.worker, loan.piece] = loan.number


def _shared(size: int) -> Tensor:
    # As torch's own default_collate does: every other way to shared memory writes it an extra time.
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)
