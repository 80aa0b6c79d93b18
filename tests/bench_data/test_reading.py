"""What the contenders of `en-bench bench data` read, and that the clock counts what it should."""

from __future__ import annotations

import collections
import importlib.util
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from en_bench.benchmark import data_peers, data_reading
from en_bench.benchmark.data_material import Split, copy_split, material, samples_of
from en_bench.benchmark.data_recipe import Recipe
from en_bench.data.manifest import load_manifest
from en_bench.data.order import train_steps
from en_bench.data.reader import ShardReader
from en_bench.errors import InputError
from tests.bench_data.made import LARGE, SMALL, settings

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision's


def read(work: str, folder: Path, recipe: Recipe, stage: str = "train", seconds: float = 0.0) -> dict[str, Any]:
    return data_reading.read(work, str(folder), recipe.size, recipe.padded, stage, 8, 0, seconds)  # type: ignore[arg-type]


# ---- What is read


def test_all_read_the_same_images_and_labels(photos: Path, tmp_path: Path) -> None:
    manifest = load_manifest(photos)
    expected = collections.Counter(samples_of(manifest))
    copied = copy_split(photos, tmp_path / "more", 30, shards=4)
    found = collections.Counter(samples_of(copied))
    assert copied.count == 30 and len(copied.shards) == 4 and copied.classes == manifest.classes
    assert set(found) == set(expected) and set(found.values()) == {2, 3}
    fewer = collections.Counter(samples_of(copy_split(photos, tmp_path / "fewer", 5, shards=1)))
    assert fewer.total() == 5 and fewer <= expected


@pytest.mark.parametrize("name", data_peers.PEERS)
def test_peers_read_what_was_written_for_them(name: str, photos: Path, tmp_path: Path) -> None:
    if not data_peers.is_installed(name):
        pytest.skip(f"{name} is not installed")
    copied = copy_split(photos, tmp_path / "ours", 24, shards=2)
    data_peers.WRITERS[name](tmp_path / "theirs", samples_of(copied), 12)
    found = data_peers.READERS[name](tmp_path / "theirs", 4, 0)(0)
    assert collections.Counter((bytes(payload), int(label)) for payload, label in found) == collections.Counter(
        (sample.payload, sample.label) for sample in samples_of(copied)
    )


def test_material_is_written_in_every_format_and_removed(photos: Path) -> None:
    chosen = settings(photos, sections=("rates", "peers"), original=photos)
    with material(chosen) as made:
        installed = {name for name in data_peers.PEERS if data_peers.is_installed(name)}
        assert set(made.shards.folders) == installed and set(made.original.folders) == installed & {"webdataset"}
        assert made.shards.distinct == 12
        assert made.shards.bytes == sum(len(sample.payload) for sample in samples_of(load_manifest(made.shards.ours)))
        assert made.scratch.parent == photos.parent
    assert not made.scratch.exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(photos: Path) -> None:
    with (
        pytest.raises(InputError, match="GB needed: give another folder with --scratch, or fewer --samples"),
        material(settings(photos, samples=10**12)),
    ):
        pass


# ---- What a reading times


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_reading_counts_what_comes_after_the_first_batch(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    def opened(*_: Any) -> data_reading.Read:
        def reads(epoch: int) -> Iterator[int]:
            epochs.append(epoch)
            time.sleep(0.3)  # to start
            for _ in range(6):
                yield 10
                time.sleep(0.01)

        return reads

    monkeypatch.setitem(data_reading._WORKS, "sleeping", opened)
    found = read("sleeping", Path("nowhere"), SMALL, seconds=seconds)
    assert found["images"] == 50 and 0.06 / 50 <= found["first"] < 0.25 / 50 and 0.3 <= found["start"] < 0.5
    assert 0.06 / 50 <= found["later"] < 0.25 / 50
    if not seconds:
        assert epochs == [0] and found["later"] == found["first"]
    else:
        assert epochs == list(range(len(epochs))) and 2 <= len(epochs) <= 5


@pytest.mark.parametrize(
    ("work", "stage", "images"),
    [
        ("stream", "train", train_steps(60, 8, 1) * 8 - 8),
        ("stream", "eval", 60 - 8),
        ("bytes", "train", 59),
        ("same decoder", "train", 60 - 8),
        ("alone", "train", 59),
        ("alone", "eval", 59),
    ],
)
def test_every_contender_gets_through_the_split(work: str, stage: str, images: int, small: Path) -> None:
    found = read(work, small, SMALL, stage)
    assert found["images"] == images and found["first"] > 0


@pytest.mark.parametrize("work", ["standard", "webdataset bytes", "webdataset decoded"])
@pytest.mark.parametrize("stage", ["train", "eval"])
def test_webdataset_gets_through_the_split(work: str, stage: str, photos: Path, tmp_path: Path) -> None:
    copied = copy_split(photos, tmp_path / "ours", 24, shards=2)
    data_peers.WRITERS["webdataset"](tmp_path / "wds", samples_of(copied), 12)
    assert read(work, tmp_path / "wds", LARGE, stage)["images"] == (23 if "bytes" in work else 16)


def test_bytes_are_those_of_an_epoch_of_the_stream(small: Path) -> None:
    """In its order, with the labels of the images."""
    manifest = load_manifest(small)
    index = manifest.load_index()
    dataset = data_reading.open_stream(small, SMALL, "train")
    order = data_reading.training_order(dataset).order(3)
    assert sorted(order.tolist()) == list(range(60)) and order.tolist() != list(range(60))
    with ShardReader(manifest, index) as reader:
        expected = [(reader.read(row), int(index.labels["given"][row])) for row in order.tolist()]
    assert list(data_reading._samples(small, SMALL, 7)(3)) == expected


def test_large_images_are_not_kept_decoded(small: Path, photos: Path) -> None:
    assert data_reading.open_stream(photos, LARGE, "train")._decoded is None
    assert data_reading.open_stream(small, SMALL, "train")._decoded is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in data_peers.PEERS if importlib.util.find_spec(data_peers.PEERS[name])]
)
def test_peers_in_processes_of_their_own(name: str, small: Path, tmp_path: Path) -> None:
    data_peers.WRITERS[name](tmp_path / "theirs", samples_of(load_manifest(small)), 30)
    split = Split(small, {name: tmp_path / "theirs"}, 1, 60)
    from en_bench.benchmark.data_turns import NOT_INSTALLED, Contender, take_turns

    contenders = [
        Contender("theirs", f"{name} decoded", format=name),
        Contender("nobody's", "unknown", format="unknown"),
    ]
    chosen = replace(settings(small), recipe=SMALL, batch=8)
    found = take_turns(chosen, contenders, {"shards": split}, lambda text: None)
    assert found["theirs"]["n"] == 1 and found["theirs"]["median"] > 0 and found["nobody's"] == NOT_INSTALLED
