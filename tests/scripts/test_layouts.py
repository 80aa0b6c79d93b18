"""The published layouts that data_scripts/imagefolder.py knows by name: fine-grained sets. Arrays: test_arrays.py."""

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from data_scripts import imagefolder
from en_bench.data.manifest import load_manifest
from tests.scripts.calling import Run, caller
from tests.scripts.folders import as_csv
from tests.scripts.raw import (
    classes_of,
    encoded,
    fit_and_validate,
    jpeg,
    mat_bomb,
    picture,
    png,
    samples_of,
    skipped_of,
    tar_bytes,
    truncated_jpeg,
    turned_jpeg,
    write_tree,
)

ODD = {  # one file of each kind that published sets are known for, by its number
    1: jpeg(1),
    2: png(2),
    3: jpeg(3, mode="CMYK"),
    4: turned_jpeg(4),
    5: b"",
    6: truncated_jpeg(6),
    7: jpeg(7, mode="L"),
    8: jpeg(8),
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(imagefolder, capsys)


def given(folder: Path) -> dict[str, int]:
    return {key: labels["given"] for key, (labels, _) in samples_of(folder).items()}


def cub200() -> dict[str, bytes]:
    """Two species; images 1 to 6 train, 7 and 8 do not; 9 is listed and not there; two files are called a.jpg."""
    species = {"1": "001.Black_footed_Albatross", "2": "002.Laysan_Albatross"}
    of = {number: "1" if number in (1, 3, 4, 8) else "2" for number in range(1, 10)}
    paths = {number: f"{species[of[number]]}/{'a' if number in (7, 8) else f'b.{number}'}.jpg" for number in of}
    files = {f"images/{paths[number]}": content for number, content in ODD.items()}
    lists = {
        "images.txt": paths,
        "image_class_labels.txt": of,
        "train_test_split.txt": {number: int(number < 7 or number == 9) for number in of},
        "classes.txt": species,
    }
    files |= {name: "".join(f"{k} {v}\n" for k, v in pairs.items()).encode() for name, pairs in lists.items()}
    return {f"CUB_200_2011/{name}": content for name, content in files.items()} | {"attributes.txt": b"1 bill\n"}


def test_cub200_follows_its_four_lists(tmp_path, run):
    raw = tmp_path / "CUB_200_2011.tgz"
    raw.write_bytes(tar_bytes(cub200(), "w:gz"))
    options = ("--layout", "cub200", "--dataset", "cub200", "--shards", 1)
    assert run("--raw", raw, "--out", tmp_path / "cub200", *options)[0] == 0
    first, second = "001.Black_footed_Albatross", "002.Laysan_Albatross"
    train, val = (load_manifest(tmp_path / "cub200" / split) for split in ("train", "val"))
    assert train.classes == val.classes == (first, second)
    assert (train.count, train.skipped, train.image["reencoded"], val.count) == (4, 3, 2, 2)
    assert given(train.folder) == {f"{first}/b_1": 0, f"{first}/b_3": 0, f"{first}/b_4": 0, f"{second}/b_2": 1}
    assert given(val.folder) == {f"{first}/a": 0, f"{second}/a": 1}
    assert samples_of(val.folder)[f"{first}/a"][1] == ODD[8]
    skipped = skipped_of(train.folder)
    assert skipped[f"{second}/b.9.jpg"] == "listed in images.txt, not in CUB_200_2011.tgz"
    assert skipped[f"CUB_200_2011/images/{second}/b.5.jpg"] == "empty file"
    lists = {"images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt"}
    assert set(train.source["lists_sha256"]) == lists
    folder = write_tree(tmp_path / "folder" / "CUB_200_2011.tgz", cub200())
    assert run("--raw", folder, "--out", tmp_path / "again", *options)[0] == 0
    for split in ("train", "val"):
        assert load_manifest(tmp_path / "again" / split).digest == load_manifest(tmp_path / "cub200" / split).digest
    assert fit_and_validate(tmp_path, "cub200/train", "cub200/val", tmp_path / "run").count == 2


def annotations(records: list[tuple[str, int]] | list[tuple[str]], boxes: bool = True) -> bytes:
    """A .mat with a struct array (1, n) as the devkit has it: boxes, class where known, fname."""
    names = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", *(["class"] if len(records[0]) == 2 else []), "fname"]
    array = np.empty((1, len(records)), dtype=[(name, object) for name in names])
    for position, (path, *number) in enumerate(records):
        array[0, position] = (np.uint8(39), np.uint8(116), np.uint16(569), np.uint16(375), *map(np.uint8, number), path)
    out = io.BytesIO()
    scipy.io.savemat(out, {"annotations": array})
    return out.getvalue()


def cars() -> dict[str, bytes]:
    """Three models; 00005 and 00006 of the training images are damaged, 00009 is listed and not there."""
    names = np.empty((1, 3), dtype=object)
    names[0] = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "Acura RL Sedan 2012"]
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"class_names": names})
    train = [(f"{number:05d}.jpg", 1 + number % 3) for number in (*ODD, 9)]
    test = [("00001.jpg", 3), ("00002.jpg", 2)]
    files = {f"cars_train/{number:05d}.jpg": content for number, content in ODD.items()}
    files |= {"cars_test/00001.jpg": jpeg(21), "cars_test/00002.jpg": jpeg(22), "cars_test/00003.jpg": jpeg(23)}
    return files | {
        "devkit/cars_meta.mat": meta.getvalue(),
        "devkit/cars_train_annos.mat": annotations(train),
        "devkit/cars_test_annos.mat": annotations([(path,) for path, _ in test]),
        "cars_test_annos_withlabels.mat": annotations(test),
    }


@pytest.mark.parametrize("kind", ["folder", "archives"])
def test_stanford_cars_follow_the_devkit(tmp_path, run, kind):
    files = cars()
    if kind == "archives":  # as published: one tgz each, the labels of the test beside them
        parts = {"cars_train": "cars_train", "cars_test": "cars_test", "car_devkit": "devkit"}
        published = {
            f"{name}.tgz": tar_bytes({k: v for k, v in files.items() if k.startswith(f"{top}/")}, "w:gz")
            for name, top in parts.items()
        }
        files = published | {name: content for name, content in files.items() if "/" not in name}
    raw = write_tree(tmp_path / "raw", files)
    options = ("--raw", raw, "--layout", "cars", "--dataset", "cars", "--shards", 1)
    code, out, _ = run("--out", tmp_path / "cars", *options)
    assert code == 0
    train, val = (load_manifest(tmp_path / "cars" / split) for split in ("train", "val"))
    assert train.classes == ("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "Acura RL Sedan 2012")
    assert given(train.folder) == {
        "cars_train/00001": 1,
        "cars_train/00002": 2,
        "cars_train/00003": 0,
        "cars_train/00004": 1,
        "cars_train/00007": 1,
        "cars_train/00008": 2,
    }
    assert given(val.folder) == {"cars_test/00001": 2, "cars_test/00002": 1}
    assert (train.skipped, train.image["reencoded"], val.skipped) == (3, 2, 0)
    assert skipped_of(train.folder)["00009.jpg"] == "listed in cars_train_annos.mat, not in raw"
    assert "left out 1 files that cars_test_annos_withlabels.mat does not list" in out
    if kind == "folder":
        assert fit_and_validate(tmp_path, "cars/train", "cars/val", tmp_path / "run").count == 2


BANNER = (255, 0, 0)


def with_banner(seed: int, size: tuple[int, int] = (64, 68)) -> bytes:
    """A JPEG whose lowest 20 pixels are red."""
    image = picture(seed, size)
    image.paste(BANNER, (0, size[1] - 20, size[0], size[1]))
    return encoded(image, quality=95, subsampling=0)


def aircraft() -> dict[str, bytes]:
    """Two variants; 0034304 is turned by EXIF, 0034305 empty, 0034306 cut, 0034310 no taller than its banner."""
    content = {
        "0034301": with_banner(1),
        "0034302": png(2, (64, 68)),
        "0034303": jpeg(3, (64, 68), "CMYK"),
        "0034304": turned_jpeg(4, (64, 48)),
        "0034305": b"",
        "0034306": truncated_jpeg(6),
        "0034307": jpeg(7, (64, 68), "L"),
        "0034308": with_banner(8),
        "0034309": with_banner(9),
        "0034310": jpeg(10, (64, 20)),
    }
    lists = {
        "train": {name: "707-320" if int(name) % 2 else "F-16A/B" for name in sorted(content)[:7]},
        "val": {"0034308": "F-16A/B", "0034310": "707-320"},
        "test": {"0034309": "707-320"},
    }
    lists["trainval"] = lists["train"] | lists["val"]
    files = {f"data/images/{name}.jpg": image for name, image in content.items()}
    files |= {
        f"data/images_variant_{split}.txt": "".join(f"{k} {v}\n" for k, v in of.items()).encode()
        for split, of in lists.items()
    }
    files["data/variants.txt"] = b"707-320\nF-16A/B\n"
    return {f"fgvc-aircraft-2013b/{name}": image for name, image in files.items()}


@pytest.fixture
def aircraft_tar(tmp_path: Path) -> Path:
    raw = tmp_path / "fgvc-aircraft-2013b.tar.gz"
    raw.write_bytes(tar_bytes(aircraft(), "w:gz"))
    return raw


def test_aircraft_lose_their_banner_and_are_encoded_once(tmp_path, run, aircraft_tar):
    options = ("--layout", "aircraft", "--dataset", "aircraft", "--shards", 1)
    assert run("--raw", aircraft_tar, "--out", tmp_path / "aircraft", *options)[0] == 0
    manifests = {split: load_manifest(tmp_path / "aircraft" / split) for split in ("train", "val", "test")}
    assert {split: (m.count, m.skipped) for split, m in manifests.items()} == {
        "train": (5, 2),
        "val": (1, 1),
        "test": (1, 0),
    }
    train = manifests["train"]
    assert train.classes == ("707-320", "F-16A/B")
    assert train.source["banner"] == "bottom 20 pixels cut off"
    assert train.image["reencoded"] == 5
    assert given(train.folder) == {"0034301": 0, "0034302": 1, "0034303": 0, "0034304": 1, "0034307": 0}
    images = {key: Image.open(io.BytesIO(image)) for key, (_, image) in samples_of(train.folder).items()}
    assert {key: image.size for key, image in images.items()} == {
        "0034301": (64, 48),
        "0034302": (64, 48),
        "0034303": (64, 48),
        "0034304": (48, 44),
        "0034307": (64, 48),
    }
    assert {image.format for image in images.values()} == {"JPEG"}
    assert (images["0034307"].mode, images["0034303"].mode) == ("L", "RGB")
    kept = np.asarray(picture(1, (64, 68)).crop((0, 0, 64, 48)), dtype=int)
    assert np.abs(np.asarray(images["0034301"], dtype=int) - kept).mean() < 3
    assert np.abs(np.asarray(images["0034301"], dtype=int)[-1] - BANNER).mean() > 20
    skipped = skipped_of(manifests["val"].folder)
    assert list(skipped.values()) == ["20 pixels high, of which 20 are the banner"]
    folder = write_tree(tmp_path / "folder" / aircraft_tar.name, aircraft())
    assert run("--raw", folder, "--out", tmp_path / "again", *options, "--workers", 2)[0] == 0
    for split, manifest in manifests.items():
        assert load_manifest(tmp_path / "again" / split).digest == manifest.digest
    assert fit_and_validate(tmp_path, "aircraft/train", "aircraft/test", tmp_path / "run").count == 1


def test_trainval_takes_the_place_of_train_and_val(tmp_path, run, aircraft_tar):
    options = ("--layout", "aircraft", "--dataset", "aircraft", "--split-map", "trainval=train,test=val")
    assert run("--raw", aircraft_tar, "--out", tmp_path / "out", *options)[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train", "val"]
    assert load_manifest(tmp_path / "out" / "train").count == 6
    assert given(tmp_path / "out" / "val") == {"0034309": 0}


def broken(files: dict[str, bytes], **changes: bytes | None) -> dict[str, bytes]:
    """The files with some, by the end of their names, replaced or removed."""
    for end, content in changes.items():
        (name,) = [name for name in files if name.endswith(end.replace("__", "."))]
        if content is None:
            del files[name]
        else:
            files[name] = content
    return files


@pytest.mark.parametrize(
    ("layout", "files", "message"),
    [
        ("cub200", {"cat/1.jpg": b""}, "no images.txt in it: name the folder or archive of CUB-200-2011 as published"),
        (
            "cub200",
            broken(cub200(), train_test_split__txt=b"1 1\n"),
            "images.txt has 9 ids, train_test_split.txt has",
        ),
        (
            "cub200",
            broken(cub200(), classes__txt=b"1 one\n"),
            "class '2' is not in classes.txt",
        ),
        ("cub200", broken(cub200(), classes__txt=b"1\n"), "classes.txt: '1' is not 'id value'"),
        ("cars", broken(cars(), cars_meta__mat=None), "no cars_meta.mat in it: name the folder or archive of Stanford"),
        ("cars", broken(cars(), cars_meta__mat=b"MATLAB 5.0"), "cars_meta.mat: not a MATLAB file ("),
        ("cars", broken(cars(), cars_meta__mat=mat_bomb()), "cars_meta.mat: not a MATLAB file (unpacks to more than"),
        ("cars", broken(cars(), withlabels__mat=None), "no cars_test_annos_withlabels.mat in it: name the folder"),
        ("cars", broken(cars(), withlabels__mat=annotations([("00001.jpg",)])), "its records have no 'class'"),
        (
            "cars",
            broken(cars(), withlabels__mat=annotations([("1.jpg", 4)])),
            "is of class 4, cars_meta.mat has 3",
        ),
        ("cars", broken(cars(), cars_train_annos__mat=cars()["devkit/cars_meta.mat"]), "holds no 'annotations'"),
        ("aircraft", broken(aircraft(), variants__txt=b"707-320\n"), "'F-16A/B' is not in variants.txt"),
        ("aircraft", broken(aircraft(), variant_test__txt=None), "no images_variant_test.txt in it"),
    ],
)
def test_lists_that_do_not_fit_end_in_one_line(tmp_path, run, layout, files, message):
    raw = write_tree(tmp_path / "raw", files)
    code, _, err = run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--layout", layout)
    assert code == 1
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_layouts_classes_can_be_mapped(tmp_path, run):
    table = as_csv(
        tmp_path / "birds.csv",
        [("source", "target"), ("001.Black_footed_Albatross", "bird"), ("002.Laysan_Albatross", "bird")],
    )
    raw = write_tree(tmp_path / "raw", cub200())
    options = ("--raw", raw, "--out", tmp_path / "out", "--dataset", "birds", "--layout", "cub200")
    assert run(*options, "--class-map", table, "--split-map", "val=test")[0] == 0
    assert set(classes_of(tmp_path / "out" / "test").values()) == {"bird"}
    assert load_manifest(tmp_path / "out" / "train").classes == ("bird",)
