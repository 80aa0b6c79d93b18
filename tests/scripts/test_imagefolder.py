import csv
import io
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_scripts import imagefolder
from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader

SEVEN = ["automobile", "bird", "cat", "dog", "frog", "ship", "truck"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = imagefolder.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def jpeg(value: int, size: tuple[int, int] = (40, 24)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value % 256, 60, 200)).save(out, "JPEG")
    return out.getvalue()


def tree(per_class: int = 3) -> dict[str, bytes]:
    """<split>/<class>/<file> of train and test with the classes cat, dog, horse."""
    places = [(s, c, i) for s in ("train", "test") for c in ("cat", "dog", "horse") for i in range(per_class)]
    return {f"{s}/{c}/{i:03d}.jpg": jpeg(40 * i + len(s) + len(c)) for s, c, i in places}


def as_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def as_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def as_csv(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def keys_and_classes(folder: Path) -> dict[str, str]:
    manifest = load_manifest(folder)
    index = manifest.load_index()
    return {index.key(i): manifest.classes[index.labels["given"][i]] for i in range(len(index))}


def skipped(folder: Path) -> dict[str, str]:
    with (folder / "skipped.csv").open(newline="") as file:
        return {row["origin"]: row["reason"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.xz", "tar.bz2", "wrapped", "wrapped.tar"])
def test_a_tree_gives_the_same_splits_from_wherever_it_comes(tmp_path, run, kind):
    files = tree()
    if kind.startswith("wrapped"):
        files = {f"set-1.0/{name}": content for name, content in files.items()} | {"README": b"hello"}
    raw = tmp_path / kind
    if "tar" in kind:
        as_tar(raw, files, {"gz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}.get(kind.rpartition(".")[2], "w"))
    else:
        as_folder(raw, files)
    code, out, _ = run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["test", "train"]
    for split in ("train", "test"):
        folder = tmp_path / "out" / split
        found = keys_and_classes(folder)
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
    assert run("--raw", as_folder(tmp_path / "raw", files), "--out", tmp_path / "out", "--dataset", "toy")[0] == 0
    assert keys_and_classes(tmp_path / "out" / "train") == {f"cat/images/{i}": "cat" for i in range(3)}


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
    raw = as_folder(tmp_path / "raw", files)
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--split-map", "fold=val")
    assert run(*options)[0] == 0
    assert keys_and_classes(tmp_path / "out" / "val").keys() == {
        f"{c}/{i:03d}" for c in ("cat", "dog", "horse") for i in range(3)
    }


def test_a_split_may_hold_a_class_named_like_one(tmp_path, run):
    files = {f"{split}/{name}/1.jpg": jpeg(1) for split in ("train", "val", "odd") for name in ("train", "bus")}
    raw = as_folder(tmp_path / "raw", files)
    code, _, err = run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 1
    assert "if 'odd' is a split, use --split-map odd=NAME" in err
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--split-map", "odd=extra")
    assert run(*options)[0] == 0
    assert load_manifest(tmp_path / "out" / "extra").classes == ("bus", "train")


def test_classes_that_some_splits_lack_are_said(tmp_path, run):
    # as Tiny ImageNet comes: the images of val and test lie in a folder `images` instead of their classes
    files = {f"tiny/train/n{c}/images/{i}.jpg": jpeg(i) for c in (1, 2) for i in range(3)} | {"tiny/words.txt": b"n1"}
    files |= {f"tiny/{split}/images/{i}.jpg": jpeg(i) for split in ("val", "test") for i in range(3)}
    code, out, _ = run("--raw", as_folder(tmp_path / "raw", files), "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 0
    assert "3 classes: images, n1, n2; left out 1 files" in out
    assert "; 1 classes occur in test and val only: images; 2 classes occur in train only: n1, n2\n" in out


def test_files_of_one_stem_are_told_apart_by_their_extension(tmp_path, run):
    names = ["a.jpg", "a.png", "a_jpg.gif", "b.jpg", "c.jpg", "c"]
    files = {f"train/{c}/{name}": jpeg(i) for i, name in enumerate(names) for c in ("cat", "dog.v1")}
    files |= {"val/cat/a.jpg": jpeg(7), "val/dog.v1/b.png": jpeg(7)}
    assert run("--raw", as_folder(tmp_path / "raw", files), "--out", tmp_path / "out", "--dataset", "toy")[0] == 0
    found = keys_and_classes(tmp_path / "out" / "train")
    stems = ["a_jpg", "a_png", "a_jpg_gif", "b", "c_jpg", "c"]
    assert found == {f"{c}/{stem}": c for stem in stems for c in ("cat", "dog.v1")}
    assert keys_and_classes(tmp_path / "out" / "val") == {"cat/a": "cat", "dog.v1/b": "dog.v1"}
    manifest = load_manifest(tmp_path / "out" / "train")
    index = manifest.load_index()
    with ShardReader(manifest, index) as reader:
        held = {index.key(i): reader.read(i) for i in range(len(index))}
    assert all(held[f"cat/{stem}"] == files[f"train/cat/{name}"] for stem, name in zip(stems, names, strict=True))


def test_a_class_map_keeps_renames_and_counts(tmp_path, run):
    table = as_csv(tmp_path / "map.csv", [("source", "target"), ("dog", "pet"), ("cat", "animal"), ("cow", "cattle")])
    raw = as_folder(tmp_path / "raw", tree())
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--class-map", table)
    code, out, _ = run(*options, "--split-map", "test=val")
    assert code == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["train", "val"]
    manifest = load_manifest(tmp_path / "out" / "val")
    assert (manifest.classes, manifest.count) == (("animal", "cattle", "pet"), 6)
    assert keys_and_classes(tmp_path / "out" / "val")["dog/001"] == "pet"
    assert f"left out 6 files of 1 classes that {table} does not map (first: 'horse')" in out
    assert f"left out 1 classes of {table} that have no files (first: 'cow')" in out
    table.write_text(table.read_text().replace("cow", "yak"))
    code, _, err = run(*options, "--split-map", "test=val")
    assert code == 1
    assert "made with other source" in err, "another class map is another data set"


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
    assert keys_and_classes(tmp_path / "out" / "train") == {"a/1": "dog", "a/2": "cat"}
    assert keys_and_classes(tmp_path / "out" / "val") == {"b/1": "cat", "b/4": "dog"}
    assert skipped(tmp_path / "out" / "val") == {"b/missing.jpg": "listed in labels.csv, not in raw.tar.gz"}
    assert "left out 4 files that labels.csv does not list (first: 'a/3.jpg')" in out
    manifest = load_manifest(tmp_path / "out" / "val")
    with ShardReader(manifest, manifest.load_index()) as reader:
        assert Image.open(io.BytesIO(reader.read(0))).size == (32, 32)


def test_members_that_lead_outside_or_link_are_never_followed(tmp_path, run):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(77))
    raw = as_tar(tmp_path / "raw.tar", tree() | {"../train/cat/up.jpg": jpeg(1), "/etc/cat/absolute.jpg": jpeg(2)})
    with tarfile.open(raw, "a") as tar:
        for name, kind, target in (
            ("train/cat/link.jpg", tarfile.SYMTYPE, str(secret)),
            ("train/dog/hard.jpg", tarfile.LNKTYPE, "train/cat/000.jpg"),
            ("train/dog/pipe.jpg", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    code, out, _ = run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 0
    assert load_manifest(tmp_path / "out" / "train").count == 9
    assert skipped(tmp_path / "out" / "train") == {
        "../train/cat/up.jpg": "leads outside the archive",
        "train/cat/link.jpg": "is a link or no regular file",
        "train/dog/hard.jpg": "is a link or no regular file",
        "train/dog/pipe.jpg": "is a link or no regular file",
    }
    assert "left out 1 files of splits in which nothing can be read (first: '/etc/cat/absolute.jpg')" in out
    assert sorted(os.listdir(tmp_path / "out")) == ["test", "train"]


def test_a_folder_is_walked_through_links_once(tmp_path, run):
    raw = as_folder(tmp_path / "raw", {name: c for name, c in tree().items() if name.startswith("train")})
    elsewhere = as_folder(tmp_path / "elsewhere", {f"cat/{i}.jpg": jpeg(i) for i in range(2)})
    (raw / "val").symlink_to(elsewhere)
    (raw / "train" / "cat" / "loop").symlink_to(raw)
    assert run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")[0] == 0
    assert load_manifest(tmp_path / "out" / "train").count == 9
    assert load_manifest(tmp_path / "out" / "val").count == 2


def test_damaged_and_hidden_files_do_not_stop_it(tmp_path, run):
    files = tree() | {
        "train/cat/bad.jpg": b"junk",
        "train/dog/v1.2.jpg": jpeg(9),
        "train/dog/._x.jpg": b"",
        ".DS_Store": b"",
    }
    code, out, _ = run("--raw", as_folder(tmp_path / "raw", files), "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 0
    assert skipped(tmp_path / "out" / "train") == {"train/cat/bad.jpg": "not an image"}
    assert "skipped 1, see" in out
    assert keys_and_classes(tmp_path / "out" / "train")["dog/v1_2"] == "dog"


def test_a_limit_draws_from_all_classes(tmp_path, run):
    raw = as_folder(tmp_path / "raw", tree(per_class=30))
    assert run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--limit", 30)[0] == 0
    found = list(keys_and_classes(tmp_path / "out" / "train").values())
    assert len(found) == 30
    assert all(found.count(name) >= 3 for name in ("cat", "dog", "horse"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--raw", "absent"], "absent: no such folder or tar: correct --raw"),
        (["--raw", "raw/train/cat/000.jpg"], "not a whole tar"),
        (["--raw", "cut.tar"], "not a whole tar"),
        (["--raw", "cut.tar.xz"], "not a whole tar"),
        (["--raw", "raw/train"], "no images in <split>/<class>/"),
        (["--raw", "raw", "--split-map", "test"], "--split-map 'test': write it as name=value"),
        (["--raw", "raw", "--csv", "absent.csv"], "absent.csv: neither a file nor one within raw"),
        (["--raw", "raw", "--csv", "map.csv"], "map.csv: no column 'path' (it has source, target)"),
        (["--raw", "raw", "--csv", "map.csv", "--csv-columns", "file=source"], "only path, class and split"),
        (["--raw", "raw", "--class-map", "empty.csv"], "empty.csv: no column 'source' (it has none)"),
        (["--raw", "raw", "--class-map", "short.csv"], "short.csv: row 2 lacks a value of source, target"),
        (["--raw", "raw", "--class-map", "raw/train/cat/000.jpg"], "not a CSV in UTF-8"),
        (["--raw", "raw", "--quality", "100"], "JPEG quality 100 is not usable"),
        (["--raw", "raw", "--class-map", "twice.csv"], "twice.csv: row 4 maps 'cat' a second time"),
        (["--raw", "same"], "key 'cat/v1_2_jpg' belongs to both train/cat/v1.2.jpg and train/cat/v1_2.jpg"),
        (
            ["--raw", "two.tar"],
            "two.tar: 'other/train/cat/1.jpg' would be of split 'other' and class 'train', which is",
        ),
        (["--raw", "parts"], "parts: 'set' may be a split or a folder above the splits: use --split-map set=NAME if"),
        (["--raw", "flat"], "flat: 'set/test/1.jpg' would be of split 'set' and class 'test', which is named like"),
    ],
)
def test_input_that_cannot_be_used_ends_in_one_line(tmp_path, run, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    as_folder(tmp_path / "raw", tree())
    as_folder(tmp_path / "same", {"train/cat/v1.2.jpg": jpeg(1), "train/cat/v1_2.jpg": jpeg(2)})
    as_tar(tmp_path / "two.tar", {"set/train/cat/1.jpg": jpeg(1), "other/train/cat/1.jpg": jpeg(2)})
    as_folder(tmp_path / "flat", {"set/test/1.jpg": jpeg(1), "set/test/2.jpg": jpeg(2)})
    as_folder(tmp_path / "parts", {"set/one/cat/1.jpg": jpeg(1), "set/one/README": b"", "set/two/cat/1.jpg": jpeg(2)})
    as_csv(tmp_path / "twice.csv", [("source", "target"), ("cat", "a"), ("dog", "b"), ("cat", "b")])
    whole = as_tar(tmp_path / "whole.tar", tree()).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:3000])
    (tmp_path / "cut.tar.xz").write_bytes(lzma.compress(whole)[:-100])
    as_csv(tmp_path / "map.csv", [("source", "target"), ("cat", "cat")])
    as_csv(tmp_path / "short.csv", [("source", "target"), ("cat",)])
    (tmp_path / "empty.csv").write_text("")
    code, _, err = run(*arguments, "--out", "out", "--dataset", "toy")
    assert code == 1
    assert message in err
    assert err.splitlines()[-1].partition(": error: ")[2]
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_exit_codes_of_the_command(tmp_path):
    script = Path(imagefolder.__file__)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, script, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    raw = as_folder(tmp_path / "raw", tree())
    good = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")
    first = call(*good)
    assert (first.returncode, first.stdout.count("wrote 9 samples")) == (0, 2)
    assert first.stderr.splitlines()[-1].startswith("train: 9 of 9 samples, ")
    again = call(*good)
    assert (again.returncode, again.stdout.count("already there")) == (0, 2)
    wrong = call(*good, "--limit", 2)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("imagefolder.py: error: ")
    assert wrong.stderr.count("\n") == 1
    assert call(*good, "--short-side", 32, "--original").returncode == 2
    assert call(*good, "--limit", 0).returncode == 2
    assert call("--raw", raw).returncode == 2


@pytest.fixture
def archives() -> Path:
    place = os.environ.get("EN_BENCH_DATA")
    if place is None:
        pytest.skip("EN_BENCH_DATA does not say where the archives lie")
    return Path(place)


@pytest.mark.slow
def test_cifar10_and_tiny_imagenet_end_with_the_same_seven_classes(tmp_path, run, archives):
    table = as_csv(tmp_path / "seven.csv", [("source", "target"), *((name, name) for name in SEVEN)])
    code, out, _ = run(
        *("--raw", archives / "cifar10_jpeg.tar.xz", "--out", tmp_path / "cifar7", "--dataset", "cifar7"),
        *("--class-map", table, "--split-map", "test=val"),
    )
    assert code == 0
    assert "left out 18,000 files of 3 classes" in out
    code, _, _ = run(
        *("--raw", archives / "tinyimagenet_cifar7.tar.xz", "--out", tmp_path / "tiny7", "--dataset", "tiny7"),
        *("--csv", "labels.csv", "--csv-columns", "path=path,class=cifar10_class,split=split", "--short-side", 32),
    )
    assert code == 0
    counts = {"cifar7/train": 35_000, "cifar7/val": 7_000, "tiny7/train": 11_000, "tiny7/val": 1_100}
    for split, count in counts.items():
        manifest = load_manifest(tmp_path / split)
        manifest.verify_shards()
        assert (manifest.count, manifest.skipped, list(manifest.classes)) == (count, 0, SEVEN)
        index = manifest.load_index()
        with ShardReader(manifest, index) as reader:
            sizes = {Image.open(io.BytesIO(reader.read(i))).size for i in range(0, count, 50)}
        assert sizes == {(32, 32)}
    per_class = np.bincount(load_manifest(tmp_path / "tiny7" / "train").load_index().labels["given"])
    assert dict(zip(SEVEN, per_class.tolist(), strict=True))["dog"] == 3000
    assert dict(zip(SEVEN, per_class.tolist(), strict=True))["truck"] == 500
