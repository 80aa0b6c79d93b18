"""Memory of batches that is used again: never while anybody can see a batch in it."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from en_bench.data.batch_memory import BatchMemory, Loan, Sent
from en_bench.data.dataset import Batch


class Numbered(Dataset[Sent]):
    """Batch number n holds images of n."""

    def __init__(self, memory: BatchMemory, images: int = 4) -> None:
        self.memory, self.images = memory, images

    def __getitem__(self, number: int) -> Sent:
        images, loan = self.memory.take(self.images if number % 50 else 2 * self.images, 8, 8, 3)
        images.fill_(number % 256)
        one = torch.full((1,), number)
        return Sent(Batch(images.permute(0, 3, 1, 2), one, one > 0, one), loan)

    def __len__(self) -> int:
        return 300


def loader(memory: BatchMemory, workers: int) -> DataLoader[Sent]:
    return DataLoader(
        Numbered(memory), batch_size=None, num_workers=workers, collate_fn=lambda x: x, persistent_workers=workers > 0
    )


def holds(image: Tensor | np.ndarray, number: int) -> bool:
    return bool((image == number % 256).all())


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_still_seen_is_never_written_over(workers):
    """Of 300 batches some are kept, as a tensor, a part of one or an array; all are right to the end."""
    memory = BatchMemory(workers)
    kept: list[tuple[int, Tensor | np.ndarray]] = []
    loans: list[Loan | None] = []
    for number, sent in enumerate(loader(memory, workers)):
        loans.append(sent.loan)
        batch = memory.receive(sent)
        assert holds(batch.image, number)
        if number % 40 == 7:
            kept.append((number, batch.image))
        elif number % 40 == 17:
            kept.append((number, batch.image[1, :, 2:5]))
        elif number % 40 == 27:
            kept.append((number, batch.image.numpy()[0]))
        elif number % 40 == 37:
            kept.append((number, batch.image.permute(0, 2, 3, 1).view(-1)[5:]))
        assert all(holds(image, of) for of, image in kept)
        kept = kept[-3:]
    pieces = {(loan.worker, loan.piece) for loan in loans if loan is not None}
    assert len(pieces) <= 8 * workers
    assert sum(loan is not None for loan in loans) > 200, "memory was hardly ever used again"


def test_memory_that_nobody_keeps_is_used_again():
    memory = BatchMemory(1)
    loans = []
    for sent in loader(memory, 1):
        loans.append(sent.loan)
        memory.receive(sent)
        del sent
    assert None not in loans
    assert len({loan.piece for loan in loans}) <= 6


def test_more_batches_than_pieces_are_kept_apart():
    memory = BatchMemory(1)
    batches = [memory.receive(sent) for sent in loader(memory, 1)]
    assert all(holds(batch.image, number) for number, batch in enumerate(batches))
    assert all(batch.image.is_shared() for batch in batches)


def test_a_copied_batch_gives_its_memory_back_at_once():
    memory = BatchMemory(1)
    iterator = iter(loader(memory, 1))
    loans = []
    for _ in range(100):
        sent = next(iterator)
        loans.append(sent.loan)
        copy = Batch(*(part.clone() for part in sent.batch))  # what pinning does, where there is a GPU
        del sent.batch
        memory.receive(Sent(copy, sent.loan, copied=True))
    assert None not in loans


def test_what_comes_back_late_is_not_taken_for_what_the_next_worker_lent():
    memory = BatchMemory(1)
    iterator = iter(loader(memory, 1))
    late = [memory.receive(next(iterator)).image for _ in range(3)]
    del iterator  # and with it its worker
    gc.collect()
    iterator = iter(loader(memory, 1))
    late.clear()
    for number in range(10):
        assert holds(memory.receive(next(iterator)).image, number)
        time.sleep(0.05)  # in which the worker fills what it takes for free


def test_without_workers_nothing_is_shared():
    images, loan = BatchMemory(0).take(2, 8, 8, 3)
    assert loan is None and images.shape == (2, 8, 8, 3) and not images.is_shared()
