"""CIFAR in every form in which it is published, with human labels, from raw archives to training on their shards."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_scripts import cifar
from data_scripts.layouts.cifar_sets import CIFAR10, CIFAR100
from en_bench.data.manifest import load_manifest, to_fields
from tests.scripts.calling import Run, preparer
from tests.scripts.raw import (
    fit_and_validate,
    jpeg,
    png,
    run_script,
    samples_of,
    skipped_of,
    tar_bytes,
    truncated_jpeg,
    turned_jpeg,
    write_tree,
)

# Four images in each of five batches, and six to test: airplane 0, automobile 1, bird 2, cat 3 ... truck 9.
TRAIN = [6, 9, 9, 4, 1, 1, 2, 7, 8, 3, 4, 7, 7, 2, 9, 9, 9, 3, 2, 6]
TEST = [3, 8, 8, 0, 6, 1]
HUMAN = {
    "clean_label": TRAIN,
    "aggre_label": [6, 9, 9, 4, 1, 1, 2, 7, 8, 3, 4, 7, 7, 2, 9, 9, 9, 5, 2, 6],
    "random_label1": [6, 9, 1, 4, 1, 1, 2, 7, 8, 3, 4, 7, 7, 2, 9, 9, 9, 5, 2, 6],
    "random_label2": [6, 9, 9, 4, 1, 1, 2, 7, 8, 3, 4, 7, 7, 0, 9, 9, 9, 5, 2, 6],
    "random_label3": [6, 9, 9, 4, 1, 1, 2, 7, 0, 3, 4, 7, 7, 2, 9, 9, 9, 3, 2, 6],
    "worse_label": [6, 1, 1, 4, 9, 1, 2, 7, 0, 5, 4, 7, 7, 0, 9, 9, 9, 5, 2, 6],
}


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def human_file(path: Path, labels: dict[str, list[int]] = HUMAN) -> Path:
    with path.open("wb") as file:
        np.save(file, {key: np.array(values) for key, values in labels.items()}, allow_pickle=True)
    return path


def python_files() -> dict[str, bytes]:
    train, test = pixels(20, 1), pixels(6, 2)
    parts = {f"data_batch_{n + 1}": (train[4 * n : 4 * n + 4], TRAIN[4 * n : 4 * n + 4]) for n in range(5)}
    parts["test_batch"] = (test, TEST)
    files = {
        name: pickle.dumps({b"batch_label": b"x", b"labels": labels, b"data": data, b"filenames": [b"a.png"]}, 2)
        for name, (data, labels) in parts.items()
    }
    files["batches.meta"] = pickle.dumps({b"label_names": [name.encode() for name in CIFAR10.classes]}, 2)
    return {f"cifar-10-batches-py/{name}": content for name, content in files.items()} | {
        "cifar-10-batches-py/readme.html": b"<html>"
    }


def records(data: np.ndarray, *labels: list[int]) -> bytes:
    return np.concatenate([np.array(labels, np.uint8).T, data], axis=1).tobytes()


def binary_files() -> dict[str, bytes]:
    train, test = pixels(20, 1), pixels(6, 2)
    files = {f"data_batch_{n + 1}.bin": records(train[4 * n : 4 * n + 4], TRAIN[4 * n : 4 * n + 4]) for n in range(5)}
    files["test_batch.bin"] = records(test, TEST)
    files["batches.meta.txt"] = "\n".join([*CIFAR10.classes, "", ""]).encode()
    return {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}


def image_files() -> dict[str, bytes]:
    """All ten classes, the k-th file of a class for its k-th sample, some of them in the forms that puzzle readers."""
    files = {}
    for folder, labels in (("train", TRAIN), ("test", [*TEST, 2, 4, 5, 7, 9])):
        seen = [0] * 10
        for position, label in enumerate(labels):
            files[f"{folder}/{CIFAR10.classes[label]}/{seen[label]:04d}.jpg"] = jpeg(position, (32, 32))
            seen[label] += 1
    files["train/truck/0000.jpg"] = png(50, (32, 32))
    files["train/truck/0001.jpg"] = jpeg(51, (32, 32), "CMYK")
    files["train/truck/0002.jpg"] = turned_jpeg(52, (32, 24))
    files["train/bird/0001.jpg"] = b""
    files["train/horse/0002.jpg"] = truncated_jpeg(53)
    return files


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return preparer(cifar, capsys)


def archive(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    path.write_bytes(tar_bytes(files, mode))
    return path


def without_provenance(folder: Path) -> dict[str, object]:
    fields = to_fields(load_manifest(folder))
    source = dict(fields["source"])
    del source["raw"]
    return {**fields, "source": source}


def check_arrays(out: Path) -> None:
    train, test = samples_of(out / "train"), samples_of(out / "val")
    assert (len(train), len(test)) == (20, 6)
    for found, labels, planes, name in ((train, TRAIN, pixels(20, 1), "train"), (test, TEST, pixels(6, 2), "val")):
        for position, label in enumerate(labels):
            columns, payload = found[f"{name}/{position:05d}"]
            assert columns["given"] == columns["clean"] == label
            image = np.asarray(Image.open(io.BytesIO(payload)))
            assert np.array_equal(image, planes[position].reshape(3, 32, 32).transpose(1, 2, 0)), "without loss"


@pytest.mark.parametrize(("name", "files"), [("python", python_files()), ("binary", binary_files())])
def test_arrays_keep_order_labels_and_pixels_from_tar_folder_and_zip(tmp_path, run, name, files):
    noisy = human_file(tmp_path / "human.npy")
    raws = [
        archive(tmp_path / f"cifar-10-{name}.tar.gz", files),
        write_tree(tmp_path / "folder", files),
        tmp_path / "folder" / next(iter(files)).partition("/")[0],
    ]
    nested = tmp_path / "nested"
    nested.mkdir()
    raws.append(nested)
    archive(nested / "cifar.tar.gz", files)
    raws.append(tmp_path / "cifar.zip")
    with zipfile.ZipFile(raws[-1], "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in files.items():
            file.writestr(member, content)
    for number, raw in enumerate(raws):
        code, said, error = run(raw, tmp_path / f"out{number}", "--noisy", noisy)
        assert code == 0, error
        check_arrays(tmp_path / f"out{number}")
        assert "train has 20 images, the set as published 50,000" in said
        for split in ("train", "val"):
            first, this = (without_provenance(tmp_path / out / split) for out in ("out0", f"out{number}"))
            assert first == this
    train = load_manifest(tmp_path / "out0" / "train")
    assert (train.dataset, train.classes) == ("cifar10", CIFAR10.classes)
    assert train.columns == ("given", "clean", "aggre", "random1", "random2", "random3", "worst")
    assert load_manifest(tmp_path / "out0" / "val").columns == ("given", "clean")
    # by hand, of 20: aggre 17; random1 2 and 17; random2 13 and 17; random3 8; worst 1, 2, 4, 8, 9, 13 and 17
    assert {column: what["realised"] for column, what in train.noise.items()} == {
        **{"aggre": 1 / 20, "random1": 2 / 20, "random2": 2 / 20, "random3": 1 / 20, "worst": 7 / 20},
    }
    assert train.noise["worst"]["kind"] == "human" and train.noise["worst"]["source"] == "CIFAR-10N"
    assert samples_of(tmp_path / "out0" / "train")["train/00008"][0] == {
        **{"given": 8, "clean": 8, "aggre": 8, "random1": 8, "random2": 8, "random3": 0, "worst": 0},
    }


def test_image_files_keep_their_bytes_and_end_in_training(tmp_path, run):
    noisy = human_file(tmp_path / "human.npy")
    files = image_files()
    raws = [archive(tmp_path / "images.tar.xz", {f"set/{n}": c for n, c in files.items()}, "w:xz")]
    raws.append(write_tree(tmp_path / "folder", {**files, "README": b"hello"}))
    for raw, out in zip(raws, ("a", "b"), strict=True):
        code, said, error = run(raw, tmp_path / out, "--noisy", noisy)
        assert code == 0, error
        assert "human labels: by class and number of the file" in said
        assert ("left out 1 files that are not in {train,test}/<class>/ (first: 'README')" in said) == (out == "b")
    assert without_provenance(tmp_path / "a" / "train") == without_provenance(tmp_path / "b" / "train")
    assert skipped_of(tmp_path / "a" / "train") == {
        "train/bird/0001.jpg": "empty file",
        "train/horse/0002.jpg": skipped_of(tmp_path / "b" / "train")["train/horse/0002.jpg"],
    }
    assert skipped_of(tmp_path / "a" / "train")["train/horse/0002.jpg"] != ""
    train = samples_of(tmp_path / "a" / "train")
    assert len(train) == 18 and len(samples_of(tmp_path / "a" / "val")) == 11
    assert train["frog/0001"][1] == files["train/frog/0001.jpg"]
    assert train["truck/0000"][1] == files["train/truck/0000.jpg"], "a PNG, whatever its name"
    shapes = [Image.open(io.BytesIO(train[f"truck/000{k}"][1])) for k in (1, 2)]
    assert [(image.mode, image.size) for image in shapes] == [("RGB", (32, 32)), ("RGB", (24, 32))]
    # k-th file of a class = k-th sample of that class. Trucks stand at 1, 2, 14, 15, 16, birds at 6, 13, 18.
    worst = {key: labels["worst"] for key, (labels, _) in train.items()}
    assert [worst[f"truck/000{k}"] for k in range(5)] == [1, 1, 9, 9, 9]
    assert [worst[f"automobile/000{k}"] for k in (0, 1)] == [9, 1]
    assert (worst["cat/0000"], worst["cat/0001"], worst["bird/0002"], worst["ship/0000"]) == (5, 5, 2, 0)
    val = fit_and_validate(tmp_path, "a/train", "a/val", tmp_path / "run", "--data.labels", "worst")
    assert (val.count, val.classes) == (11, CIFAR10.classes)


def test_a_subset_by_clean_label_drops_and_counts_noisy_labels(tmp_path, run):
    raw, noisy = archive(tmp_path / "c.tar.gz", python_files()), human_file(tmp_path / "human.npy")
    code, said, error = run(raw, tmp_path / "out", "--noisy", noisy, "--classes", "truck,cat, bird")
    assert code == 0, error
    train = load_manifest(tmp_path / "out" / "train")
    assert (train.count, train.classes) == (10, ("bird", "cat", "truck"))  # 3 birds, 2 cats, 5 trucks
    assert (load_manifest(tmp_path / "out" / "val").count, train.source["classes"]) == (1, ["bird", "cat", "truck"])
    # outside: aggre 17 (dog); random1 2 (automobile), 17; random2 13 (airplane), 17; worst 1, 2, 9, 13, 17
    assert train.source["dropped"] == {"aggre": 1, "random1": 2, "random2": 2, "random3": 0, "worst": 5}
    assert "labels outside the classes became unknown: aggre 1, random1 2, random2 2, random3 0, worst 5" in said
    assert "left out 10 samples of train whose clean label is not kept" in said
    assert all(what["realised"] == 0 for what in train.noise.values()), "over those that remain"
    found = samples_of(tmp_path / "out" / "train")
    assert found["train/00013"][0] == {
        **{"given": 0, "clean": 0, "aggre": 0, "random1": 0, "random2": -1, "random3": 0, "worst": -1},
    }
    columns = load_manifest(tmp_path / "out" / "train").load_index().labels
    assert {column: int((values < 0).sum()) for column, values in columns.items()} == {
        **{"given": 0, "clean": 0, **train.source["dropped"]},
    }


def test_dropped_labels_are_counted_over_what_a_limit_leaves(tmp_path, run):
    raw, noisy = archive(tmp_path / "c.tar.gz", python_files()), human_file(tmp_path / "human.npy")
    dropped = set()
    for seed in range(4):
        out = tmp_path / str(seed)
        options = ("--noisy", noisy, "--classes", "truck,cat,bird", "--limit", 3, "--seed", seed)
        code, said, error = run(raw, out, *options)
        assert code == 0, error
        train = load_manifest(out / "train")
        assert (train.count, load_manifest(out / "val").count) == (3, 1)
        unknown = {column: int((values < 0).sum()) for column, values in train.load_index().labels.items()}
        assert unknown == {"given": 0, "clean": 0, **train.source["dropped"]}
        assert "left out 10 samples of train whose clean label is not kept" in said
        if any(train.source["dropped"].values()):
            assert "of the 3 kept for train, labels outside the classes became unknown: aggre" in said
        dropped.add(train.source["dropped"]["worst"])
    assert len(dropped) > 1, "seeds draw others"


def test_a_class_map_makes_several_classes_one(tmp_path, run):
    raw, noisy = archive(tmp_path / "c.tar.gz", binary_files()), human_file(tmp_path / "human.npy")
    table = tmp_path / "map.csv"
    table.write_text("source,target\ntruck,vehicle\nautomobile,vehicle\ncat,pet\ndog,pet\n")
    code, _, error = run(raw, tmp_path / "out", "--noisy", noisy, "--class-map", table)
    assert code == 0, error
    train = load_manifest(tmp_path / "out" / "train")
    assert (train.classes, train.count) == (("pet", "vehicle"), 9)  # 2 automobiles, 5 trucks, 2 cats
    assert train.source["dropped"]["worst"] == 0 and train.noise["worst"]["realised"] == 0  # within vehicle, within pet
    assert train.source["class_map"]["file"] == "map.csv"
    table.write_text("source,target\ntruck,vehicle\nyak,cattle\n")
    code, _, error = run(raw, tmp_path / "typo", "--noisy", noisy, "--class-map", table)
    assert (code, "map.csv: 'yak' is no class of cifar10: choose from airplane, automobile" in error) == (1, True)


def cifar100_files(form: str) -> dict[str, bytes]:
    files = {}
    for name, labels in (("train", [19, 29, 0, 99]), ("test", [49, 33])):
        data, coarse = pixels(len(labels), len(labels)), [1] * len(labels)
        if form == "python":
            content = {b"data": data, b"fine_labels": labels, b"coarse_labels": coarse}
            files[f"cifar-100-python/{name}"] = pickle.dumps(content, 2)
        else:
            files[f"cifar-100-binary/{name}.bin"] = records(data, coarse, labels)
    names = [name.encode() for name in CIFAR100.classes]
    if form == "python":
        meta = {b"fine_label_names": names, b"coarse_label_names": [b"fish"]}
        return files | {"cifar-100-python/meta": pickle.dumps(meta, 2)}
    return files | {"cifar-100-binary/fine_label_names.txt": b"\n".join(names) + b"\n"}


@pytest.mark.parametrize("form", ["python", "binary"])
def test_cifar_100_takes_the_fine_classes(tmp_path, run, form):
    raw = archive(tmp_path / "c.tar.gz", cifar100_files(form))
    labels = {"clean_label": [19, 29, 0, 99], "noisy_label": [19, 3, 0, 98], "noisy_coarse_label": [1, 1, 1, 1]}
    code, _, error = run(raw, tmp_path / "out", "--noisy", human_file(tmp_path / "CIFAR-100_human.npy", labels))
    assert code == 0, error
    train = load_manifest(tmp_path / "out" / "train")
    assert (train.dataset, train.columns, len(train.classes)) == ("cifar100", ("given", "clean", "noisy"), 100)
    assert train.noise == {"noisy": {"kind": "human", "source": "CIFAR-100N", "realised": 0.5}}
    found = {
        key: (train.classes[v["given"]], train.classes[v["noisy"]]) for key, (v, _) in samples_of(train.folder).items()
    }
    assert found == {
        "train/00000": ("cattle", "cattle"),
        "train/00001": ("dinosaur", "bear"),
        "train/00002": ("apple", "apple"),
        "train/00003": ("worm", "woman"),
    }
    assert [len(samples_of(tmp_path / "out" / split)) for split in ("train", "val")] == [4, 2]


def test_the_command_with_two_workers(tmp_path):
    raw = archive(tmp_path / "c.tar.gz", binary_files())
    options = ("--raw", raw, "--out", tmp_path / "out", "--noisy", human_file(tmp_path / "h.npy"), "--shards", 3)
    done = run_script("cifar.py", *options, "--workers", 2)
    assert done.returncode == 0, done.stderr
    check_arrays(tmp_path / "out")
    assert done.stdout.endswith("26 samples in 2 splits, 10 classes, skipped 0\n")
