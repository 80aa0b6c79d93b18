"""What cannot be CIFAR, or cannot be its human labels, ends in one line; and the rates of the real labels."""

import io
import os
import pickle
import pickletools
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_scripts import cifar
from en_bench.data.manifest import load_manifest
from tests.scripts.raw import jpeg, tar_bytes, write_tree
from tests.scripts.test_cifar import HUMAN, TRAIN, binary_files, cifar100_files, human_file, image_files, python_files

PY, BIN = "cifar-10-batches-py", "cifar-10-batches-bin"


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch run",)


def batch(labels: object, data: object) -> bytes:
    return pickle.dumps({b"labels": labels, b"data": data}, 2)


def white(count: int, width: int = 3072) -> np.ndarray:
    return np.full((count, width), 255, np.uint8)


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, files: dict[str, bytes], *options: object) -> str:
    """The one line in which preparing `files` ends; nothing is written."""
    write_tree(folder / "raw", files)
    arguments = ["--raw", folder / "raw", "--out", folder / "out", "--workers", 1, *options]
    assert cifar.main([str(argument) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (folder / "out").exists()
    return error


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x/readme.txt": b"hello"}, "raw: none of 1 files is one of CIFAR's (data_batch_1, data_batch_1.bin, "),
        (python_files() | binary_files(), "holds the python files of cifar10 and the binary files of cifar10: name"),
        (python_files() | cifar100_files("python"), "holds the python files of cifar10 and the python files of cifar1"),
        (python_files() | image_files(), "holds the python files of cifar10 and image files: name one of them"),
        ({f"{side}/{n}": c for side in "ab" for n, c in python_files().items()}, "holds data_batch_1 twice, 'a/"),
        ({f"{PY}/data_batch_3": None}, "lacks data_batch_3: download or unpack it again"),
        ({f"{PY}/data_batch_3": b""}, f"{PY}/data_batch_3: an empty file: download it again"),
        ({f"{PY}/data_batch_3": python_files()[f"{PY}/data_batch_3"][:900]}, "data_batch_3: not a whole pickle"),
        ({f"{PY}/data_batch_3": pickle.dumps(Evil(), 2)}, "data_batch_3: asks to load"),
        (
            {f"{PY}/data_batch_3": batch([1, 2], white(2))},
            "batches are not of one size (data_batch_1 4, data_batch_2",
        ),
        ({f"{PY}/data_batch_3": batch([1, 2], white(4))}, "holds no 'labels', one for each of 4 images"),
        ({f"{PY}/data_batch_3": batch([1] * 4, white(4, 3000))}, "holds no array 'data' of bytes, 3072 per image"),
        ({f"{PY}/data_batch_3": batch([1, 2, 3, 10], white(4))}, "data_batch_3: label 10 is not in 0 .. 9"),
        ({f"{PY}/data_batch_3": batch([1, 2, 3, "4"], white(4))}, "data_batch_3: label '4' is not in 0 .. 9"),
        ({f"{PY}/batches.meta": pickle.dumps({b"label_names": [b"cat"]}, 2)}, "batches.meta does not list the classes"),
        ({f"{BIN}/test_batch.bin": b"\1" * 3072}, "test_batch.bin: 3,072 bytes are no records of 3073"),
        ({f"{BIN}/test_batch.bin": b""}, "test_batch.bin: 0 bytes are no records of 3073"),
        ({f"{BIN}/test_batch.bin": b"\x0a" * 3073}, "test_batch.bin: label 10 is not in 0 .. 9"),
        ({f"{BIN}/batches.meta.txt": b"cat\n"}, "batches.meta.txt does not list the classes of cifar10"),
        (
            {name: content for name, content in image_files().items() if name.startswith("train")},
            "raw: no images in test/<class>/: name what holds both train and test",
        ),
        (
            {name.replace("/cat/", "/lion/"): content for name, content in image_files().items()},
            "raw: its class folders are not those of cifar10 (lacks cat, has also lion): correct --raw, or use imagefo",
        ),
    ],
)
def test_raw_files_that_are_not_a_whole_cifar(tmp_path, capsys, monkeypatch, files, message):
    monkeypatch.chdir(tmp_path)
    if len(files) == 1:
        whole = {PY: python_files(), BIN: binary_files()}.get(next(iter(files)).partition("/")[0], {}) | files
        files = {name: content for name, content in whole.items() if content is not None}
    assert message in refusal(capsys, tmp_path, files)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_is_a_link_is_named(tmp_path, capsys):
    files = python_files()
    del files[f"{PY}/data_batch_5"]
    raw = io.BytesIO(tar_bytes(files))
    with tarfile.open(fileobj=raw, mode="a") as tar:
        link = tarfile.TarInfo(f"{PY}/data_batch_5")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    message = refusal(capsys, tmp_path, {"c.tar": raw.getvalue()})
    assert "lacks data_batch_5 (one is a link or no regular file)" in message


ROTATED = {key: values[1:] + values[:1] for key, values in HUMAN.items()}
OTHER = HUMAN | {"clean_label": [(label + 1) % 10 if n in (4, 9) else label for n, label in enumerate(TRAIN)]}
FEW = {key: values[:19] for key, values in HUMAN.items()}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ROTATED,
            # by hand: of the 20 neighbours in TRAIN, and the last with the first, 14 differ
            "14 of 20 clean labels are not those of the set, first at 0 (9, in the set 6): the same labels in another "
            "order, such as TensorFlow's: use the file in the original order",
        ),
        (OTHER, "2 of 20 clean labels are not those of the set, first at 4 (2, in the set 1): name the CIFAR-N file"),
        (FEW, "19 labels for 20 training images: give it the whole training set"),
        ({"clean_label": TRAIN}, "lacks 'aggre_label' (it has clean_label): name the CIFAR-N file of cifar10"),
        (HUMAN | {"worse_label": TRAIN[:-1]}, "19 labels worst, 20 clean ones: download it again"),
        (HUMAN | {"worse_label": [*TRAIN[:-1], 10]}, "'worse_label' holds 10 at 19, not a class number in 0 .. 9"),
        (HUMAN | {"worse_label": [*TRAIN[:-1], -1]}, "'worse_label' holds -1 at 19, not a class number"),
        (HUMAN | {"worse_label": [0.5] * 20}, "'worse_label' is no list of class numbers"),
        (HUMAN | {"worse_label": [TRAIN]}, "'worse_label' is no list of class numbers"),
        (b"", "human.npy: an empty file: download it again"),
        (pickle.dumps(Evil()), "human.npy: asks to load"),
        (None, "human.npy: neither a file nor one within"),
    ],
)
def test_human_labels_that_are_not_those_of_the_set(tmp_path, capsys, monkeypatch, labels, message):
    monkeypatch.chdir(tmp_path)
    noisy = tmp_path / "human.npy"
    if isinstance(labels, bytes):
        noisy.write_bytes(labels)
    elif labels is not None:
        human_file(noisy, labels)
    assert message in refusal(capsys, tmp_path, python_files(), "--noisy", noisy)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train/cat/0001.jpg": None}, "2 clean labels are cat, 1 training images are: give it the whole"),
        (
            {"train/cat/0001.jpg": None, "train/cat/x.jpg": b""},
            "as 'train/cat/x.jpg' has no number for a name: use",
        ),
        ({"train/cat/01.jpg": b""}, "the order of the images is not known, as class cat holds two files numbered 1"),
    ],
)
def test_image_files_whose_order_is_not_known_take_no_human_labels(tmp_path, capsys, change, message):
    files = {name: content for name, content in (image_files() | change).items() if content is not None}
    assert message in refusal(capsys, tmp_path, files, "--noisy", human_file(tmp_path / "human.npy"))


def test_image_files_are_counted_by_number_not_by_text(tmp_path):
    # without leading zeros 10 would come before 2
    files = {f"train/{name.split('/')[1]}/0.jpg": c for name, c in image_files().items() if "0000" in name}
    files |= {f"train/truck/{k}.jpg": jpeg(k, (32, 32)) for k in range(1, 12)}
    files |= {name.replace("train", "test"): content for name, content in files.items()}
    clean = [*range(10), *[9] * 11]
    labels = dict.fromkeys(HUMAN, clean) | {"worse_label": [*range(10), 1, 2, *[9] * 9]}
    options = ("--raw", write_tree(tmp_path / "raw", files), "--noisy", human_file(tmp_path / "h.npy", labels))
    assert cifar.main([str(o) for o in (*options, "--out", tmp_path / "out", "--workers", 1)]) == 0
    index = load_manifest(tmp_path / "out" / "train").load_index()
    worst = {index.key(row): int(index.labels["worst"][row]) for row in range(len(index))}
    assert [worst[f"truck/{k}"] for k in (0, 1, 2, 3, 10, 11)] == [9, 1, 2, 9, 9, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--classes", "cat,lion"), "--classes cat,lion: 'lion' is no class of cifar10: choose from airplane, auto"),
        (("--classes", "cat,cat"), "--classes cat,cat: a class comes twice: choose from"),
        (("--class-map", "map.csv"), "map.csv: 'lion' is no class of cifar10: choose from airplane"),
        (("--short-side", "32", "--quality", "100"), "JPEG quality 100 is not usable"),
    ],
)
def test_classes_that_are_none(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.csv").write_text("source,target\nlion,cat\n")
    assert message in refusal(capsys, tmp_path, python_files(), *options)


@pytest.fixture
def archives() -> Path:
    place = os.environ.get("EN_BENCH_DATA")
    if place is None:
        pytest.skip("EN_BENCH_DATA does not say where the archives lie")
    return Path(place)


def listed_labels(path: Path) -> dict[str, np.ndarray]:
    """Labels of the real file by another way: its operations are listed, and none is carried out."""
    with zipfile.ZipFile(path) as archive:
        content = archive.read("archive/data.pkl")
    found, key = {}, ""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "BINUNICODE" and str(argument).partition("_label")[1]:
            key = str(argument)
        elif operation.name == "BINUNICODE" and len(str(argument)) == 8 * 50_000:
            found[key] = np.frombuffer(str(argument).encode("latin1"), "<i8")
    return found


@pytest.mark.slow
def test_the_real_labels_have_the_published_rates_and_reach_the_index(tmp_path, archives):
    labels = listed_labels(archives / "CIFAR-10_human.pt")
    clean = labels["clean_label"]
    rates = {key: round(100 * float((values != clean).mean()), 2) for key, values in labels.items()}
    published = {"aggre": 9.01, "random1": 17.23, "random2": 18.12, "random3": 17.64, "worst": 40.21}
    keys = {"aggre": "aggre_label", "worst": "worse_label", **{f"random{k}": f"random_label{k}" for k in (1, 2, 3)}}
    assert {column: rates[key] for column, key in keys.items()} == published
    options = ("--raw", archives / "cifar10_jpeg.tar.xz", "--noisy", archives / "CIFAR-10_human.pt")
    assert cifar.main([str(o) for o in (*options, "--out", tmp_path, "--workers", 1, "--no-verify")]) == 0
    train = load_manifest(tmp_path / "train")
    assert (train.count, load_manifest(tmp_path / "val").count, train.skipped) == (50_000, 10_000, 0)
    realised = {column: round(100 * what["realised"], 2) for column, what in train.noise.items()}
    assert realised == published
    index = train.load_index()
    places = {name: np.flatnonzero(clean == number) for number, name in enumerate(train.classes)}
    for row in range(0, 50_000, 7):
        category, _, number = index.key(row).partition("/")
        place = places[category][int(number)]
        assert all(index.labels[column][row] == labels[key][place] for column, key in keys.items())
