"""Samples whose label is unknown: they take no part in training, and validation refuses them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from en_bench.data.images import ImageEncoder
from en_bench.data.sources import Source
from en_bench.data.transforms import CenterCrop
from en_bench.data.writer import write_split
from en_bench.errors import InputError
from tests.data.opened import open_dataset
from tests.data.test_loader import Idle, batches, idle_trainer, module
from tests.images import coloured_png


def partly_labelled(folder: Path, count: int, unknown: int) -> Path:
    """A split of `count` samples with a column "noisy", -1 in the `unknown` first ones of the source."""
    encoder = ImageEncoder(encoding="png")
    samples = [
        Source(
            f"s{i:03d}",
            {"given": i % 3, "noisy": -1 if i < unknown else (i + 1) % 3},
            partial(coloured_png, i % 3, i),
            f"s {i}",
        )
        for i in range(count)
    ]
    write_split(
        folder,
        samples,
        dataset="part",
        split=folder.name,
        classes=("dark", "grey", "bright"),
        encode=encoder,
        image=encoder.describe(),
        source={},
        shards=3,
    )
    return folder


def test_training_leaves_out_samples_without_a_label(tmp_path):
    data = open_dataset(partly_labelled(tmp_path / "a" / "train", 40, unknown=13), CenterCrop(32), labels="noisy")
    assert len(data) == 27
    known = {f"s{i:03d}": (i + 1) % 3 for i in range(13, 40)}
    for epoch in (0, 1):
        found = batches(data, epoch=epoch, batch=9)
        index = data.reader.index
        seen = {index.key(int(row)): int(y) for b in found for row, y in zip(b.row, b.target, strict=True)}
        assert (len(found), seen) == (3, known), "each once, and the row is that of the manifest's index"
        for b in found:
            brightness = [int(index.key(int(row))[1:]) % 3 for row in b.row]
            assert (b.image.float().mean((1, 2, 3)) // 60).long().tolist() == brightness
    assert not torch.equal(batches(data, epoch=0, batch=9)[0].row, batches(data, epoch=1, batch=9)[0].row)
    one, two = batches(data, batch=8), [batches(data, batch=4, rank=r, ranks=2) for r in (0, 1)]
    assert all(torch.equal(a.row, torch.cat([b.row, c.row])) for a, b, c in zip(one, *two, strict=True))
    padded = data[(0, np.array([26, -1]))]
    assert padded.row.tolist() == [int(data.rows[26]), -1] and padded.valid.tolist() == [True, False]


def test_validation_must_know_every_label(tmp_path):
    partly_labelled(tmp_path / "a" / "train", 40, unknown=13)
    partly_labelled(tmp_path / "a" / "val", 20, unknown=4)
    with pytest.raises(InputError, match=r"4 of 20 samples of .*val have no label in column 'noisy'"):
        module(tmp_path, batch_size=8, val_labels="noisy").setup("fit")


def test_steps_and_checks_count_labelled_samples_only(tmp_path):
    partly_labelled(tmp_path / "a" / "train", 40, unknown=13)
    partly_labelled(tmp_path / "a" / "val", 20, unknown=0)
    trainer = idle_trainer(tmp_path)
    data = module(tmp_path, labels="noisy", batch_size=5)
    trainer.fit(Idle(), data)
    assert (data.train_count, trainer.num_training_batches, trainer.global_step) == (27, 5, 10)
    with pytest.raises(InputError, match=r"27 training samples cannot fill 1 rank x batch 28.*27 or less"):
        module(tmp_path, labels="noisy", batch_size=28).open("fit")
    module(tmp_path, labels="given", batch_size=28).open("fit")
    with pytest.raises(InputError, match=r"no label column 'worst': choose one of given, noisy"):
        module(tmp_path, labels="worst", batch_size=5).open("fit")
    partly_labelled(tmp_path / "b" / "train", 10, unknown=10)
    with pytest.raises(InputError, match=r"no sample of .*b/train has a label in column 'noisy'"):
        module(tmp_path, train="b/train", labels="noisy", batch_size=1).open("fit")
