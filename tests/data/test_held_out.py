"""The held-out part: which samples it has, and that they do not train."""

import hashlib

import numpy as np
import pytest
from lightning import Trainer

from en_bench.data.held_out import HASH_SEED, cut, is_held_out
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop
from en_bench.errors import InputError
from tests.data.test_loader import module
from tests.data.test_unknown_labels import partly_labelled

MASK = 2**64 - 1
KEYS = np.array([f"n{i // 100:04d}/image-{i:05d}".encode() for i in range(50_000)])


def unit(key: str) -> float:
    """The number of a key as docs/noisy/accuracies.md defines it, in Python's own integers."""

    def mix(word: int) -> int:
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
        return word ^ (word >> 31)

    state, raw = 0, key.encode()
    words = [int.from_bytes(raw[at : at + 8].ljust(8, b"\0"), "little") for at in range(0, len(raw), 8)]
    for word in (int.from_bytes(b"held_out", "little"), 0, *words):
        state = mix(((state ^ word) + 0x9E3779B97F4A7C15) & MASK)
    return (mix((state + 0x9E3779B97F4A7C15) & MASK) >> 11) / 2**53


def test_the_function_of_the_key_is_the_one_that_is_documented_and_stays_so():
    assert int.from_bytes(b"held_out", "little") == HASH_SEED
    for share in (0.1, 0.5):
        expected = [unit(key.decode()) < share for key in KEYS[:500]]
        assert is_held_out(KEYS[:500], share).tolist() == expected
    found = np.flatnonzero(is_held_out(KEYS, 0.1)).astype("<i8").tobytes()
    assert hashlib.sha256(found).hexdigest()[:16] == "a50fc5202ece33d0"


def test_the_share_is_met_and_a_larger_part_holds_the_smaller_one():
    smaller = np.zeros(len(KEYS), dtype=bool)
    for share in (0.0, 0.02, 0.1, 0.3, 0.9):
        part = is_held_out(KEYS, share)
        assert abs(part.mean() - share) <= 4 * (share * (1 - share) / len(KEYS)) ** 0.5
        assert (part | ~smaller).all()
        smaller = part
    each = np.add.reduceat(is_held_out(KEYS, 0.1), np.arange(0, len(KEYS), 500))
    assert each.min() > 20 and each.max() < 85, "no stretch of keys is spared or taken"


def test_a_key_decides_for_itself():
    chosen = np.random.default_rng(0).permutation(len(KEYS))[:1000]
    wider = np.array([bytes(key) for key in KEYS[chosen]], dtype="S64")
    whole = is_held_out(KEYS, 0.2)[chosen]
    assert (is_held_out(wider, 0.2) == whole).all()
    assert [bool(is_held_out(KEYS[i : i + 1], 0.2)[0]) for i in chosen[:50]] == whole[:50].tolist()


def test_every_sample_with_a_label_is_in_one_part_and_no_other():
    targets = np.arange(1000, dtype=np.int32) % 4 - 1  # every fourth is unknown
    parts = cut(targets, KEYS[:1000], 0.3, "a/train")
    held_out = is_held_out(KEYS[:1000], 0.3)
    assert (parts.trained == np.where(held_out, -1, targets)).all()
    assert (parts.held_out == np.where(held_out, targets, -1)).all()
    assert parts.train_count + parts.held_out_count == 750 and parts.held_out_count == (held_out & (targets >= 0)).sum()
    nothing = cut(targets, KEYS[:1000], 0.0, "a/train")
    assert (nothing.trained == targets).all() and nothing.held_out_count == 0


def test_parts_without_a_sample_are_refused():
    targets = np.zeros(6, dtype=np.int32)
    with pytest.raises(
        InputError, match=r"--data.held_out 1e-06 holds out none of the 6 samples of a/train .* use more"
    ):
        cut(targets, KEYS[:6], 1e-6, "a/train")
    alone = KEYS[is_held_out(KEYS, 0.5)][:6]
    with pytest.raises(InputError, match=r"leaves nothing to train on of the 6 samples of a/train .* use less"):
        cut(targets, alone, 0.5, "a/train")


@pytest.mark.parametrize("share", [-0.1, 0.91, 1.0, float("nan")])
def test_shares_that_are_none(tmp_path, share):
    with pytest.raises(InputError, match=r"is no share of a training split: use 0 \(none\) .. 0.9"):
        module(tmp_path, held_out=share)


def test_what_trains_and_what_is_scored_share_no_sample(tmp_path):
    """Labels of the column that trains, unknown ones in neither part, images as validation sees them."""
    partly_labelled(tmp_path / "a" / "train", 60, unknown=13)
    partly_labelled(tmp_path / "a" / "val", 20, unknown=0)
    data = module(tmp_path, labels="noisy", batch_size=5, held_out=0.3, seed=3)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.trainer = trainer
    data.setup("fit")
    assert data.train_manifest is not None
    index = data.train_manifest.load_index()
    held_out = {int(row) for row in np.flatnonzero(is_held_out(index.keys, 0.3) & (index.labels["noisy"] >= 0))}
    assert len(held_out) == data.held_out_count and data.train_count == 47 - len(held_out)
    loaders = data.val_dataloader()
    assert isinstance(loaders, list) and len(loaders) == 2
    scored = list(loaders[1])
    rows = [int(row) for batch in scored for row in batch.row[batch.valid]]
    assert rows == sorted(held_out)
    labels = [int(y) for batch in scored for y in batch.target[batch.valid]]
    assert labels == index.labels["noisy"][rows].tolist()
    assert sum(int(batch.valid.sum()) for batch in loaders[0]) == 20
    trained = {int(row) for batch in data.train_dataloader() for row in batch.row}
    assert not trained & held_out and len(trained) == data.train_count // 5 * 5
    whole = ShardDataModule(
        "a/train", "a/val", CenterCrop(32), CenterCrop(32), root=str(tmp_path), labels="noisy", batch_size=5, seed=3
    )
    whole.setup("fit")
    assert not isinstance(whole.val_dataloader(), list)
    data.teardown("fit")
    whole.teardown("fit")


def test_batches_that_the_rest_cannot_fill_are_refused_by_its_number(tmp_path):
    partly_labelled(tmp_path / "a" / "train", 60, unknown=0)
    partly_labelled(tmp_path / "a" / "val", 20, unknown=0)
    data = module(tmp_path, batch_size=60, held_out=0.3)
    with pytest.raises(
        InputError, match=r"training samples cannot fill 1 rank x batch 60: use --data.batch_size (\d+)"
    ):
        data.open("fit")
    assert data.train_count == 60 - data.held_out_count
    module(tmp_path, batch_size=60).open("fit")
