"""data_scripts/tiny_imagenet.py on a tiny Tiny ImageNet, as zip, tar and folder."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from data_scripts import tiny_imagenet
from en_bench.data.manifest import load_manifest
from tests.scripts.raw import (
    REPO,
    classes_of,
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

TOP = "tiny-imagenet-200"
CAT, DOG, TRUCK = "n02123045", "n02085620", "n03796401"
SIZE = (64, 64)


def published() -> dict[str, bytes]:
    """Three classes of up to four images. The boxes name one that is not there, the annotations leave one out."""
    train = {
        f"{CAT}/images/{CAT}_0.JPEG": jpeg(0, SIZE),
        f"{CAT}/images/{CAT}_1.JPEG": png(1, SIZE),
        f"{CAT}/images/{CAT}_2.JPEG": jpeg(2, SIZE, "CMYK"),
        f"{CAT}/images/same.JPEG": jpeg(3, SIZE),
        f"{DOG}/images/{DOG}_0.JPEG": turned_jpeg(4, (64, 48)),
        f"{DOG}/images/{DOG}_1.JPEG": b"",
        f"{DOG}/images/{DOG}_2.JPEG": truncated_jpeg(5),
        f"{DOG}/images/same.JPEG": jpeg(6, SIZE, "L"),
        f"{TRUCK}/images/{TRUCK}_0.JPEG": jpeg(7, SIZE),
    }
    boxes = {
        f"{wnid}/{wnid}_boxes.txt": "".join(
            f"{path.rpartition('/')[2]}\t0\t10\t63\t58\n" for path in train if path.startswith(wnid)
        )
        for wnid in (CAT, DOG, TRUCK)
    }
    boxes[f"{TRUCK}/{TRUCK}_boxes.txt"] += f"{TRUCK}_1.JPEG\t0\t10\t63\t58\n"
    val = {f"val_{i}.JPEG": jpeg(20 + i, SIZE) for i in range(5)}
    wnids = (DOG, CAT, TRUCK, DOG)
    annotations = "".join(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n" for i, wnid in enumerate(wnids))
    files = {f"train/{path}": content for path, content in train.items()}
    files |= {f"train/{path}": text.encode() for path, text in boxes.items()}
    files |= {f"val/images/{name}": content for name, content in val.items()}
    files["val/val_annotations.txt"] = annotations.encode()
    files["wnids.txt"] = f"{DOG}\n{TRUCK}\n{CAT}\n".encode()
    files["words.txt"] = f"{DOG}\tChihuahua\n".encode()
    files["test/images/test_0.JPEG"] = jpeg(40, SIZE)
    return {f"{TOP}/{name}": content for name, content in files.items()}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def prepare(raw: Path, out: Path, *options: object) -> int:
    return tiny_imagenet.main([str(o) for o in ("--raw", raw, "--out", out, "--workers", 1, *options)])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    assert prepare(zipped(root / "tiny-imagenet-200.zip", published()), root / "data" / "tiny_imagenet") == 0
    return root / "data"


def test_every_image_has_the_class_of_its_folder_or_of_the_annotations(prepared):
    train, val = (load_manifest(prepared / "tiny_imagenet" / split) for split in ("train", "val"))
    assert train.classes == val.classes == (DOG, CAT, TRUCK)
    assert (train.count, train.skipped, train.image["reencoded"]) == (7, 3, 2)
    assert (val.count, val.skipped, val.image["reencoded"]) == (4, 0, 0)
    found = samples_of(train.folder)
    assert {key: labels["given"] for key, (labels, _) in found.items()} == {
        f"{CAT}/{CAT}_0": 1,
        f"{CAT}/{CAT}_1": 1,
        f"{CAT}/{CAT}_2": 1,
        f"{CAT}/same": 1,
        f"{DOG}/{DOG}_0": 0,
        f"{DOG}/same": 0,
        f"{TRUCK}/{TRUCK}_0": 2,
    }
    assert found[f"{CAT}/{CAT}_1"][1] == png(1, SIZE)
    assert Image.open(io.BytesIO(found[f"{CAT}/{CAT}_2"][1])).mode == "RGB"
    assert Image.open(io.BytesIO(found[f"{DOG}/{DOG}_0"][1])).size == (48, 64)
    assert classes_of(val.folder) == {
        f"{DOG}/val_0": DOG,
        f"{CAT}/val_1": CAT,
        f"{TRUCK}/val_2": TRUCK,
        f"{DOG}/val_3": DOG,
    }


def test_what_is_not_used_is_listed_with_its_reason(prepared, tmp_path, capsys):
    skipped = skipped_of(prepared / "tiny_imagenet" / "train")
    assert skipped.pop(f"{TOP}/train/{DOG}/images/{DOG}_2.JPEG")
    assert skipped == {
        f"{TRUCK}/images/{TRUCK}_1.JPEG": f"listed in {TRUCK}_boxes.txt, not in tiny-imagenet-200.zip",
        f"{TOP}/train/{DOG}/images/{DOG}_1.JPEG": "empty file",
    }
    assert prepare(write_tree(tmp_path / "raw", published()), tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert f"left out 1 files of val/ that val_annotations.txt does not list (first: '{TOP}/val/images/val_4" in out
    assert f"left out 1 files of test/, which are published without labels (first: '{TOP}/test/images/test_0" in out


def test_a_network_trains_and_validates_on_it(prepared, tmp_path):
    assert fit_and_validate(prepared, "tiny_imagenet/train", "tiny_imagenet/val", tmp_path / "run").count == 4


@pytest.mark.parametrize("kind", ["folder", "tar", "inner folder"])
def test_folder_and_tar_give_the_zips_bytes(prepared, tmp_path, kind):
    raw = tmp_path / "raw.tar"
    if kind == "tar":
        raw.write_bytes(tar_bytes(published()))
    else:
        raw = write_tree(tmp_path / "raw", published()) / (TOP if kind == "inner folder" else "")
    assert prepare(raw, tmp_path / "out", "--workers", 2) == 0
    for split in ("train", "val"):
        here, there = (
            json.loads((root / split / "manifest.json").read_text())
            for root in (tmp_path / "out", prepared / "tiny_imagenet")
        )
        del here["source"]["raw"], there["source"]["raw"]
        if kind == "inner folder":  # origins within the shards are shorter by the folder above
            del here["shards"], there["shards"], here["index"], there["index"]
        assert here == there


@pytest.mark.parametrize("below", ["", "images/"])
def test_validation_images_sorted_into_classes_are_taken_as_they_lie(tmp_path, below):
    files = {name: content for name, content in published().items() if "/val/" not in name}
    files |= {f"{TOP}/val/{wnid}/{below}val_{i}.JPEG": jpeg(i, SIZE) for i, wnid in enumerate((CAT, TRUCK))}
    assert prepare(write_tree(tmp_path / "raw", files), tmp_path / "out") == 0
    assert classes_of(tmp_path / "out" / "val") == {f"{CAT}/val_0": CAT, f"{TRUCK}/val_1": TRUCK}


def test_a_subset_with_labels_csv_becomes_seven_classes(tmp_path):
    files = {name: content for name, content in published().items() if name.endswith(".JPEG") and "/test/" not in name}
    rows = [(f"{TOP}/val/images/val_{i}.JPEG", wnid) for i, wnid in enumerate((DOG, CAT, TRUCK))]
    text = io.StringIO()
    csv.writer(text).writerows([("path", "wnid"), *rows, (f"{TOP}/train/{CAT}/images/{CAT}_0.JPEG", CAT)])
    raw = tmp_path / "subset.tar.xz"
    raw.write_bytes(tar_bytes({**files, "labels.csv": text.getvalue().encode()}, "w:xz"))
    table = REPO / "data_scripts" / "classes" / "tiny_cifar7.csv"
    assert prepare(raw, tmp_path / "out", "--class-map", table, "--dataset", "tiny7", "--short-side", 32) == 0
    manifest = load_manifest(tmp_path / "out" / "val")
    assert manifest.classes == ("automobile", "bird", "cat", "dog", "frog", "ship", "truck")
    assert (manifest.dataset, manifest.source["class_map"]["version"]) == ("tiny7", "1")
    assert classes_of(manifest.folder) == {f"{DOG}/val_0": "dog", f"{CAT}/val_1": "cat", f"{TRUCK}/val_2": "truck"}
    assert all(Image.open(io.BytesIO(image)).size == (32, 32) for _, image in samples_of(manifest.folder).values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wnids.txt": f"{DOG}\n{CAT}\n".encode()}, f"train/ has 3 classes, wnids.txt 2; in one only: {TRUCK}"),
        ({"val/val_annotations.txt": None}, "no val_annotations.txt in it: name the folder or archive of Tiny"),
        ({"val/val_annotations.txt": b"val_0.JPEG n1\n"}, "'' of 'val_0.JPEG n1' is no WordNet id"),
        ({"val/val_annotations.txt": f"val_0.JPEG\t{CAT}\t0\n".encode() * 2}, "lists 'val_0.JPEG' twice"),
        (
            {"val/val_annotations.txt": b"val_0.JPEG\tn00000001\t0\n"},
            "has classes that wnids.txt lacks: n00000001",
        ),
        ({"wnids.txt": b"\xff\xfe\x00"}, "wnids.txt cannot be read as text"),
    ],
)
def test_parts_that_do_not_fit_end_in_one_line(tmp_path, capsys, change, message):
    files = published() | {f"{TOP}/{name}": content for name, content in change.items() if content is not None}
    for name, content in change.items():
        if content is None:
            del files[f"{TOP}/{name}"]
    assert prepare(write_tree(tmp_path / "raw", files), tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_folder_is_refused_by_the_command(tmp_path):
    run = run_script("tiny_imagenet.py", "--raw", write_tree(tmp_path, {"cat/1.jpg": b""}), "--out", tmp_path / "out")
    assert run.returncode == 1
    assert run.stderr == (
        f"tiny_imagenet.py: error: {tmp_path}: no train/<WordNet id>/ in it: "
        "name the zip, a tar or the folder of Tiny ImageNet\n"
    )
