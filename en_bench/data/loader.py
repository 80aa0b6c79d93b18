"""Batches out of a dataset, by any number of workers.

The sampler says (epoch, indices) for each batch and the dataset turns them into a whole `Batch`, so that a worker needs
no state: workers, their number and their survival between epochs change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from en_bench.data.batch_memory import BatchMemory, Sent
from en_bench.data.cached_files import CachedFiles
from en_bench.data.dataset import Batch, StreamDataset
from en_bench.data.samplers import Request, StreamSampler
from en_bench.errors import InputError
from en_bench.stop import leave_signals_to_parent


class _ErrorsAsValues(Dataset[Any]):
    """The dataset, with an InputError returned in place of the batch that it prevents."""

    def __init__(self, dataset: StreamDataset, memory: BatchMemory) -> None:
        self.dataset, self.memory = dataset, memory

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, request: Request) -> Sent | InputError:
        images, loan = self.memory.take(*self.dataset.shape(len(request.indices)))
        try:
            return Sent(self.dataset.read(request, images), loan)
        except InputError as error:
            return error


class _StreamLoader(DataLoader[Any]):
    """A DataLoader that raises the errors it receives.

    What a worker raises would reach the user as the traceback of another process, so errors travel as values. An
    iterator asks for nothing before its first batch is asked for: Lightning makes it before anybody knows the epoch, or
    the step in it, that a training goes on with.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        sampler, files = self.sampler, self.dataset.dataset.reader.files  # type: ignore[attr-defined]
        step = sampler.first_step  # type: ignore[attr-defined]
        memory: BatchMemory = self.dataset.memory  # type: ignore[attr-defined]
        if isinstance(files, CachedFiles):
            files.tell(sampler.epoch, step * sampler.batch_size * sampler.ranks)  # type: ignore[attr-defined]
        for sent in super().__iter__():
            if isinstance(sent, InputError):
                try:
                    raise sent
                finally:
                    del sent  # which would keep this frame, and with it the workers, until garbage is collected
            if isinstance(files, CachedFiles):
                files.tell(sampler.epoch, step * sampler.batch_size * sampler.ranks)  # type: ignore[attr-defined]
            step += 1
            batch = memory.receive(sent)
            del sent
            yield batch


def _as_is(batch: Any) -> Any:
    return batch


def _begin_worker(worker: int) -> None:
    leave_signals_to_parent()


def make_loader(dataset: StreamDataset, sampler: StreamSampler, workers: int, pin_memory: bool) -> DataLoader[Batch]:
    """A DataLoader that passes the dataset's batches on as they are, and its InputError with its one line."""
    return _StreamLoader(
        _ErrorsAsValues(dataset, BatchMemory(workers)),
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=_begin_worker,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # what a loader draws for its workers must not move the run's own random numbers
    )
