"""What is wrong with the files or options for imagenet.py ends in one line that names it."""

import pytest

from data_scripts import imagenet
from tests.scripts.calling import Run, caller
from tests.scripts.imagenet_archives import (
    GOLDFISH,
    KIT,
    SOLUTION,
    TENCH,
    ground_truth,
    ids,
    meta_mat,
    train_files,
    under,
    val_files,
)
from tests.scripts.raw import jpeg, mat_bomb, write_tree


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(imagenet, capsys)


META, TRUTH = "kit/meta.mat", "kit/ILSVRC2012_validation_ground_truth.txt"
GOOD = {META: KIT["ILSVRC2012_devkit_t12/data/meta.mat"], TRUTH: ground_truth(6)}
TWO = {f"val/ILSVRC2012_val_0000000{n}.JPEG": jpeg(n) for n in (1, 2)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            TWO,
            "2 validation images have no labels (first: val/ILSVRC2012_val_00000001.JPEG): put ILSVRC2012_devkit_t12",
        ),
        (TWO | {META: GOOD[META]}, "00000001.JPEG; of the label files only meta.mat is there): put"),
        (TWO | GOOD, f"{TRUTH}: 6 labels for 2 validation images, and 50,000 were published: take"),
        (TWO | GOOD | {TRUTH: b"1\n\n2\n"}, f"{TRUTH}: 3 labels for 2 validation images"),
        (TWO | GOOD | {TRUTH: b"1\n1001\n"}, f"{TRUTH}: line 2 holds '1001', not the ILSVRC2012_ID of a class"),
        (TWO | GOOD | {TRUTH: b"1\nn01440764\n"}, f"{TRUTH}: line 2 holds 'n01440764', not the"),
        (TWO | GOOD | {META: b"junk"}, f"{META}: not the table of classes of the development kit ("),
        (
            TWO | GOOD | {META: mat_bomb()},
            f"{META}: not the table of classes of the development kit (unpacks to more than",
        ),
        (
            TWO | GOOD | {META: mat_bomb(">")},
            f"{META}: not the table of classes of the development kit (unpacks to more",
        ),
        (TWO | GOOD | {META: meta_mat({TENCH: 1, GOLDFISH: 2})}, f"{META}: its 2 WordNet ids are not ImageNet's 1,000"),
        (TWO | GOOD | {META: meta_mat(ids(), "other")}, f"{META}: not the table of classes"),
        (TWO | GOOD | {META: meta_mat(ids() | {TENCH: 7})}, f"{META}: its 999 WordNet ids"),
        (TWO | GOOD | {"old/meta.mat": b"x"}, "raw: kit/meta.mat and old/meta.mat differ: remove the wrong one"),
        (
            {"val/ILSVRC2012_val_00000003.JPEG": jpeg(1), "LOC_val_solution.csv": SOLUTION.encode()},
            "LOC_val_solution.csv lacks 1 of 1 validation images (first: val/ILSVRC2012_val_00000003.JPEG)",
        ),
        (
            TWO | {"LOC_val_solution.csv": b"ImageId,PredictionString\nILSVRC2012_val_00000001,n00000000 1 2 3 4\n"},
            "LOC_val_solution.csv: line 2 (ILSVRC2012_val_00000001) names n00000000, not one of ImageNet's 1,000",
        ),
        (TWO | {"LOC_val_solution.csv": b"id,label\na,b\n"}, "LOC_val_solution.csv: no column 'ImageId'"),
        (
            val_files("val/{wnid}/")
            | {f"val/{GOLDFISH}/ILSVRC2012_val_00000003.JPEG": jpeg(3)}
            | {"LOC_val_solution.csv": f"{SOLUTION}ILSVRC2012_val_00000003,{TENCH} 1 2 3 4\n".encode()},
            f"ILSVRC2012_val_00000003 is {TENCH} by LOC_val_solution.csv and {GOLDFISH} by its folder (val/{GOLDFISH}/",
        ),
        ({"cats/1.jpg": jpeg(1)}, "no images named like those of ILSVRC 2012 (n01440764_18.JPEG, ILSVRC2012_val_"),
        ({f"{TENCH}/images/{TENCH}_1.JPEG": jpeg(1)}, "left out 1 files of train, none can be used (first: "),
        ({f"train/{TENCH}.tar": b"junk" * 200}, f"train/{TENCH}.tar: not a whole archive"),
    ],
)
def test_input_that_cannot_be_used_ends_in_one_line(tmp_path, run, files, message):
    code, _, err = run("--raw", write_tree(tmp_path / "raw", files), "--out", tmp_path / "out")
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--splits", "test"), "--splits test: write train, val or train,val"),
        (("--splits", "val,val"), "--splits val,val: write train, val or train,val"),
        (("--splits", "train,val"), "no images of val: correct --raw or --splits"),
        (("--class-map", "absent.csv"), "absent.csv: neither a file nor one within"),
    ],
)
def test_options_that_do_not_fit_end_in_one_line(tmp_path, run, arguments, message):
    place = write_tree(tmp_path / "raw", under("train", train_files()))
    code, _, err = run("--raw", place, "--out", tmp_path / "out", *arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert message in err
    assert not (tmp_path / "out").exists()
