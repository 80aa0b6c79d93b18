"""Arrays as CIFAR-10.1 and CIFAR-10-C publish them, through data_scripts/imagefolder.py."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_scripts import imagefolder
from en_bench.data.manifest import load_manifest
from tests.scripts.calling import Run, caller
from tests.scripts.raw import (
    REPO,
    classes_of,
    fit_and_validate,
    samples_of,
    tar_bytes,
    write_tree,
)

CLASSES = REPO / "data_scripts" / "classes"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(imagefolder, capsys)


def given(folder: Path) -> dict[str, int]:
    return {key: labels["given"] for key, (labels, _) in samples_of(folder).items()}


def saved(array: np.ndarray, **options: bool) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_cifar10_1_becomes_a_set_for_validation(tmp_path, run):
    images, labels = pixels(6), np.array([3, 9, 0, 3, 6, 1])
    files = {"cifar10.1_v6_data.npy": saved(images), "cifar10.1_v6_labels.npy": saved(labels)}
    files |= {"cifar10.1_v4_data.npy": saved(images[:2]), "cifar10.1_v4_labels.npy": saved(labels[:2])}
    raw = write_tree(tmp_path / "datasets", files)
    options = ("--raw", raw, "--layout", "arrays", "--dataset", "cifar10_1")
    assert run("--out", tmp_path / "ten", *options, "--class-map", CLASSES / "cifar10_index.csv")[0] == 0
    manifest = load_manifest(tmp_path / "ten" / "val")
    ten = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert (manifest.classes, manifest.count, manifest.image["reencoded"]) == (ten, 6, 0)
    found = samples_of(manifest.folder)
    assert given(manifest.folder) == {f"cifar10_1_v6/{row:05d}": label for row, label in enumerate(labels)}
    for row in range(6):
        image = Image.open(io.BytesIO(found[f"cifar10_1_v6/{row:05d}"][1]))
        assert image.format == "PNG" and np.array_equal(np.asarray(image), images[row])
    assert run("--out", tmp_path / "seven", *options, "--class-map", CLASSES / "cifar7_index.csv")[0] == 0
    assert classes_of(tmp_path / "seven" / "val") == {
        "cifar10_1_v6/00000": "cat",
        "cifar10_1_v6/00001": "truck",
        "cifar10_1_v6/00003": "cat",
        "cifar10_1_v6/00004": "frog",
        "cifar10_1_v6/00005": "automobile",
    }
    assert run("--out", tmp_path / "v4", *options, "--arrays", "cifar10.1_v4")[0] == 0
    assert load_manifest(tmp_path / "v4" / "val").classes == ("3", "9")
    assert fit_and_validate(tmp_path, "ten/val", "ten/val", tmp_path / "run").count == 6


def test_cifar10_c_is_cut_at_its_severities(tmp_path, run):
    images, labels = pixels(15), np.tile(np.array([2, 0, 1], dtype=np.uint8), 5)
    files = {f"CIFAR-10-C/{name}.npy": saved(images) for name in ("fog", "snow")}
    raw = tmp_path / "CIFAR-10-C.tar"
    raw.write_bytes(tar_bytes({**files, "CIFAR-10-C/labels.npy": saved(labels)}))
    options = ("--raw", raw, "--layout", "arrays", "--dataset", "cifar10_c", "--corruption", "fog")
    assert run("--out", tmp_path / "fog3", *options, "--severity", 3)[0] == 0
    found = samples_of(tmp_path / "fog3" / "val")
    assert given(tmp_path / "fog3" / "val") == {"fog/3/00000": 2, "fog/3/00001": 0, "fog/3/00002": 1}
    for row in range(3):  # the third fifth of the rows
        decoded = np.asarray(Image.open(io.BytesIO(found[f"fog/3/{row:05d}"][1])))
        assert np.array_equal(decoded, images[6 + row])
    source = load_manifest(tmp_path / "fog3" / "val").source
    assert (source["corruption"], source["severity"]) == ("fog", 3)
    assert run("--out", tmp_path / "fog", *options)[0] == 0
    assert sorted(given(tmp_path / "fog" / "val"))[::3] == [f"fog/{level}/00000" for level in range(1, 6)]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (saved(np.array([{}], dtype=object), allow_pickle=True), saved(np.arange(1)), "Object arrays cannot be loaded"),
        (saved(pixels(5))[:-1], saved(np.arange(5)), "fog.npy: not a whole array"),
        (
            saved(pixels(5) / 255),
            saved(np.arange(5)),
            "float64 of shape (5, 32, 32, 3), not uint8 of (n,",
        ),
        (saved(pixels(5)), saved(np.arange(4)), "int64 of shape (4,) cannot label 5 images"),
        (saved(pixels(5)), saved(np.arange(5)), "labels.npy: not the same labels 5 times"),
        (saved(pixels(6)), saved(np.zeros(6, int)), "labels.npy: not the same labels 5 times"),
        (None, saved(np.arange(5)), "no fog.npy in it: name the folder or archive of the arrays as published; there"),
    ],
)
def test_arrays_that_are_not_what_they_should_be_end_in_one_line(tmp_path, run, images, labels, message):
    raw = write_tree(tmp_path / "raw", {"labels.npy": labels} | ({"fog.npy": images} if images is not None else {}))
    options = ("--out", tmp_path / "out", "--dataset", "toy", "--layout", "arrays", "--corruption", "fog")
    code, _, err = run("--raw", raw, *options)
    assert code == 1
    assert message in err and err.count("\n") == 1
    code, _, err = run("--raw", raw, *options[:-2])
    assert code == 1 and "no cifar10.1_v6_data.npy in it" in err
