"""data_scripts/imagefolder.py on input that is odd, damaged or hostile, and its exit codes."""

import io
import lzma
import os
import tarfile
import zipfile

import pytest
from PIL import Image

from data_scripts import imagefolder
from en_bench.data.manifest import load_manifest
from tests.scripts import raw as raw_files
from tests.scripts.calling import Run, caller
from tests.scripts.folders import as_csv, as_tar, jpeg, tree
from tests.scripts.raw import classes_of, fit_and_validate, run_script, samples_of, skipped_of, tar_bytes, write_tree


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(imagefolder, capsys)


def test_members_that_lead_outside_or_link_are_never_followed(tmp_path, run):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(77))
    raw = as_tar(tmp_path / "raw.tar", tree() | {"../train/cat/up.jpg": jpeg(1), "/etc/cat/absolute.jpg": jpeg(2)})
    with tarfile.open(raw, "a") as tar:
        for name, kind, target in (
            ("train/cat/link.jpg", tarfile.SYMTYPE, str(secret)),
            ("train/dog/hard.jpg", tarfile.LNKTYPE, "train/cat/000.jpg"),
            ("train/dog/pipe.jpg", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    code, out, _ = run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 0
    assert load_manifest(tmp_path / "out" / "train").count == 9
    assert skipped_of(tmp_path / "out" / "train") == {
        "../train/cat/up.jpg": "leads outside the archive",
        "train/cat/link.jpg": "is a link or no regular file",
        "train/dog/hard.jpg": "is a link or no regular file",
        "train/dog/pipe.jpg": "is a link or no regular file",
    }
    assert "left out 1 files of splits in which nothing can be read (first: '/etc/cat/absolute.jpg')" in out
    assert sorted(os.listdir(tmp_path / "out")) == ["test", "train"]


def test_damaged_and_hidden_files_do_not_stop_it(tmp_path, run):
    files = tree() | {
        "train/cat/bad.jpg": b"junk",
        "train/dog/v1.2.jpg": jpeg(9),
        "train/dog/._x.jpg": b"",
        ".DS_Store": b"",
    }
    code, out, _ = run("--raw", write_tree(tmp_path / "raw", files), "--out", tmp_path / "out", "--dataset", "toy")
    assert code == 0
    assert skipped_of(tmp_path / "out" / "train") == {"train/cat/bad.jpg": "not an image"}
    assert "skipped 1, see" in out
    assert classes_of(tmp_path / "out" / "train")["dog/v1_2"] == "dog"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--raw", "absent"], "absent: no such folder or archive: correct --raw"),
        (["--raw", "raw/train/cat/000.jpg"], "not a whole archive"),
        (["--raw", "cut.tar"], "not a whole archive"),
        (["--raw", "cut.tar.xz"], "not a whole archive"),
        (["--raw", "raw/train"], "no images in <split>/<class>/"),
        (["--raw", "raw", "--split-map", "test"], "--split-map 'test': write it as name=value"),
        (["--raw", "raw", "--csv", "map.csv", "--layout", "cars"], "--csv means nothing to --layout cars"),
        (["--raw", "raw", "--csv", "map.csv", "--subfolder", "a"], "--csv names every file: leave --subfolder out"),
        (["--raw", "raw", "--csv-columns", "a=b"], "--csv-columns means nothing without --csv"),
        (["--raw", "raw", "--split", "val", "--split-map", "a=b"], "leave --split-map out"),
        (["--raw", "raw", "--layout", "arrays", "--severity", "1"], "--severity means nothing without --corruption"),
        (["--raw", "raw", "--class-list", "gap.csv"], "gap.csv: a row names no class"),
        (["--raw", "raw", "--csv", "absent.csv"], "absent.csv: neither a file nor one within raw"),
        (["--raw", "raw", "--csv", "map.csv"], "map.csv: no column 'path' (it has source, target)"),
        (["--raw", "raw", "--csv", "map.csv", "--csv-columns", "file=source"], "only path, class and split"),
        (["--raw", "raw", "--class-map", "empty.csv"], "empty.csv: no column 'source' (it has none)"),
        (["--raw", "raw", "--class-map", "short.csv"], "short.csv: line 2 lacks a value of source, target"),
        (["--raw", "raw", "--class-map", "raw/train/cat/000.jpg"], "not a CSV in UTF-8"),
        (
            ["--raw", "raw", "--csv", "again.csv"],
            "again.csv: lines 3 and 5 name one file for train, 'train/cat/001.jpg' and './train/cat/001.jpg': keep one",
        ),
        (["--raw", "raw", "--quality", "100"], "JPEG quality 100 is not usable"),
        (["--raw", "raw", "--class-map", "twice.csv"], "twice.csv: maps 'cat' a second time"),
        (["--raw", "same"], "key 'cat/v1_2_jpg' belongs to both train/cat/v1.2.jpg and train/cat/v1_2.jpg"),
        (
            ["--raw", "two.tar"],
            "two.tar: 'other/train/cat/1.jpg' would be of split 'other' and class 'train', which is",
        ),
        (["--raw", "parts"], "parts: 'set' may be a split or a folder above the splits: use --split-map set=NAME if"),
        (["--raw", "flat"], "flat: 'set/test/1.jpg' would be of split 'set' and class 'test', which is named like"),
    ],
)
def test_input_that_cannot_be_used_ends_in_one_line(tmp_path, run, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "raw", tree())
    write_tree(tmp_path / "same", {"train/cat/v1.2.jpg": jpeg(1), "train/cat/v1_2.jpg": jpeg(2)})
    as_tar(tmp_path / "two.tar", {"set/train/cat/1.jpg": jpeg(1), "other/train/cat/1.jpg": jpeg(2)})
    write_tree(tmp_path / "flat", {"set/test/1.jpg": jpeg(1), "set/test/2.jpg": jpeg(2)})
    write_tree(tmp_path / "parts", {"set/one/cat/1.jpg": jpeg(1), "set/one/README": b"", "set/two/cat/1.jpg": jpeg(2)})
    as_csv(tmp_path / "twice.csv", [("source", "target"), ("cat", "a"), ("dog", "b"), ("cat", "b")])
    listed = ["train/cat/001.jpg,cat", "train/cat/002.jpg,cat", "./train/cat/001.jpg,dog"]
    (tmp_path / "again.csv").write_text("\n".join(["# mine", "path,class,split", *(f"{row},train" for row in listed)]))
    whole = as_tar(tmp_path / "whole.tar", tree()).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:3000])
    (tmp_path / "cut.tar.xz").write_bytes(lzma.compress(whole)[:-100])
    as_csv(tmp_path / "map.csv", [("source", "target"), ("cat", "cat")])
    as_csv(tmp_path / "short.csv", [("source", "target"), ("cat",)])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "gap.csv").write_text("class,note\ncat,\n,x\n")
    code, _, err = run(*arguments, "--out", "out", "--dataset", "toy")
    assert code == 1
    assert message in err
    assert err.splitlines()[-1].partition(": error: ")[2]
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_exit_codes_of_the_command(tmp_path):
    raw = write_tree(tmp_path / "raw", tree())
    good = ("imagefolder.py", "--raw", raw, "--out", tmp_path / "out", "--dataset", "toy", "--workers", 2)
    first = run_script(*good, "--shards", 2)
    assert (first.returncode, first.stdout.count("wrote 9 samples in 2 shards")) == (0, 2)
    assert first.stderr.splitlines()[-1].startswith("train: 9 of 9 samples, ")
    wrong = run_script(*good, "--limit", 2)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("imagefolder.py: error: ")
    assert wrong.stderr.count("\n") == 1


def test_a_second_call_finds_everything_there_and_wrong_usage_exits_with_2(tmp_path, run):
    good = ("--raw", write_tree(tmp_path / "raw", tree()), "--out", tmp_path / "out", "--dataset", "toy")
    assert run(*good)[0] == 0
    code, out, _ = run(*good)
    assert (code, out.count("already there")) == (0, 2)
    for wrong in (("--short-side", 32, "--original"), ("--limit", 0), ("--layout", "voc"), ("--severity", 6)):
        with pytest.raises(SystemExit) as exit_:
            run(*good, *wrong)
        assert exit_.value.code == 2


def test_of_two_members_with_one_name_the_last_is_taken_and_the_other_listed(tmp_path, run):
    raw = as_tar(tmp_path / "raw.tar", tree())
    with tarfile.open(raw, "a") as tar:
        info = tarfile.TarInfo("train/cat/000.jpg")
        info.size = len(jpeg(99))
        tar.addfile(info, io.BytesIO(jpeg(99)))
    assert run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")[0] == 0
    assert samples_of(tmp_path / "out" / "train")["cat/000"][1] == jpeg(99)
    reason = "a later member of the archive has the same name"
    assert skipped_of(tmp_path / "out" / "train") == {"train/cat/000.jpg": reason}


@pytest.mark.parametrize("kind", ["folder", "tar", "tars", "zip"])
def test_every_kind_of_file_lands_or_is_listed_and_a_network_trains_on_it(tmp_path, run, kind):
    files = mixed()
    if kind == "folder":
        raw = write_tree(tmp_path / "raw", files)
    elif kind == "tar":
        raw = as_tar(tmp_path / "raw.tar", {f"set/{name}": content for name, content in files.items()})
    elif kind == "zip":
        raw = tmp_path / "raw.zip"
        with zipfile.ZipFile(raw, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:  # a folder with a tar per split, one of which repeats its own name within, one of which holds tars
        dogs = {"1.jpg": files["train/dog/1.jpg"], "2.jpg": b"", "3.jpg": files["train/dog/3.jpg"]}
        train = {name: content for name, content in files.items() if name.startswith("train/") and "dog" not in name}
        val = {name.removeprefix("val/"): content for name, content in files.items() if name.startswith("val/")}
        tars = {"train.tar": tar_bytes(train | {"train/dog.tar": tar_bytes(dogs)}), "val.tar": tar_bytes(val)}
        raw = write_tree(tmp_path / "raw", tars)
    assert run("--raw", raw, "--out", tmp_path / "toy", "--dataset", "toy", "--shards", 1)[0] == 0
    manifest = load_manifest(tmp_path / "toy" / "train")
    assert (manifest.classes, manifest.count, manifest.skipped) == (("cat", "dog", "horse"), 6, 2)
    assert manifest.image["reencoded"] == 2  # CMYK and turned; the PNG keeps its bytes
    found = samples_of(tmp_path / "toy" / "train")
    assert {key: labels["given"] for key, (labels, _) in found.items()} == {
        "cat/1": 0,
        "cat/2": 0,
        "cat/3": 0,
        "dog/1": 1,
        "horse/1": 2,
        "horse/8": 2,
    }
    assert found["cat/1"][1] == files["train/cat/1.jpg"]
    assert found["cat/2"][1] == files["train/cat/2.JPEG"]
    assert Image.open(io.BytesIO(found["dog/1"][1])).size == (36, 40)
    assert Image.open(io.BytesIO(found["cat/3"][1])).mode == "RGB"
    reasons = {origin.rpartition("dog")[2][-5:]: reason for origin, reason in skipped_of(manifest.folder).items()}
    assert reasons.keys() == {"2.jpg", "3.jpg"}
    assert reasons["2.jpg"] == "empty file"
    if kind == "folder":
        assert fit_and_validate(tmp_path, "toy/train", "toy/val", tmp_path / "run").count == 3


def mixed() -> dict[str, bytes]:
    """Three classes with one file of each kind that published sets are known for, and the hand counts below."""
    return {
        "train/cat/1.jpg": raw_files.jpeg(1),
        "train/cat/2.JPEG": raw_files.png(2),  # a PNG by its content
        "train/cat/3.jpg": raw_files.jpeg(3, mode="CMYK"),
        "train/dog/1.jpg": raw_files.turned_jpeg(4),
        "train/dog/2.jpg": b"",
        "train/dog/3.jpg": raw_files.truncated_jpeg(5),
        "train/horse/1.jpg": raw_files.jpeg(6, mode="L"),
        "train/horse/8.jpg": raw_files.jpeg(7),
        "val/cat/1.jpg": raw_files.jpeg(8),
        "val/dog/1.jpg": raw_files.jpeg(9),
        "val/horse/1.jpg": raw_files.jpeg(10),
    }


def test_a_folder_is_walked_through_links_once(tmp_path, run):
    raw = write_tree(tmp_path / "raw", {name: c for name, c in tree().items() if name.startswith("train")})
    elsewhere = write_tree(tmp_path / "elsewhere", {f"cat/{i}.jpg": jpeg(i) for i in range(2)})
    (raw / "val").symlink_to(elsewhere)
    (raw / "train" / "cat" / "loop").symlink_to(raw)
    assert run("--raw", raw, "--out", tmp_path / "out", "--dataset", "toy")[0] == 0
    assert load_manifest(tmp_path / "out" / "train").count == 9
    assert load_manifest(tmp_path / "out" / "val").count == 2
