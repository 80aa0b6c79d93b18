"""The samples that a training trains on, to look at and not to train on."""

from __future__ import annotations

from torch.utils.data import DataLoader

from en_bench.data.dataset import Batch, StreamDataset
from en_bench.data.loader import make_loader
from en_bench.data.module import ShardDataModule
from en_bench.data.opening import shard_files
from en_bench.data.reading_order import NaturalOrder
from en_bench.data.samplers import EvalSampler


def each_once(data: ShardDataModule) -> tuple[StreamDataset, DataLoader[Batch]]:
    """Every sample that takes part in an epoch exactly once, in natural order, and as validation sees images.

    Returns the data set, whose reader the caller closes, and its loader, which pads the last batch. `data` is set up
    for "fit".
    """
    manifest, index, trained = data.train_manifest, data._train_index, data._train_set
    assert manifest is not None and index is not None and trained is not None
    dataset = StreamDataset(
        manifest, index, trained.targets, data.val_transform, seed=0, on_error=data.on_error, decoded_cache_mb=0
    )
    dataset.reader.files = shard_files(manifest, data.cache, NaturalOrder(dataset.shard_counts))
    sampler = EvalSampler(len(dataset), data.val_batch_size, rank=0, ranks=1)
    return dataset, make_loader(dataset, sampler, data.workers, pin_memory=False)
