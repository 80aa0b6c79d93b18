"""The samples of a training split, to look at and not to train on."""

from __future__ import annotations

from collections.abc import Iterator

from en_bench.data.dataset import Batch
from en_bench.data.loader import make_loader
from en_bench.data.module import ShardDataModule
from en_bench.data.opening import close
from en_bench.data.samplers import EvalSampler
from en_bench.data.targets import Targets

_TOLD_EVERY = 100  # batches


def each_once(data: ShardDataModule, targets: Targets) -> Iterator[Batch]:
    """Every sample of the training split with a target (N,) that is not NO_PART exactly once, in natural order.

    Images are transformed as for validation, and the last batch is padded. Tells how far it is. `data` is set up for
    "fit".
    """
    dataset = data.as_validated(targets)
    sampler = EvalSampler(len(dataset), data.val_batch_size, rank=0, ranks=1)
    loader = make_loader(dataset, sampler, data.workers, pin_memory=False)
    try:
        for step, batch in enumerate(loader, start=1):
            yield batch
            if step % _TOLD_EVERY == 0:
                print(f"batch {step}/{len(loader)}", flush=True)
    finally:
        close(dataset)
