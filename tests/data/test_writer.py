import csv
import json
import os
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from en_bench.data import split_job
from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import Manifest, load_manifest
from en_bench.data.order import write_order
from en_bench.data.raw_bytes import DamagedFile
from en_bench.data.reader import ShardReader
from en_bench.data.sources import Skipped, Source
from en_bench.data.writer import write_split
from en_bench.errors import InputError
from tests.images import coloured_png

CLASSES = ("dark", "grey", "bright")


def sources(count: int, **columns: list[int]) -> list[Source]:
    labels = columns or {"given": [i % 3 for i in range(count)]}
    return [
        Source(
            f"dir.v1/sample_{i:03d}",
            {c: v[i] for c, v in labels.items()},
            partial(coloured_png, i % 3, i),
            f"raw/{i}.x",
        )
        for i in range(count)
    ]


def write(folder: Path, samples: list[Source], **changes: Any) -> Manifest:
    encoder = ImageEncoder(encoding="png")
    options: dict[str, Any] = {
        "dataset": "toy/one",
        "split": "train",
        "classes": CLASSES,
        "encode": encoder,
        "image": encoder.describe(),
        "source": {"made": "toy"},
        "shards": 3,
    }
    return write_split(folder, samples, **{**options, **changes})


def skipped_rows(folder: Path) -> list[list[str]]:
    with (folder / "skipped.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fails() -> bytes:
    raise OSError(5, "Input/output error")


def cut_off() -> bytes:
    raise DamagedFile("the archive ends after 3 of 5 bytes")


def test_webdataset_reads_the_shards(tmp_path):
    samples = sources(50)
    manifest = write(tmp_path / "train", samples)
    assert len(manifest.shards) > 2
    urls = [str(tmp_path / "train" / shard.name) for shard in manifest.shards]
    found = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8"))
    order = write_order(50, 0)
    assert [item["__key__"] for item in found] == [samples[i].key for i in order]
    for item, i in zip(found, order, strict=True):
        assert item["cls"] == i % 3
        assert item["json"] == {"labels": {"given": i % 3}, "source": f"raw/{i}.x"}
        assert item["png"].shape == (32, 32, 3)


def test_the_index_says_what_the_tars_hold(tmp_path):
    given = [(i + i // 7) % 3 for i in range(40)]
    samples = sources(40, given=given, clean=[i % 3 for i in range(40)])
    manifest = write(tmp_path / "train", samples, noise={"given": {"kind": "symmetric", "rate": 0.5, "seed": 1}})
    index = load_manifest(tmp_path / "train").load_index()
    row = 0
    for position, shard in enumerate(manifest.shards):
        with tarfile.open(tmp_path / "train" / shard.name) as tar:
            members = tar.getmembers()
        assert len(members) == 3 * shard.samples
        for member in members[::3]:
            assert (member.name, position) == (f"{index.key(row)}.png", index.shard[row])
            assert (member.offset_data, member.size) == (index.offset[row, 0], index.size[row, 0])
            assert (member.mtime, member.uid, member.gid, member.mode, member.uname) == (0, 0, 0, 0o644, "")
            i = int(index.key(row)[-3:])
            assert (index.labels["given"][row], index.labels["clean"][row]) == (given[i], i % 3)
            row += 1
    assert row == 40
    differing = sum(given[i] != i % 3 for i in range(40))
    assert manifest.noise == {"given": {"kind": "symmetric", "rate": 0.5, "seed": 1, "realised": differing / 40}}


def test_realised_noise_leaves_out_unknown_labels(tmp_path):
    noise = {"given": {"kind": "human"}, "worst": {"kind": "human"}}
    samples = sources(4, given=[0, 1, 2, 0], clean=[0, 2, -1, -1], worst=[1, -1, 0, 0])
    assert write(tmp_path / "some", samples, noise=noise).noise == {
        "given": {"kind": "human", "realised": 0.5},
        "worst": {"kind": "human", "realised": 1.0},
    }
    samples = sources(2, given=[0, 1], clean=[-1, -1])
    none = write(tmp_path / "none", samples, noise={"given": {"kind": "human"}}).noise
    assert none == {"given": {"kind": "human", "realised": None}}


def test_bytes_depend_on_the_content_alone_and_the_seed(tmp_path):
    write(tmp_path / "a" / "train", sources(30))
    write(tmp_path / "b" / "train", sources(30))
    write(tmp_path / "c" / "train", sources(30), seed=1)
    first, second, other = (contents(tmp_path / name / "train") for name in "abc")
    assert first == second
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.endswith(".tar"))


def test_shards_hold_equal_numbers_of_samples(tmp_path):
    manifest = write(tmp_path / "train", sources(50), shards=4)
    assert [shard.samples for shard in manifest.shards] == [12, 13, 12, 13]
    assert all(shard.bytes % tarfile.RECORDSIZE == 0 for shard in manifest.shards), "not whole records, as POSIX has"
    assert [shard.name for shard in manifest.shards][:2] == ["toy-one-train-000000.tar", "toy-one-train-000001.tar"]
    assert [shard.samples for shard in write(tmp_path / "single", sources(5), shards=9).shards] == [1] * 5


def test_the_number_of_shards_follows_from_size_and_samples(tmp_path, monkeypatch):
    samples = sources(50)
    assert len(write(tmp_path / "few", samples, shards=None).shards) == 1
    monkeypatch.setattr(split_job, "SHARD_SAMPLES", 20)
    assert [shard.samples for shard in write(tmp_path / "many", samples, shards=None).shards] == [16, 17, 17]
    monkeypatch.setattr(split_job, "SPREAD_SAMPLES", 12)
    assert len(write(tmp_path / "spread", samples, shards=None).shards) == 4
    monkeypatch.setattr(split_job, "SPREAD", 3)
    assert len(write(tmp_path / "spread less", samples, shards=None).shards) == 3
    monkeypatch.setattr(split_job, "SHARD_SAMPLES", 10_000)
    monkeypatch.setattr(split_job, "SHARD_BYTES", 60_000)
    shards = write(tmp_path / "large", samples, shards=None).shards
    assert all(50_000 < shard.bytes <= 60_000 + tarfile.RECORDSIZE for shard in shards)


def test_long_and_foreign_names_are_kept(tmp_path):
    keys = ["ä/鳥 1", "d/" * 60 + "x", "k" * 240]
    samples = [Source(key, {"given": 0}, partial(coloured_png, 0, 0), key) for key in keys]
    manifest = write(tmp_path / "train", samples, shards=1)
    index = manifest.load_index()
    assert sorted(index.key(i) for i in range(3)) == sorted(keys)
    with tarfile.open(tmp_path / "train" / manifest.shards[0].name) as tar:
        assert sorted(name[:-4] for name in tar.getnames() if name.endswith(".png")) == sorted(keys)
    with ShardReader(manifest, index) as reader:
        assert all(reader.read(i) == coloured_png(0, 0) for i in range(3))


def test_unreadable_files_are_listed_in_source_order_and_counted(tmp_path):
    samples = sources(20)
    for i, load in {15: lambda: b"junk", 3: lambda: coloured_png(0, 0)[:200], 9: cut_off}.items():
        samples[i] = Source(samples[i].key, samples[i].labels, load, samples[i].origin)
    said: list[str] = []
    before = [Skipped("", "raw/link", "is a link or no regular file")]
    manifest = write(tmp_path / "train", samples, skipped=before, say=said.append)
    rows = skipped_rows(tmp_path / "train")
    assert [row[1] for row in rows] == ["raw/link", "raw/3.x", "raw/9.x", "raw/15.x"]
    assert rows[2][2] == "cannot be read: the archive ends after 3 of 5 bytes"
    assert rows[3] == ["dir.v1/sample_015", "raw/15.x", "not an image"]
    assert (manifest.count, manifest.skipped) == (17, 4)
    folder = tmp_path / "train"
    assert len(said) == 1
    assert said[0].startswith(f"{folder}: wrote 17 samples in 3 shards, 0.1 MB; skipped 4, see {folder}/skipped.csv")


def test_no_readable_sample_is_an_error_and_leaves_nothing(tmp_path):
    samples = [Source("a", {"given": 0}, lambda: b"junk", "raw/a.jpg")]
    with pytest.raises(
        InputError, match=r"none of 1 samples for split 'train' can be read, first raw/a.jpg: not an image"
    ):
        write(tmp_path / "train", samples)
    with pytest.raises(InputError, match="none of 0 samples"):
        write(tmp_path / "train", [])
    assert os.listdir(tmp_path) == []


def test_a_key_used_twice_names_both_origins(tmp_path):
    samples = [Source("a", {"given": 0}, fails, origin) for origin in ("one/a.jpg", "two/a.jpg")]
    with pytest.raises(InputError, match=r"key 'a' belongs to both one/a.jpg and two/a.jpg"):
        write(tmp_path / "train", samples)


@pytest.mark.parametrize(
    "key", ["", "a.b", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\nb", "a\0b", "\ud800", "k" * 241, "d/"]
)
def test_keys_that_readers_would_misread_are_refused(tmp_path, key):
    with pytest.raises(InputError, match=r"raw: .* cannot be a key"):
        write(tmp_path / "train", [Source(key, {"given": 0}, fails, "raw")])


@pytest.mark.parametrize("labels", [{"given": 3}, {"given": -2}, {"clean": 0, "given": 0}, {}])
def test_labels_that_do_not_fit_are_a_programming_error(tmp_path, labels):
    with pytest.raises(ValueError, match="label"):
        write(tmp_path / "train", [Source("a", labels, fails, "raw")])


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "a/"])
def test_names_that_cannot_name_shards_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot name shards"):
        write(tmp_path / "train", sources(1), dataset=name)


def test_the_same_again_does_nothing_and_says_so(tmp_path):
    first = write(tmp_path / "train", sources(10))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "train").iterdir()}
    said: list[str] = []
    again = write(tmp_path / "train", sources(10), say=said.append)
    assert again == first
    assert again.digest == first.digest
    assert said == [
        f"{tmp_path / 'train'}: already there, made with the same options from samples of the same keys and labels "
        "(their pixels are not compared); nothing to do"
    ]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "train").iterdir()} == before


def test_the_same_noise_again_does_nothing(tmp_path):
    samples = sources(10, given=[0] * 10, clean=[1] * 10)
    noise = {"given": {"kind": "symmetric", "rate": 1.0, "seed": 0}}
    assert write(tmp_path / "train", samples, noise=noise) == write(tmp_path / "train", samples, noise=noise)
    with pytest.raises(InputError, match=r"made with other noise\.given\.rate"):
        write(tmp_path / "train", samples, noise={"given": {"kind": "symmetric", "rate": 0.9, "seed": 0}})


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "order.seed"),
        ({"source": {"made": "otherwise"}}, "made"),
        ({"image": {"quality": 91}}, "image.quality"),
        ({"shards": 2}, "--shards"),
        ({"classes": ("a", "b", "c")}, "classes"),
        ({"dataset": "other", "seed": 4}, "dataset"),
    ],
)
def test_another_split_is_never_overwritten(tmp_path, changes, what):
    write(tmp_path / "train", sources(10))
    before = contents(tmp_path / "train")
    with pytest.raises(InputError, match=f"made with other {what}: remove it, or choose another output folder"):
        write(tmp_path / "train", sources(10), **changes)
    assert contents(tmp_path / "train") == before


def test_other_samples_are_never_taken_for_the_same(tmp_path):
    write(tmp_path / "train", sources(10))
    with pytest.raises(InputError, match="made with other samples"):
        write(tmp_path / "train", sources(11))


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds something that is not a prepared split"):
        write(tmp_path / "train", sources(3))
    assert contents(tmp_path / "train") == {"thesis.tex": b"precious"}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "train").mkdir()
    assert write(tmp_path / "train", sources(3)).count == 3


def test_progress_counts_every_sample(tmp_path):
    calls: list[tuple[int, int]] = []
    samples = [*sources(5), Source("z", {"given": 0}, cut_off, "raw/z")]
    write(tmp_path / "train", samples, progress=lambda done, total, size: calls.append((done, total)))
    assert calls == [(i, 6) for i in range(1, 7)]


def test_written_labels_stand_in_the_tar(tmp_path):
    manifest = write(tmp_path / "train", sources(4, given=[-1, 0, 1, 2]), shards=1)
    with tarfile.open(tmp_path / "train" / manifest.shards[0].name) as tar:
        texts = {m.name[-7:-4]: tar.extractfile(m).read() for m in tar if m.name.endswith(".cls")}
        about = [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]
    assert texts == {"000": b"-1", "001": b"0", "002": b"1", "003": b"2"}
    assert sorted(item["labels"]["given"] for item in about) == [-1, 0, 1, 2]
    assert np.sort(manifest.load_index().labels["given"]).tolist() == [-1, 0, 1, 2]
