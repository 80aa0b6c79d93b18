import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_scripts import camvid
from en_bench.cli import main
from en_bench.data.manifest import load_manifest, to_fields
from tests.scripts import raw
from tests.scripts.calling import Run, caller
from tests.scripts.pairs import halves, odd_pairs, pairs_of, pixels_of, same_masks, upright

CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian"]
CLASSES += ["bicyclist"]
ODD = ["empty", "cut", "alone", "orphan", "small", "coloured", "void", "torn", "stored"]
IGNORED = 255


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(camvid, capsys)


def listing(split: str, names: list[str]) -> bytes:
    lines = (f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png\n" for n in names)
    return "".join(lines).encode()


def layout() -> dict[str, bytes]:
    """SegNet's folders: 6 pairs of train that can be used, 2 of val, 1 of test."""
    files = {
        "train/0001TP_006690.png": raw.png(1),
        "trainannot/0001TP_006690.png": raw.mask_png(halves(0, 11)),
        "train/named.JPEG": raw.png(2),  # a PNG
        "trainannot/named.png": raw.mask_png(halves(1, 3)),
        "train/cmyk.jpg": raw.jpeg(3, mode="CMYK"),
        "trainannot/cmyk.png": raw.mask_png(halves(10, 0)),
        "train/turned.jpg": raw.turned_jpeg(4),
        "trainannot/turned.png": raw.mask_png(upright(2, 11)),
        "train/same.png": raw.png(5),
        "trainannot/same.png": raw.mask_png(halves(4, 4)),
        "train/palette.png": raw.png(6),
        "trainannot/palette.png": raw.mask_png(halves(5, 8), palette=True),
        "train/strange.png": raw.png(7),
        "trainannot/strange.png": raw.mask_png(halves(1, 12)),
        "train/twice.png": raw.png(8),
        "train/twice.jpg": raw.jpeg(8),
        "trainannot/twice.png": raw.mask_png(halves(1, 1)),
        "train/unlisted.png": raw.png(9),
        "trainannot/unlisted.png": raw.mask_png(halves(1, 1)),
        "val/same.png": raw.png(10),
        "valannot/same.png": raw.mask_png(halves(6, 7)),
        "val/0016E5_07959.png": raw.png(11),
        "valannot/0016E5_07959.png": raw.mask_png(halves(9, 11)),
        "test/0001TP_008550.png": raw.png(12),
        "testannot/0001TP_008550.png": raw.mask_png(halves(0, 1)),
        "val.txt": listing("val", ["same", "0016E5_07959"]),
        "test.txt": listing("test", ["0001TP_008550"]),
    }
    files |= odd_pairs("train/{}.jpg", "trainannot/{}.png", ODD)
    names = ["0001TP_006690", "named", "cmyk", "turned", "same", "palette", "strange", "twice", "gone", *ODD]
    files["train.txt"] = listing("train", names)
    return {f"CamVid/{name}": content for name, content in files.items()}


TRAIN = {
    "0001TP_006690": halves(0, IGNORED),
    "named": halves(1, 3),
    "cmyk": halves(10, 0),
    "turned": upright(2, IGNORED),
    "same": halves(4, 4),
    "palette": halves(5, 8),
}


def test_pairs_of_all_splits_pixel_by_pixel(tmp_path, run):
    code, out, _ = run("--raw", raw.write_tree(tmp_path / "raw", layout()), "--out", tmp_path / "out")
    assert code == 0
    manifest = load_manifest(tmp_path / "out" / "train")
    assert (manifest.count, list(manifest.classes), manifest.dataset) == (6, CLASSES, "camvid")
    same_masks(tmp_path / "out" / "train", TRAIN)
    same_masks(tmp_path / "out" / "val", {"same": halves(6, 7), "0016E5_07959": halves(9, IGNORED)})
    same_masks(tmp_path / "out" / "test", {"0001TP_008550": halves(0, 1)})
    assert pixels_of(tmp_path / "out" / "train") == {
        **{"sky": 1440, "building": 720, "pole": 720, "road": 720, "pavement": 1440, "tree": 720, "car": 720},
        **{"bicyclist": 720, "ignored": 1440},
    }
    images = {key: image for key, (image, _) in pairs_of(tmp_path / "out" / "train").items()}
    assert np.array_equal(images["same"], np.asarray(raw.picture(5)))
    assert np.array_equal(images["named"], np.asarray(raw.picture(2)))
    turned = np.rot90(np.asarray(raw.picture(4)), -1).astype(int)
    assert np.abs(images["turned"] - turned).mean() < 8
    assert "out: 9 samples in 3 splits, 11 classes, skipped 16" in out
    for note in ("train: found 14 pairs; published are 367", "val: found 2 pairs; published are 101"):
        assert note in out
    assert "passed over" not in out


def test_what_is_no_pair_is_listed_with_its_reason(tmp_path, run):
    assert run("--raw", raw.write_tree(tmp_path / "raw", layout()), "--out", tmp_path / "out")[0] == 0
    found = raw.skipped_of(tmp_path / "out" / "train")
    torn, cut = found.pop("CamVid/train/torn.jpg"), found.pop("CamVid/train/cut.jpg")
    assert torn.startswith("mask: ")
    assert "truncated" in cut
    assert "0x" not in torn + cut, "an address would differ from run to run"
    assert found == {
        "CamVid/train/alone.jpg": "an image without a mask",
        "CamVid/trainannot/orphan.png": "a mask without an image",
        "CamVid/train/twice.jpg": "more than one image of this name: twice.jpg, twice.png",
        "CamVid/train/twice.png": "more than one image of this name: twice.jpg, twice.png",
        "CamVid/trainannot/twice.png": "more than one image of this name: twice.jpg, twice.png",
        "CamVid/train/unlisted.png": "not listed in train.txt",
        "CamVid/trainannot/unlisted.png": "not listed in train.txt",
        "gone": "listed in train.txt, not in raw",
        "CamVid/train/empty.jpg": "empty file",
        "CamVid/train/small.jpg": "mask of (20, 18), image of (40, 36) pixels",
        "CamVid/train/coloured.jpg": "mask of mode RGB, not an index per pixel",
        "CamVid/train/void.jpg": "mask: empty file",
        "CamVid/train/stored.jpg": "mask of (40, 36), image of (36, 40) pixels",
        "CamVid/train/strange.png": "mask holds the value 12, which no class has",
    }
    assert load_manifest(tmp_path / "out" / "train").skipped == 16


@pytest.mark.parametrize("kind", ["tar", "tar.xz", "zip"])
def test_an_archive_gives_the_manifest_of_its_folder(tmp_path, run, kind):
    folder, archive = raw.write_tree(tmp_path / "raw", layout()), tmp_path / f"raw.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in layout().items():
                packed.writestr(name, content)
    else:
        archive.write_bytes(raw.tar_bytes(layout(), "w:xz" if kind == "tar.xz" else "w"))
    found = []
    for source in (folder, archive):
        assert run("--raw", source, "--out", tmp_path / f"out_{source.name}")[0] == 0
        fields = to_fields(load_manifest(tmp_path / f"out_{source.name}" / "train"))
        assert fields["source"].pop("raw") == source.name
        found.append(fields)
    assert found[0] == found[1]
    assert [item["file"] for item in found[0]["source"]["lists"]] == ["train.txt", "val.txt", "test.txt"]
    assert found[0]["source"]["class_map"]["version"] == "1"


def test_a_shorter_side_reduces_images_and_masks_alike(tmp_path, run):
    folder = raw.write_tree(tmp_path / "raw", layout())
    assert run("--raw", folder, "--out", tmp_path / "out", "--short-side", 18)[0] == 0
    small = {key: mask[1::2, 1::2] for key, mask in TRAIN.items()}
    same_masks(tmp_path / "out" / "train", small)
    assert small["turned"].shape == (20, 18)


def test_without_lists_the_folders_decide(tmp_path, run):
    files = {name: content for name, content in layout().items() if not name.endswith(".txt")}
    assert run("--raw", raw.write_tree(tmp_path / "raw", files), "--out", tmp_path / "out")[0] == 0
    same_masks(tmp_path / "out" / "train", {**TRAIN, "unlisted": halves(1, 1)})


def test_the_folder_may_be_named_itself(tmp_path, run, monkeypatch):
    monkeypatch.chdir(raw.write_tree(tmp_path / "train", layout()) / "CamVid")
    assert run("--raw", ".", "--out", tmp_path / "out")[0] == 0
    same_masks(tmp_path / "out" / "train", TRAIN)
    assert raw.skipped_of(tmp_path / "out" / "train")["gone"] == "listed in train.txt, not in CamVid"


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(tmp_path, run):
    archive = tmp_path / "camvid.tar"
    archive.write_bytes(raw.tar_bytes(layout()))
    common = ("--raw", archive, "--shards", 2)
    assert run(*common, "--out", tmp_path / "one")[0] == 0
    done = raw.run_script("camvid.py", *common, "--out", tmp_path / "two", "--workers", 2)
    assert done.returncode == 0, done.stderr
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*") if path.is_file())
    assert len(names) == 3 + 3 + 3 + 2 + 2 + 1, "index, skipped.csv, manifest of three splits, and the shards"
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_links_and_paths_that_lead_outside_are_listed(tmp_path, run):
    files = layout() | {"../CamVid/val/up.png": raw.png(1), "CamVid/valannot/up.png": raw.mask_png(halves(0, 1))}
    archive = tmp_path / "camvid.tar"
    archive.write_bytes(raw.tar_bytes(files))
    assert run("--raw", archive, "--out", tmp_path / "out")[0] == 0
    assert load_manifest(tmp_path / "out" / "val").count == 2
    assert raw.skipped_of(tmp_path / "out" / "val") == {
        "../CamVid/val/up.png": "leads outside the archive",
        "CamVid/valannot/up.png": "not listed in val.txt",
    }


def without(*parts: str) -> dict[str, bytes]:
    return {name: content for name, content in layout().items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"images/1.jpg": b"", "labels/1.png": b""}, "no {train,val,test}/*.png: name the folder CamVid of SegNet"),
        (without("annot"), "train has 17 images and no masks ({train,val,test}annot/*.png): name the folder CamVid"),
        (without("/val/"), "val has 2 masks and no images ({train,val,test}/*.png): name the folder CamVid"),
        (
            layout() | {"copy/CamVid/val/same.png": b""},
            "holds the set more than once, CamVid/val/same.png and copy/CamVid/val/same.png: name one of them",
        ),
        (layout() | {"copy/val.txt": b""}, "holds CamVid/val.txt and copy/val.txt: leave the one that belongs"),
        (layout() | {"CamVid/val.txt": b"/CamVid/val/1.png\n"}, "'/CamVid/val/1.png' does not name a file of val and"),
        (layout() | {"CamVid/val.txt": listing("test", ["same"])}, "does not name a file of val and the one of"),
        (layout() | {"CamVid/val.txt": b"\xff\xfe\x00"}, "CamVid/val.txt in raw: cannot be read as text"),
    ],
)
def test_another_folder_ends_in_one_line(tmp_path, run, monkeypatch, files, message):
    monkeypatch.chdir(tmp_path)
    raw.write_tree(Path("raw"), files)
    code, _, err = run("--raw", "raw", "--out", "out")
    assert code == 1
    assert message in err.splitlines()[-1]
    assert not Path("out").exists()


def test_fit_says_that_masks_are_no_labels(tmp_path, run, capsys):
    files = without(*(f"/{name}." for name in ODD))
    assert run("--raw", raw.write_tree(tmp_path / "raw", files), "--out", tmp_path / "out")[0] == 0
    overlays = [f"experiments/{name}.yaml" for name in ("base", "recipe/digits", "norm/bn")]
    code = main(
        [
            *("fit", *(word for name in overlays for word in ("--config", str(raw.REPO / name)))),
            *("--data.root", str(tmp_path / "out"), "--data.train", "train", "--data.val", "val"),
            *("--data.batch_size", "2", "--trainer.default_root_dir", str(tmp_path / "run")),
        ]
    )
    assert code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert re.search(r"out/train has masks and no labels: name a set of labelled images$", lines[0])


def test_a_broken_archive_ends_in_one_line(tmp_path, run):
    (tmp_path / "cut.tar").write_bytes(raw.tar_bytes(layout())[:5000])
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    for name in ("cut.tar", "cut.zip", "absent"):
        code, _, err = run("--raw", tmp_path / name, "--out", tmp_path / "out")
        assert (code, err.count("\n")) == (1, 1)
        assert f": error: {tmp_path / name}: " in err
