"""data_scripts/imagefolder.py: classes and splits by maps, lists, subfolders; validation-only sets."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_scripts import imagefolder
from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader
from tests.scripts import raw as raw_files
from tests.scripts.calling import Run, caller
from tests.scripts.folders import as_csv, as_tar, jpeg, tree
from tests.scripts.raw import classes_of, fit_and_validate, samples_of, tar_bytes, write_tree

SEVEN = ["automobile", "bird", "cat", "dog", "frog", "ship", "truck"]
CLASSES = raw_files.REPO / "data_scripts" / "classes"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(imagefolder, capsys)


def test_a_class_map_keeps_renames_and_counts(tmp_path, run):
    table = as_csv(tmp_path / "map.csv", [("source", "target"), ("dog", "pet"), ("cat", "animal"), ("cow", "cattle")])
    raw = write_tree(tmp_path / "raw", tree())
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--class-map", table)
    code, out, _ = run(*options, "--split-map", "test=val")
    assert code == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["train", "val"]
    manifest = load_manifest(tmp_path / "out" / "val")
    assert (manifest.classes, manifest.count) == (("animal", "cattle", "pet"), 6)
    assert classes_of(tmp_path / "out" / "val")["dog/001"] == "pet"
    assert "left out 6 files of 1 classes that map.csv does not map (first: 'horse')" in out
    assert "left out 1 classes of map.csv that have no files (first: 'cow')" in out
    table.write_text(table.read_text().replace("cow", "yak"))
    code, _, err = run(*options, "--split-map", "test=val")
    assert code == 1
    assert "made with other class_map.sha256" in err, "another class map is another data set"


def test_class_folders_without_a_split_need_its_name(tmp_path, run):
    files = {f"imagenet-r/{name}/{i}.jpg": jpeg(i) for name in ("n1", "n2") for i in range(2)}
    raw = as_tar(tmp_path / "imagenet-r.tar", files | {"imagenet-r/README.txt": b"hello"})
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")
    code, out, _ = run(*options, "--split", "val")
    assert code == 0
    assert os.listdir(tmp_path / "out") == ["val"]
    assert classes_of(tmp_path / "out" / "val") == {"n1/0": "n1", "n1/1": "n1", "n2/0": "n2", "n2/1": "n2"}
    assert "left out 1 files that are not in <class>/ (first: 'imagenet-r/README.txt')" in out
    assert load_manifest(tmp_path / "out" / "val").source["split"] == "val"


def test_a_subfolder_selects_one_of_many_sets(tmp_path, run):
    # as ImageNet-C comes: blur.tar holds <corruption>/<severity>/<class>/<file>
    places = [(kind, level, c) for kind in ("motion_blur", "glass_blur") for level in (1, 2) for c in ("n1", "n2")]
    files = {f"{kind}/{level}/{c}/a.JPEG": jpeg(i) for i, (kind, level, c) in enumerate(places)}
    raw = write_tree(tmp_path / "raw", {"blur.tar": tar_bytes(files)})
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--split", "val")
    assert run(*options, "--subfolder", "motion_blur/2")[0] == 0
    found = samples_of(tmp_path / "out" / "val")
    assert {key: content for key, (_, content) in found.items()} == {
        "n1/a": files["motion_blur/2/n1/a.JPEG"],
        "n2/a": files["motion_blur/2/n2/a.JPEG"],
    }
    code, _, err = run(*options, "--subfolder", "glass_blur/2")
    assert code == 1 and "made with other" in err and "made with other subfolder" in err
    code, _, err = run(*options, "--subfolder", "2")
    assert code == 1 and "2 lies in blur/glass_blur and in blur/motion_blur: say more of its path" in err
    code, _, err = run(*options, "--subfolder", "snow/1")
    assert code == 1 and "no folder snow/1 with files in it: correct --subfolder" in err


def test_numbered_folders_become_wordnet_ids_and_a_list_names_the_absent_classes(tmp_path, run):
    # as ImageNet-V2 comes: folders 0 to 999, which a sort by name would put in another order
    files = {f"imagenetv2-matched-frequency-format-val/{i}/a.jpeg": jpeg(i) for i in (0, 2, 10, 999)}
    raw = as_tar(tmp_path / "v2.tar.gz", files, "w:gz")
    options = ("--raw", raw, "--out", tmp_path / "v2", "--dataset", "v2", "--split", "val")
    code, out, _ = run(*options, "--class-map", CLASSES / "imagenet_index.csv")
    assert code == 0
    manifest = load_manifest(tmp_path / "v2" / "val")
    assert len(manifest.classes) == 1000
    wnids = {"0/a": "n01440764", "2/a": "n01484850", "10/a": "n01530575", "999/a": "n15075141"}
    assert classes_of(tmp_path / "v2" / "val") == wnids
    assert {key: labels["given"] for key, (labels, _) in samples_of(manifest.folder).items()} == {
        "0/a": 0,
        "2/a": 2,
        "10/a": 10,
        "999/a": 999,
    }
    assert manifest.source["class_map"]["version"] == "1"
    assert "1,000 classes: n01440764, n01443537, n01484850 ... n15075141" in out


def test_a_set_of_fewer_classes_validates_a_network_of_more(tmp_path, run):
    write_tree(tmp_path / "raw", tree())
    assert run("--raw", tmp_path / "raw", "--out", tmp_path / "full", "--dataset", "full")[0] == 0
    few = write_tree(tmp_path / "few", {f"{name}/{i}.jpg": jpeg(i) for name in ("cat", "horse") for i in range(2)})
    names = as_csv(tmp_path / "names.csv", [("class", "note"), ("cat", ""), ("dog", ""), ("horse", "x")])
    options = ("--raw", few, "--out", tmp_path / "few_out", "--dataset", "few", "--split", "val")
    code, out, _ = run(*options, "--class-list", names)
    assert code == 0
    assert "3 classes: cat, dog, horse; 1 of them have no image here: dog" in out
    manifest = load_manifest(tmp_path / "few_out" / "val")
    assert manifest.classes == load_manifest(tmp_path / "full" / "train").classes
    found = {key: labels["given"] for key, (labels, _) in samples_of(manifest.folder).items()}
    assert found == {"cat/0": 0, "cat/1": 0, "horse/0": 2, "horse/1": 2}
    assert manifest.source["class_list"].keys() == {"file", "sha256"}
    assert fit_and_validate(tmp_path, "full/train", "few_out/val", tmp_path / "run").count == 4
    as_csv(names, [("class",), ("cat",), ("dog",)])
    code, _, err = run("--class-list", names, *options)
    assert code == 1 and "does not name 1 of the 2 classes found in" in err and "(horse): map them" in err
    as_csv(names, [("class",), ("cat",), ("cat",)])
    code, _, err = run("--class-list", names, *options)
    assert code == 1 and "names class 'cat' a second time: keep one of its rows" in err


def test_a_csv_without_splits_and_a_class_map_go_together(tmp_path, run):
    # as a flat sample of ImageNet comes: n01440764_tench.JPEG
    files = {f"n{i}_x.JPEG": jpeg(i) for i in range(4)}
    table = as_csv(tmp_path / "t.csv", [("path", "class"), *((name, name[:2]) for name in files)])
    names = as_csv(tmp_path / "m.csv", [("source", "target"), ("n0", "a"), ("n1", "b"), ("n3", "a")])
    raw = as_tar(tmp_path / "flat.tar", files)
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--csv", table, "--class-map", names)
    assert run(*options, "--split", "val")[0] == 0
    assert classes_of(tmp_path / "out" / "val") == {"n0_x": "a", "n1_x": "b", "n3_x": "a"}
    code, _, err = run(*options)
    assert code == 1 and "t.csv: no column 'split'" in err


@pytest.fixture
def archives() -> Path:
    place = os.environ.get("EN_BENCH_DATA")
    if place is None:
        pytest.skip("EN_BENCH_DATA does not say where the archives lie")
    return Path(place)


@pytest.mark.slow
def test_cifar10_and_tiny_imagenet_end_with_the_same_seven_classes(tmp_path, run, archives):
    code, out, _ = run(
        *("--raw", archives / "cifar10_jpeg.tar.xz", "--out", tmp_path / "cifar7", "--dataset", "cifar7"),
        *("--class-map", CLASSES / "cifar7.csv", "--split-map", "test=val"),
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
        assert (manifest.count, manifest.skipped, list(manifest.classes)) == (count, 0, SEVEN)
        index = manifest.load_index()
        with ShardReader(manifest, index) as reader:
            sizes = {Image.open(io.BytesIO(reader.read(i))).size for i in range(0, count, 50)}
        assert sizes == {(32, 32)}
    per_class = np.bincount(load_manifest(tmp_path / "tiny7" / "train").load_index().labels["given"])
    assert dict(zip(SEVEN, per_class.tolist(), strict=True))["dog"] == 3000
    assert dict(zip(SEVEN, per_class.tolist(), strict=True))["truck"] == 500


def test_classes_that_some_splits_lack_are_said(tmp_path, run):
    files = {f"toy/train/n{c}/{i}.jpg": jpeg(i) for c in (1, 2) for i in range(3)} | {"toy/words.txt": b"n1"}
    files |= {f"toy/{split}/n{c}/{i}.jpg": jpeg(i) for split in ("val", "test") for c in (2, 3) for i in range(3)}
    code, out, _ = run("--raw", write_tree(tmp_path / "raw", files), "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 0
    assert "3 classes: n1, n2, n3; left out 1 files" in out
    assert "; 1 classes occur in test and val only: n3; 1 classes occur in train only: n1\n" in out


def test_splits_without_a_class_in_common_are_refused(tmp_path, run):
    # as Tiny ImageNet comes: the images of val and test lie in a folder `images` instead of their classes
    files = {f"tiny/train/n{c}/images/{i}.jpg": jpeg(i) for c in (1, 2) for i in range(3)}
    files |= {f"tiny/{split}/images/{i}.jpg": jpeg(i) for split in ("val", "test") for i in range(3)}
    code, _, err = run("--raw", write_tree(tmp_path / "raw", files), "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 1
    assert "train and val have no class in common (train: n1, n2; val: images): --raw must hold" in err
