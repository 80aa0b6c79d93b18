import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_scripts import ade20k
from en_bench.data.manifest import load_manifest, to_fields
from en_bench.data.tables import parse_csv
from tests.scripts import raw
from tests.scripts.calling import Run, caller
from tests.scripts.pairs import halves, odd_pairs, pairs_of, pixels_of, same_masks, upright

TABLE = raw.REPO / "data_scripts" / "classes" / "ade20k150.csv"
ODD = [f"{number:08d}" for number in range(901, 910)]
IGNORED = 255
ROOT = "ADEChallengeData2016"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(ade20k, capsys)


def object_info(**renamed: str) -> bytes:
    """objectInfo150.txt with its stray spaces and further names; `renamed` by "class_N"."""
    rows = {row["source"]: row["target"] for row in parse_csv(TABLE.read_bytes(), "table", ["source", "target"])}
    more = {"2": "building, edifice", "8": "bed ", "9": "windowpane, window ", "15": "door, double door"}
    lines = ["Idx\tRatio\tTrain\tVal\tName"]
    for value, name in (rows | more | {key.removeprefix("class_"): name for key, name in renamed.items()}).items():
        lines.append(f"{value}{' ' if value == '22' else ''}\t0.1576\t11664\t1172\t{name}")
    return "\n".join(lines).encode() + b"\n"


def pair(split: str, name: str, image: bytes, mask: bytes, suffix: str = "jpg") -> dict[str, bytes]:
    return {f"images/{split}/{name}.{suffix}": image, f"annotations/{split}/{name}.png": mask}


def layout() -> dict[str, bytes]:
    """The challenge's folders: 6 pairs of training that can be used, 2 of validation."""
    train, names = "training", [f"ADE_train_{number:08d}" for number in range(1, 9)]
    files = {
        **pair(train, names[0], raw.jpeg(1), raw.mask_png(halves(1, 0))),
        **pair(train, names[1], raw.png(2), raw.mask_png(halves(150, 13)), "JPEG"),
        **pair(train, names[2], raw.jpeg(3, mode="CMYK"), raw.mask_png(halves(3, 3))),
        **pair(train, names[3], raw.turned_jpeg(4), raw.mask_png(upright(7, 0))),
        **pair(train, names[4], raw.jpeg(5, mode="L"), raw.mask_png(halves(13, 21), palette=True)),
        **pair(train, names[5], raw.jpeg(6), raw.mask_png(halves(1, 151))),
        **pair(train, names[7], raw.jpeg(7), raw.mask_png(halves(4, 5))),
        **pair("validation", "ADE_val_00000001", raw.jpeg(8), raw.mask_png(halves(2, 150))),
        **pair("validation", names[7], raw.jpeg(9), raw.mask_png(halves(100, 101))),  # a name of the other split
    }
    odd = [f"ADE_train_{number}" for number in ODD]
    files |= odd_pairs("images/training/{}.jpg", "annotations/training/{}.png", odd)
    files["objectInfo150.txt"] = object_info()
    return {f"{ROOT}/{name}": content for name, content in files.items()}


def with_scenes() -> dict[str, bytes]:
    listed = [f"ADE_train_{number:08d}" for number in range(1, 9)] + ["ADE_val_00000001", "ADE_val_00000002"]
    text = "".join(f"{name} street\n" for name in listed)
    return layout() | {f"{ROOT}/sceneCategories.txt": text.encode()}


TRAIN = {
    "ADE_train_00000001": halves(0, IGNORED),
    "ADE_train_00000002": halves(149, 12),
    "ADE_train_00000003": halves(2, 2),
    "ADE_train_00000004": upright(6, IGNORED),
    "ADE_train_00000005": halves(12, 20),
    "ADE_train_00000008": halves(3, 4),
}


def test_classes_are_those_of_the_challenge(tmp_path, run):
    assert run("--raw", raw.write_tree(tmp_path / "raw", layout()), "--out", tmp_path / "out")[0] == 0
    classes = load_manifest(tmp_path / "out" / "train").classes
    assert len(classes) == len(set(classes)) == 150
    known = {0: "wall", 1: "building", 2: "sky", 7: "bed", 12: "person", 14: "door", 20: "car", 58: "screen door"}
    known |= {63: "blind", 83: "truck", 99: "buffet", 115: "bag", 130: "screen", 141: "crt screen", 149: "flag"}
    assert {number: classes[number] for number in known} == known


def test_names_of_a_class_may_come_in_any_order(tmp_path, run):
    # The published table exists in two versions, with television's and others' names in different orders.
    names = {"class_90": "television receiver, television, television set", "class_2": "edifice,building ,house "}
    files = changed("objectInfo150.txt", object_info(**names))
    assert run("--raw", raw.write_tree(tmp_path / "raw", files), "--out", tmp_path / "out")[0] == 0
    assert load_manifest(tmp_path / "out" / "train").classes[89] == "television"


def test_pairs_of_both_splits_pixel_by_pixel(tmp_path, run):
    code, out, _ = run("--raw", raw.write_tree(tmp_path / "raw", layout()), "--out", tmp_path / "out")
    assert code == 0
    manifest = load_manifest(tmp_path / "out" / "train")
    assert (manifest.count, manifest.dataset) == (6, "ade20k")
    same_masks(tmp_path / "out" / "train", TRAIN)
    val = {"ADE_val_00000001": halves(1, 149), "ADE_train_00000008": halves(99, 100)}
    same_masks(tmp_path / "out" / "val", val)
    assert pixels_of(tmp_path / "out" / "train") == {
        **{"wall": 720, "flag": 720, "person": 1440, "sky": 1440, "road": 720, "car": 720, "floor": 720, "tree": 720},
        "ignored": 1440,
    }
    images = {key: image for key, (image, _) in pairs_of(tmp_path / "out" / "train").items()}
    assert np.array_equal(images["ADE_train_00000002"], np.asarray(raw.picture(2)))
    assert np.abs(images["ADE_train_00000001"] - np.asarray(raw.picture(1)).astype(int)).mean() < 8
    assert "train: found 14 pairs; published are 20,210" in out
    assert "val: found 2 pairs; published are 2,000" in out
    assert "passed over" not in out


def test_what_is_no_pair_is_listed_with_its_reason(tmp_path, run):
    assert run("--raw", raw.write_tree(tmp_path / "raw", layout()), "--out", tmp_path / "out")[0] == 0
    found = raw.skipped_of(tmp_path / "out" / "train")
    image, mask = f"{ROOT}/images/training/ADE_train_{{}}.jpg", f"{ROOT}/annotations/training/ADE_train_{{}}.png"
    assert "truncated" in found.pop(image.format("00000902"))
    assert found.pop(image.format("00000908")).startswith("mask: ")
    assert found == {
        image.format("00000901"): "empty file",
        image.format("00000903"): "an image without a mask",
        mask.format("00000904"): "a mask without an image",
        image.format("00000905"): "mask of (20, 18), image of (40, 36) pixels",
        image.format("00000906"): "mask of mode RGB, not an index per pixel",
        image.format("00000907"): "mask: empty file",
        image.format("00000909"): "mask of (40, 36), image of (36, 40) pixels",
        image.format("00000006"): "mask holds the value 151, which no class has",
    }


def test_the_list_of_scenes_tells_what_is_missing(tmp_path, run):
    assert run("--raw", raw.write_tree(tmp_path / "raw", with_scenes()), "--out", tmp_path / "out")[0] == 0
    found = raw.skipped_of(tmp_path / "out" / "train")
    assert found["ADE_train_00000007"] == "listed in sceneCategories.txt, not in raw"
    assert found[f"{ROOT}/images/training/ADE_train_00000901.jpg"] == "not listed in sceneCategories.txt"
    assert load_manifest(tmp_path / "out" / "train").count == 6
    assert raw.skipped_of(tmp_path / "out" / "val") == {
        "ADE_val_00000002": "listed in sceneCategories.txt, not in raw",
        f"{ROOT}/images/validation/ADE_train_00000008.jpg": "not listed in sceneCategories.txt",
        f"{ROOT}/annotations/validation/ADE_train_00000008.png": "not listed in sceneCategories.txt",
    }


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_gives_the_manifest_of_its_folder(tmp_path, run, kind):
    archive = tmp_path / f"ADEChallengeData2016.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in with_scenes().items():
                packed.writestr(name, content)
    else:
        archive.write_bytes(raw.tar_bytes(with_scenes()))
    found = []
    for source in (raw.write_tree(tmp_path / "raw", with_scenes()), archive):
        assert run("--raw", source, "--out", tmp_path / f"out_{source.name}", "--short-side", 18)[0] == 0
        folder = tmp_path / f"out_{source.name}" / "train"
        same_masks(folder, {key: mask[1::2, 1::2] for key, mask in TRAIN.items()})
        fields = to_fields(load_manifest(folder))
        assert fields["source"].pop("raw") == source.name
        assert fields["image"]["short_side"] == 18
        found.append(fields)
    assert found[0] == found[1]
    assert [item["file"] for item in found[0]["source"]["lists"]] == ["objectInfo150.txt", "sceneCategories.txt"]


def test_the_folder_may_be_named_at_any_height(tmp_path, tmp_path_factory, run):
    folder = raw.write_tree(tmp_path / "images" / "training" / "raw", layout())
    outputs = tmp_path_factory.mktemp("outputs")
    for number, source in enumerate((folder / ROOT, folder, tmp_path)):
        assert run("--raw", source, "--out", outputs / str(number))[0] == 0
        same_masks(outputs / str(number) / "train", TRAIN)


@pytest.mark.slow
def test_two_processes_read_the_zip_as_one(tmp_path, run):
    archive = tmp_path / "ADEChallengeData2016.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in layout().items():
            packed.writestr(name, content)
    common = ("--raw", archive, "--shards", 2)
    assert run(*common, "--out", tmp_path / "one")[0] == 0
    done = raw.run_script("ade20k.py", *common, "--out", tmp_path / "two", "--workers", 2)
    assert done.returncode == 0, done.stderr
    for split in ("train", "val"):
        one, two = (tmp_path / way / split / "manifest.json" for way in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def only(*parts: str) -> dict[str, bytes]:
    return {name: content for name, content in layout().items() if any(part in name for part in parts)}


def changed(name: str, content: bytes) -> dict[str, bytes]:
    return layout() | {f"{ROOT}/{name}": content}


FULL = "ADE20K_2016_07_26/images/training/a/abbey/ADE_train_00000970"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (only("images/"), "train has 15 images and no masks (annotations/{training,validation}/*.png): name ADEChall"),
        (only("annotations/", "images/training"), "val has 2 masks and no images (images/{training,validation}/*.jpg)"),
        (only("objectInfo"), "raw: no images/{training,validation}/*.jpg: name ADEChallengeData2016.zip or the folder"),
        ({f"{FULL}.jpg": raw.jpeg(1), f"{FULL}_seg.png": raw.png(1)}, "is a mask of the whole ADE20K, this is for"),
        (
            changed("objectInfo150.txt", object_info(class_3="floor, flooring", class_4="sky")),
            "class 3 is 'floor, flooring', in ade20k150.csv 'sky': not the 150 classes of SceneParse150; name ADEChall",
        ),
        (  # parts of a name are not the name
            changed("objectInfo150.txt", object_info(class_59="screen", class_131="screen door, screen")),
            "class 59 is 'screen', in ade20k150.csv 'screen door': not the 150 classes",
        ),
        (changed("objectInfo150.txt", object_info(class_149="")), "class 149 is '', in ade20k150.csv 'clock'"),
        (changed("objectInfo150.txt", object_info(class_151="blade")), "class 151 is 'blade', in ade20k150.csv None"),
        (changed("objectInfo150.txt", b"1,wall\n"), "not a table with columns Idx and Name: download the set again"),
        (changed("objectInfo150.txt", b""), "not a table with columns Idx and Name: download the set again"),
        (changed("sceneCategories.txt", b"frame_1 street\n"), "'frame_1' is not ADE_train_N or ADE_val_N"),
    ],
)
def test_another_set_ends_in_one_line(tmp_path, run, monkeypatch, files, message):
    monkeypatch.chdir(tmp_path)
    raw.write_tree(Path("raw"), files)
    code, _, err = run("--raw", "raw", "--out", "out")
    assert code == 1
    assert message in err.splitlines()[-1]
    assert not Path("out").exists()
