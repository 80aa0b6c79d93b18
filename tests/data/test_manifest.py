import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from en_bench.data.index import Index, index_bytes
from en_bench.data.manifest import (
    classes_digest,
    load_manifest,
    manifest_digest,
    require_same_classes,
    save_manifest,
)
from en_bench.data.variant import variant
from en_bench.errors import InputError
from tests.images import make_split


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return make_split(tmp_path / "toy" / "train", 60, shards=5)


def rewrite(split: Path, **changes: object) -> None:
    path = split / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_index(split: Path, **changes: object) -> None:
    """Another index of the same split, with the right sha256."""
    manifest = load_manifest(split)
    content = index_bytes(dataclasses.replace(manifest.load_index(), **changes))
    (split / "index.npz").write_bytes(content)
    save_manifest(dataclasses.replace(manifest, index_sha256=hashlib.sha256(content).hexdigest()))


def test_a_manifest_reads_back_as_written(split):
    manifest = load_manifest(str(split))
    assert (manifest.dataset, manifest.split, manifest.count, manifest.columns) == ("toy", "train", 60, ("given",))
    assert len(manifest.shards) > 2
    assert manifest.digest == hashlib.sha256((split / "manifest.json").read_bytes()).hexdigest()
    assert manifest.digest == manifest_digest(split)
    again = save_manifest(manifest)
    assert again == manifest
    assert again.digest == manifest.digest
    manifest.check_shards()
    assert len(manifest.load_index()) == 60


def test_noise_per_column_and_the_ignore_index_read_back(split):
    manifest = load_manifest(split)
    assert (manifest.noise, manifest.ignore_index) == ({}, None)
    noise = {"given": {"kind": "human", "realised": 0.25}, "worst": {"kind": "human", "realised": None}}
    save_manifest(dataclasses.replace(manifest, noise=noise, ignore_index=255))
    again = load_manifest(split)
    assert (again.noise, again.ignore_index) == (noise, 255)


def test_the_digest_needs_no_numpy():
    code = "import sys; from en_bench.data.manifest import manifest_digest; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_digest_of_no_split_is_none(tmp_path):
    assert manifest_digest(tmp_path / "absent") is None
    assert manifest_digest(tmp_path) is None


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="absent: no such folder: prepare"):
        load_manifest(tmp_path / "absent")


def test_a_folder_above_the_splits_names_them(split):
    (split.parent / ".val.partial").mkdir()
    shutil.copy(split / "manifest.json", split.parent / ".val.partial")
    with pytest.raises(InputError, match=r"no manifest.json in it: name one of its splits: train$"):
        load_manifest(split.parent)
    with pytest.raises(InputError, match=r"name one of its splits: toy/train$"):
        load_manifest(split.parent.parent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[1]", "not a manifest of en_bench"),
        (b'{"format": "other"}', "not a manifest of en_bench"),
        (b'{"format": "en_bench.split", "version": 3}', "version 3, this en_bench reads 2: update en_bench"),
        (b'{"format": "en_bench.split", "version": 1}', "version 1, this en_bench reads 2: prepare the split again"),
        (b'{"format": "en_bench.split"}', "version None, this en_bench reads 2: update"),
        (b'{"format": "en_bench.split", "version": 2}', "damaged .KeyError: 'dataset'"),
    ],
)
def test_foreign_files_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_manifest(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 59},
        {"columns": ["clean"]},
        {"columns": ["given", 7]},
        {"members": []},
        {"members": ["mask", "image"]},
        {"shards": [{"name": "a.tar", "samples": 60, "bytes": "1", "sha256": ""}]},
        {"shards": [{"name": 5, "samples": 60, "bytes": 1, "sha256": ""}]},
        {"noise": {"given": None}},
        {"noise": None},
        {"shards": [{"name": "../outside.tar", "samples": 60, "bytes": 1, "sha256": ""}]},
        {"shards": [{"name": "a.tar"}]},
        {"classes": None},
        {"index": {"file": "other.npz", "sha256": ""}},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(split, changes):
    rewrite(split, **changes)
    with pytest.raises(InputError, match="damaged"):
        load_manifest(split)


def test_a_truncated_shard_is_found_by_its_size(split):
    manifest = load_manifest(split)
    shard = split / manifest.shards[1].name
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(size - 512)
    with pytest.raises(InputError, match=rf"000001.tar: {size - 512} bytes instead of {size}: .* again"):
        manifest.check_shards()
    shard.unlink()
    with pytest.raises(InputError, match=rf"000001.tar: No such file or directory, {size} bytes expected"):
        manifest.check_shards()


def test_a_damaged_or_missing_index_is_refused(split):
    manifest = load_manifest(split)
    path = split / "index.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"index.npz: sha256 .* instead of"):
        manifest.load_index()
    path.unlink()
    with pytest.raises(InputError, match=r"index.npz: No such file"):
        manifest.load_index()


def test_an_index_without_arrays_is_refused(split):
    (split / "index.npz").write_bytes(b"no zip")
    manifest = dataclasses.replace(load_manifest(split), index_sha256=hashlib.sha256(b"no zip").hexdigest())
    with pytest.raises(InputError, match="not an index"):
        manifest.load_index()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: {"keys": i.keys[:-1]}, r"keys has shape \(59,\), the manifest says \(60,\)"),
        (lambda i: {"shard": i.shard[::-1].copy()}, "are not all in"),
        (lambda i: {"size": i.size + 10**9}, "a sample lies outside"),
        (lambda i: {"offset": i.offset - 10**9}, "a sample lies outside"),
        (lambda i: {"offset": i.offset - i.offset[0] + 511}, "a sample lies outside"),
        (lambda i: {"labels": {"given": i.labels["given"] + 1}}, r"label given has values outside -1 .. 2"),
        (lambda i: {"labels": {"given": i.labels["given"] - 2}}, r"label given has values outside -1 .. 2"),
        (lambda i: {"labels": {"clean": i.labels["given"]}}, "label columns"),
        (lambda i: {"offset": i.offset.astype(np.float64)}, "is float64 with 2 axes, not int64"),
    ],
)
def test_an_index_that_disagrees_with_the_manifest_is_refused(split, change, message):
    replace_index(split, **change(load_manifest(split).load_index()))
    with pytest.raises(InputError, match=message):
        load_manifest(split).load_index()


def test_index_bytes_depend_on_the_content_alone():
    index = Index(
        np.array([b"a", "ä".encode()]),
        np.zeros(2, np.int32),
        np.zeros((2, 1), np.int64),
        np.ones((2, 1), np.int64),
        {"given": np.array([0, -1], np.int32)},
    )
    content = index_bytes(index)
    assert index_bytes(index) == content
    with np.load(io.BytesIO(content)) as arrays:
        assert {i.date_time for i in arrays.zip.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert index.key(1) == "ä"


def test_same_classes_pass():
    require_same_classes(["a", "b"], ("a", "b"), "x", "y")
    assert classes_digest(["a", "b"]) == classes_digest(("a", "b")) != classes_digest(["b", "a"])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (["cat", "dog"], ["cat", "cow"], "x and y differ in 1 of 2 classes, first in class 1: 'dog' and 'cow'"),
        (
            ["cat", "dog"],
            ["dog", "cat"],
            "differ in 2 of 2 classes .the same names in another order., first in class 0",
        ),
        (["cat", "dog"], ["cat"], "x has 2 classes, y has 1, 'dog' is in one only"),
    ],
)
def test_other_classes_are_refused(a, b, message):
    with pytest.raises(InputError, match=f"{message}.*: prepare or index both with the same classes"):
        require_same_classes(a, b, "x", "y")


@pytest.mark.parametrize(
    ("source", "image", "expected"),
    [
        ({"script": "camvid.py", "limit": None}, {"reencoded": 0, "encoding": "png"}, {}),
        (
            {"variant": "resized", "resolution": "256 px", "sources": ["google"], "limit": 9},
            {"short_side": 352, "encoding": "jpeg", "quality": 90, "reencoded": 3},
            {
                **{"variant": "resized", "resolution": "256 px", "sources": ["google"], "limit": 9},
                **{"short_side": 352, "encoded": "jpeg of quality 90"},
            },
        ),
        (
            {},
            {"short_side": None, "encoding": "png", "quality": 90, "reencoded": 3},
            {"short_side": None, "encoded": "png"},
        ),
    ],
)
def test_which_variant_a_split_holds(source: dict, image: dict, expected: dict, tmp_path: Path) -> None:
    split = make_split(tmp_path / "val", 4)
    manifest = dataclasses.replace(load_manifest(split), source=source, image=image)
    assert variant(manifest) == expected
