"""data_scripts/imagefolder.py: what it makes of folders, archives and CSVs. Other layouts: test_layouts.py."""

import io
import os

import pytest
from PIL import Image

from data_scripts import imagefolder
from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader
from tests.scripts.calling import Run, caller
from tests.scripts.folders import as_csv, as_tar, jpeg, tree
from tests.scripts.raw import classes_of, skipped_of, write_tree


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(imagefolder, capsys)


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.xz", "tar.bz2", "wrapped", "wrapped.tar"])
def test_a_tree_gives_the_same_splits_from_wherever_it_comes(tmp_path, run, kind):
    files = tree()
    if kind.startswith("wrapped"):
        files = {f"set-1.0/{name}": content for name, content in files.items()} | {"README": b"hello"}
    raw = tmp_path / kind
    if "tar" in kind:
        as_tar(raw, files, {"gz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}.get(kind.rpartition(".")[2], "w"))
    else:
        write_tree(raw, files)
    code, out, _ = run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["test", "train"]
    for split in ("train", "test"):
        folder = tmp_path / "out" / split
        found = classes_of(folder)
        assert found == {f"{c}/{i:03d}": c for c in ("cat", "dog", "horse") for i in range(3)}
        manifest = load_manifest(folder)
        assert (manifest.columns, manifest.classes) == (("given",), ("cat", "dog", "horse"))
        index = manifest.load_index()
        with ShardReader(manifest, index) as reader:
            assert all(reader.read(i) == tree()[f"{split}/{index.key(i)}.jpg"] for i in range(9))
    assert f"{tmp_path / 'out' / 'train'}: wrote 9 samples in 1 shard" in out
    assert ("left out 1 files that are not in <split>/<class>/ (first: 'README')" in out) == kind.startswith("wrapped")


def test_a_single_split_is_not_taken_for_a_common_folder(tmp_path, run):
    files = {f"train/cat/images/{i}.jpg": jpeg(i) for i in range(3)}
    assert run("--raw", write_tree(tmp_path / "raw", files), "--out", tmp_path / "out", "--dataset", "toy")[0] == 0
    assert classes_of(tmp_path / "out" / "train") == {f"cat/images/{i}": "cat" for i in range(3)}


@pytest.mark.parametrize("stray", ["README.md", "train/labels.txt", "meta.mat"])
def test_a_stray_file_beside_the_splits_changes_nothing(tmp_path, run, stray):
    files = {f"cifar/{name}": content for name, content in tree().items()} | {f"cifar/{stray}": b"hello"}
    code, out, _ = run("--raw", as_tar(tmp_path / "raw.tar", files), "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["test", "train"]
    assert load_manifest(tmp_path / "out" / "train").classes == ("cat", "dog", "horse")
    assert f"left out 1 files that are not in <split>/<class>/ (first: 'cifar/{stray}')" in out
    assert "only:" not in out


def test_a_split_map_names_splits_under_a_common_folder(tmp_path, run):
    files = {f"set/{name.replace('test', 'fold')}": content for name, content in tree().items() if "test" in name}
    raw = write_tree(tmp_path / "raw", files)
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--split-map", "fold=val")
    assert run(*options)[0] == 0
    assert classes_of(tmp_path / "out" / "val").keys() == {
        f"{c}/{i:03d}" for c in ("cat", "dog", "horse") for i in range(3)
    }


def test_a_split_may_hold_a_class_named_like_one(tmp_path, run):
    files = {f"{split}/{name}/1.jpg": jpeg(1) for split in ("train", "val", "odd") for name in ("train", "bus")}
    raw = write_tree(tmp_path / "raw", files)
    code, _, err = run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 1
    assert "if 'odd' is a split, use --split-map odd=NAME" in err
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--split-map", "odd=extra")
    assert run(*options)[0] == 0
    assert load_manifest(tmp_path / "out" / "extra").classes == ("bus", "train")


def test_files_of_one_stem_are_told_apart_by_their_extension(tmp_path, run):
    names = ["a.jpg", "a.png", "a_jpg.gif", "b.jpg", "c.jpg", "c"]
    files = {f"train/{c}/{name}": jpeg(i) for i, name in enumerate(names) for c in ("cat", "dog.v1")}
    files |= {"val/cat/a.jpg": jpeg(7), "val/dog.v1/b.png": jpeg(7)}
    assert run("--raw", write_tree(tmp_path / "raw", files), "--out", tmp_path / "out", "--dataset", "toy")[0] == 0
    found = classes_of(tmp_path / "out" / "train")
    stems = ["a_jpg", "a_png", "a_jpg_gif", "b", "c_jpg", "c"]
    assert found == {f"{c}/{stem}": c for stem in stems for c in ("cat", "dog.v1")}
    assert classes_of(tmp_path / "out" / "val") == {"cat/a": "cat", "dog.v1/b": "dog.v1"}
    manifest = load_manifest(tmp_path / "out" / "train")
    index = manifest.load_index()
    with ShardReader(manifest, index) as reader:
        held = {index.key(i): reader.read(i) for i in range(len(index))}
    assert all(held[f"cat/{stem}"] == files[f"train/cat/{name}"] for stem, name in zip(stems, names, strict=True))


def test_a_csv_inside_the_tar_places_the_files(tmp_path, run):
    rows = [
        ("file", "label", "part"),
        ("a/1.jpg", "dog", "train"),
        ("./a/2.jpg", "cat", "train"),
        ("b/1.jpg", "cat", "t"),
    ]
    rows += [("b/missing.jpg", "dog", "t"), ("b/4.jpg", "dog", "t")]
    files = {f"{folder}/{i}.jpg": jpeg(i, (64, 64)) for folder in "ab" for i in range(1, 5)}
    files["labels.csv"] = as_csv(tmp_path / "labels.csv", rows).read_bytes()
    (tmp_path / "labels.csv").unlink()
    code, out, _ = run(
        *("--raw", as_tar(tmp_path / "raw.tar.gz", files, "w:gz"), "--out", tmp_path / "out", "--dataset", "toy"),
        *("--csv", "labels.csv", "--csv-columns", "path=file,class=label,split=part", "--split-map", "t=val"),
        *("--short-side", 32),
    )
    assert code == 0
    assert classes_of(tmp_path / "out" / "train") == {"a/1": "dog", "a/2": "cat"}
    assert classes_of(tmp_path / "out" / "val") == {"b/1": "cat", "b/4": "dog"}
    assert skipped_of(tmp_path / "out" / "val") == {"b/missing.jpg": "listed in labels.csv, not in raw.tar.gz"}
    assert "left out 4 files that labels.csv does not list (first: 'a/3.jpg')" in out
    manifest = load_manifest(tmp_path / "out" / "val")
    with ShardReader(manifest, manifest.load_index()) as reader:
        assert Image.open(io.BytesIO(reader.read(0))).size == (32, 32)


def test_a_limit_draws_from_all_classes(tmp_path, run):
    raw = write_tree(tmp_path / "raw", tree(per_class=30))
    assert run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--limit", 30)[0] == 0
    found = list(classes_of(tmp_path / "out" / "train").values())
    assert len(found) == 30
    assert all(found.count(name) >= 3 for name in ("cat", "dog", "horse"))
