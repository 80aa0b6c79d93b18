"""ImageNet from tiny archives in the layouts in which it is published and kept."""

import io
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from data_scripts import imagenet
from data_scripts.layouts.imagenet_files import list_images
from data_scripts.layouts.wordnet import imagenet_classes
from en_bench.data.manifest import load_manifest, to_fields
from tests.scripts import raw
from tests.scripts.calling import Run, caller
from tests.scripts.imagenet_archives import (
    GOLDFISH,
    KIT,
    LAYOUTS,
    PUBLISHED,
    SHARK,
    SOLUTION,
    TENCH,
    TISSUE,
    TRAIN_CLASSES,
    VAL_CLASSES,
    class_tars,
    ground_truth,
    lay_out,
    train_files,
    under,
    val_files,
)
from tests.scripts.raw import jpeg, tar_bytes, write_tree


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(imagenet, capsys)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The splits made from the archives as published."""
    root = tmp_path_factory.mktemp("published")
    place = write_tree(root / "raw", PUBLISHED)
    assert imagenet.main(["--raw", str(place), "--out", str(root / "out"), "--workers", "1"]) == 0
    return root / "out"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_splits(tmp_path, run, reference, layout):
    place = lay_out(tmp_path / "raw", layout)
    code, out, err = run("--raw", place, "--out", tmp_path / "out")
    assert code == 0, err
    for split, classes in (("train", TRAIN_CLASSES), ("val", VAL_CLASSES)):
        assert raw.classes_of(tmp_path / "out" / split) == classes
        found, wanted = (to_fields(load_manifest(root / split)) for root in (tmp_path / "out", reference))
        assert found.pop("source")["script"] == wanted.pop("source")["script"] == "imagenet.py"
        assert len(found.pop("shards")) == len(wanted.pop("shards")) == 1  # they name where each image lay
        assert found == wanted, "all but the provenance, the hash of the index among it"
        assert raw.samples_of(tmp_path / "out" / split) == raw.samples_of(reference / split)
    assert "train: 8 images of 3 of 1,000 classes; 1,281,159 of the published 1,281,167 are missing" in out
    assert "val: 6 images of 4 of 1,000 classes; 49,994 of the published 50,000 are missing; 996 classes have" in out
    assert ("3 classes have fewer than were published (first: n01440764, 3 of 1,300)" in out) == (
        layout in ("published", "in folders", "one tar")
    )
    assert ("left out 1 test images" in out) == (layout == "kaggle")


def test_published_archives_by_hand(tmp_path, run):
    place = write_tree(tmp_path / "raw", PUBLISHED)
    assert run("--raw", place, "--out", tmp_path / "out", "--original")[0] == 0
    train, val = (load_manifest(tmp_path / "out" / split) for split in ("train", "val"))
    assert train.classes == val.classes == imagenet_classes()
    assert (train.dataset, train.columns, train.count, train.skipped) == ("imagenet", ("given",), 6, 4)
    assert (val.count, val.skipped) == (6, 0)
    found = raw.samples_of(tmp_path / "out" / "train")
    assert {key: labels["given"] for key, (labels, _) in found.items()} == {
        f"{TENCH}/{TENCH}_18": 0,
        f"{TENCH}/{TENCH}_36": 0,
        f"{TENCH}/{TENCH}_37": 0,
        f"{GOLDFISH}/{GOLDFISH}_2": 1,
        f"{TISSUE}/{TISSUE}_10": 999,
        f"{TISSUE}/{TISSUE}_11": 999,
    }
    five = {1: 2, 2: 0, 7: 999, 49_999: 1, 50_000: 999}
    labels = {key: labels["given"] for key, (labels, _) in raw.samples_of(tmp_path / "out" / "val").items()}
    assert {number: labels[f"ILSVRC2012_val_{number:08d}"] for number in five} == five
    images = {key: Image.open(io.BytesIO(content)) for key, (_, content) in found.items()}
    assert found[f"{TENCH}/{TENCH}_18"][1] == jpeg(1)
    assert images[f"{TENCH}/{TENCH}_36"].format == "PNG"
    assert images[f"{TENCH}/{TENCH}_37"].mode == "RGB"
    assert images[f"{GOLDFISH}/{GOLDFISH}_2"].size == (36, 40), "upright"
    archive = "ILSVRC2012_img_train.tar"
    reasons = raw.skipped_of(tmp_path / "out" / "train")
    assert "truncated" in reasons.pop(f"{archive}/{GOLDFISH}.tar/{GOLDFISH}_6.JPEG")
    assert reasons == {
        f"{archive}/{GOLDFISH}.tar/{GOLDFISH}_5.JPEG": "empty file",
        f"{archive}/{GOLDFISH}.tar/{TENCH}_18.JPEG": f"named for the class {TENCH}, but lies in {GOLDFISH}",
        f"{archive}/{TISSUE}.tar/flowers.JPEG": "not named like an image of ILSVRC 2012",
    }
    assert train.source == {"script": "imagenet.py", "raw": "raw", "limit": None}
    assert val.source["labels"]["from"] == ["ILSVRC2012_validation_ground_truth.txt"]
    assert sorted(val.source["labels"]["sha256"]) == ["ILSVRC2012_validation_ground_truth.txt", "meta.mat"]


def test_the_command_by_two_processes_trains_and_validates(tmp_path):
    place = write_tree(tmp_path / "raw", PUBLISHED)
    out = tmp_path / "data" / "imagenet"
    done = raw.run_script("imagenet.py", "--raw", place, "--out", out, "--workers", 2, "--shards", 2)
    assert (done.returncode, done.stdout.count("wrote 6 samples in 2 shards")) == (0, 2), done.stderr
    assert f"{out}: 12 samples in 2 splits, 1,000 classes, skipped 4" in done.stdout
    manifest = raw.fit_and_validate(tmp_path / "data", "imagenet/train", "imagenet/val", tmp_path / "run")
    assert (manifest.count, len(manifest.classes)) == (6, 1000)


def test_single_tars_and_asked_splits(tmp_path, run):
    place = write_tree(tmp_path / "raw", PUBLISHED | class_tars() | under("sorted/val", val_files()))
    for name, count in (("ILSVRC2012_img_train.tar", 6), (f"{TENCH}.tar", 3), ("sorted/val", 6)):
        out = tmp_path / Path(name).stem
        assert run("--raw", place / name, "--out", out)[0] == 0
        (split,) = out.iterdir()
        assert (split.name, load_manifest(split).count) == ("val" if "val" in name else "train", count)
    assert run("--raw", place, "--out", tmp_path / "one", "--splits", "val", "--limit", 4)[0] == 0
    assert [split.name for split in (tmp_path / "one").iterdir()] == ["val"]
    assert load_manifest(tmp_path / "one" / "val").count == 4


def test_training_images_stay_the_same_when_validation_joins_them(tmp_path, run):
    place = write_tree(tmp_path / "raw", under("train", train_files()))
    assert run("--raw", place, "--out", tmp_path / "out")[0] == 0
    write_tree(place, KIT | under("val", val_files("")))
    code, out, _ = run("--raw", place, "--out", tmp_path / "out")
    assert (code, out.count("already there"), out.count("wrote 6 samples")) == (0, 1, 1)


def test_what_was_extracted_beside_its_archive_counts_once(tmp_path, run):
    files = PUBLISHED | under("train", train_files()) | under("val", val_files())
    files[f"old/{TENCH}/{TENCH}_36.JPEG"] = jpeg(50)
    files |= {f"train/{SHARK}/{SHARK}_1.{ending}": jpeg(51) for ending in ("JPEG", "jpg")}
    code, out, err = run("--raw", write_tree(tmp_path / "raw", files), "--out", tmp_path / "out")
    assert code == 0, err
    assert raw.classes_of(tmp_path / "out" / "train") == TRAIN_CLASSES | {f"{SHARK}/{SHARK}_1": SHARK}
    assert raw.classes_of(tmp_path / "out" / "val") == VAL_CLASSES
    assert f"left out 8 copies in 3 folders or tars of nothing else (first: 'train/{TENCH}')" in out
    assert "left out 6 copies in 1 folders or tars of nothing else (first: 'ILSVRC2012_img_val.tar')" in out
    reasons = raw.skipped_of(tmp_path / "out" / "train")
    used = f"ILSVRC2012_img_train.tar/{TENCH}.tar/{TENCH}_36.JPEG"
    assert reasons[f"old/{TENCH}/{TENCH}_36.JPEG"] == f"has the name of {used}, which is used"
    assert reasons[f"train/{SHARK}/{SHARK}_1.jpg"] == f"has the name of train/{SHARK}/{SHARK}_1.JPEG, which is used"


def test_the_number_in_the_name_is_the_line_and_never_the_position(tmp_path, run):
    some = {name: content for name, content in val_files("val/").items() if "00049999" in name or "00000007" in name}
    assert run("--raw", write_tree(tmp_path / "raw", KIT | some), "--out", tmp_path / "out")[0] == 0
    found = raw.classes_of(tmp_path / "out" / "val")
    assert found == {"ILSVRC2012_val_00000007": TISSUE, "ILSVRC2012_val_00049999": GOLDFISH}
    short = tmp_path / "short"
    write_tree(short, KIT | {f"val/ILSVRC2012_val_0000000{n}.JPEG": jpeg(n) for n in (1, 2, 3)})
    truth = next(short.rglob("*ground_truth.txt"))
    truth.write_bytes(ground_truth(3))
    assert run("--raw", short, "--out", tmp_path / "three")[0] == 0
    found = raw.classes_of(tmp_path / "three" / "val")
    assert found == {f"ILSVRC2012_val_0000000{n}": wnid for n, wnid in ((1, SHARK), (2, TENCH), (3, GOLDFISH))}


def test_wrong_and_mixed_names_are_listed(tmp_path, run):
    files = {
        f"train/{TENCH}/{TENCH}_1.JPEG": jpeg(1),
        f"train/{TENCH}/ILSVRC2012_val_00000002.JPEG": jpeg(2),
        f"train/{TENCH}/{TENCH}_x.JPEG": jpeg(3),
        f"train/{TENCH}/{TENCH}_2.JPEG.part": jpeg(3),
        f"train/{TENCH}/images/{TENCH}_3.JPEG": jpeg(3),
        f"train/n00007846/n00007846_{1}.JPEG": jpeg(3),
        f"train/{TISSUE}_1.JPEG": jpeg(4),
        "val/ILSVRC2012_val_00000001.JPEG": jpeg(5),
        "val/ILSVRC2012_val_00050001.JPEG": jpeg(6),
        "val/ILSVRC2012_val_00000000.JPEG": jpeg(6),
        "val/ILSVRC2012_val_1.JPEG": jpeg(6),
        f"val/{TENCH}/{TENCH}_4.JPEG": jpeg(7),
        "cat.jpg": jpeg(8),
        "LOC_val_solution.csv": SOLUTION.encode(),
    }
    code, out, err = run("--raw", write_tree(tmp_path / "raw", files), "--out", tmp_path / "out")
    assert code == 0, err
    assert raw.classes_of(tmp_path / "out" / "train") == {f"{TENCH}/{TENCH}_1": TENCH, f"{TISSUE}/{TISSUE}_1": TISSUE}
    assert raw.classes_of(tmp_path / "out" / "val") == {"ILSVRC2012_val_00000001": SHARK}
    odd = "not named like an image of ILSVRC 2012"
    assert raw.skipped_of(tmp_path / "out" / "train") == {
        f"train/{TENCH}/ILSVRC2012_val_00000002.JPEG": "named like an image of val, but lies in train",
        f"train/{TENCH}/{TENCH}_x.JPEG": odd,
        f"train/{TENCH}/{TENCH}_2.JPEG.part": "not named like an image",
        f"train/{TENCH}/images/{TENCH}_3.JPEG": "lies below the folder of a class, not in it (Tiny ImageNet? use "
        "tiny_imagenet.py)",
    }
    assert raw.skipped_of(tmp_path / "out" / "val") == {
        "val/ILSVRC2012_val_00050001.JPEG": odd,
        "val/ILSVRC2012_val_00000000.JPEG": odd,
        "val/ILSVRC2012_val_1.JPEG": odd,
        f"val/{TENCH}/{TENCH}_4.JPEG": "named like an image of train, but lies in val",
    }
    assert "left out 1 images of 1 classes beyond the 1,000 (first: 'n00007846')" in out
    assert "left out 1 files that fit nowhere (first: 'cat.jpg')" in out


def test_hostile_members_are_listed_and_never_written(tmp_path, run):
    inner = tmp_path / f"{TENCH}.tar"
    inner.write_bytes(tar_bytes({f"{TENCH}_1.JPEG": jpeg(1), f"../{TENCH}_2.JPEG": jpeg(2), f"{TENCH}_3\n.JPEG": b""}))
    with tarfile.open(inner, "a") as tar:
        link = tarfile.TarInfo(f"{TENCH}_4.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    place = write_tree(tmp_path / "raw", {"ILSVRC2012_img_train.tar": tar_bytes({f"{TENCH}.tar": inner.read_bytes()})})
    code, out, _ = run("--raw", place, "--out", tmp_path / "out")
    assert (code, list(raw.classes_of(tmp_path / "out" / "train"))) == (0, [f"{TENCH}/{TENCH}_1"])
    reasons = raw.skipped_of(tmp_path / "out" / "train").values()
    assert {"is a link or no regular file", "leads outside the archive"} <= set(reasons)
    assert any("U+000A" in reason for reason in reasons) or "files that fit nowhere (first: 'n01440764_3\\n" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [inner.name, "out", "raw"]


def test_a_class_map_keeps_and_merges(tmp_path, run):
    table = tmp_path / "map.csv"
    table.write_text(f"# version: 3\nsource,target\n{TENCH},fish\n{GOLDFISH},fish\n{TISSUE},paper\n")
    place = write_tree(tmp_path / "raw", PUBLISHED)
    code, out, _ = run("--raw", place, "--out", tmp_path / "out", "--class-map", table)
    assert code == 0
    train, val = (load_manifest(tmp_path / "out" / split) for split in ("train", "val"))
    assert (train.classes, train.count, val.count) == (("fish", "paper"), 6, 5)
    found = raw.classes_of(tmp_path / "out" / "val")
    assert [found[f"ILSVRC2012_val_{number:08d}"] for number in (2, 7, 8, 49_999, 50_000)] == [
        *("fish", "paper", "fish", "fish", "paper")
    ]
    assert train.source["class_map"]["version"] == "3"
    assert f"left out 1 images of classes that {table} lacks" in out
    table.write_text("source,target\ntench,fish\n")
    code, _, err = run("--raw", place, "--out", tmp_path / "other", "--class-map", table)
    assert (code, "its sources tench are none of ImageNet's 1,000 WordNet ids" in err) == (1, True)
    table.write_text("source,target\nn01491361,shark\n")
    code, _, err = run("--raw", place, "--out", tmp_path / "other", "--class-map", table)
    assert (code, "keeps no image of train" in err) == (1, True)


def test_the_whole_set_is_complete():
    per_class = dict.fromkeys(imagenet_classes(), 50)
    places = [(wnid, 50 * label + number) for label, wnid in enumerate(imagenet_classes()) for number in range(1, 51)]
    names = tuple(f"val/{wnid}/ILSVRC2012_val_{number:08d}.JPEG" for wnid, number in places)
    listing = list_images(SimpleNamespace(names=names, refused=[], name="raw"))
    images, skipped, note = imagenet.without_copies(listing.images["val"])
    assert (len(images), skipped, note) == (50_000, [], "")
    assert imagenet.completeness("val", images, per_class) == "val: 50,000 images of 1,000 of 1,000 classes; complete"
    less = imagenet.completeness("val", images[1:], per_class)
    assert less.endswith(
        f"1 of the published 50,000 are missing; 1 classes have fewer than were published (first: {TENCH}, 49 of 50)"
    )
