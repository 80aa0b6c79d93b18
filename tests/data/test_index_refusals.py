"""`en-bench data index` on what it must not take: one line each, with place and cure, and nothing is lost."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from en_bench.data.manifest import load_manifest
from tests.data.foreign import Verb, read_all, sample, tar, tars
from tests.images import make_split

Files = dict[str, bytes]


@pytest.fixture
def index(capsys: pytest.CaptureFixture[str]) -> Verb:
    return Verb(capsys)


def contents(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def of_bytes(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Damages x-1.tar."""

    def damage(folder: Path) -> None:
        path = folder / "x-1.tar"
        path.write_bytes(edit(path.read_bytes()))

    return damage


def without_end(content: bytes) -> bytes:
    return content[: len(content.rstrip(b"\0")) // 512 * 512 + 512]


def flipped(content: bytes) -> bytes:
    start = content.index(b"0008.png")
    return content[:start] + b"?" + content[start + 1 :]


def bad_size(content: bytes) -> bytes:
    """A pax header that says of itself that it has 2**50 bytes."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**50
    return info.tobuf(tarfile.GNU_FORMAT) + content


def repeat_extended(content: bytes) -> bytes:
    """Headers about headers about headers, which tarfile follows by recursion."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 0
    return info.tobuf(tarfile.GNU_FORMAT) * 5000 + content


def repeated_key(folder: Path) -> None:
    tar(folder / "x-1.tar", [*sample("a", 0, 0), *sample("0003", 1, 1)])


def scattered(folder: Path) -> None:
    files = [file for key in ("a", "b") for file in sample(key, 0, 0)]
    tar(folder / "x-1.tar", sorted(files, key=lambda file: file[0][2:]))


def doubled(folder: Path) -> None:
    tar(folder / "x-1.tar", [*sample("a", 0, 0), *sample("a", 0, 0)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (of_bytes(lambda c: c[:1000]), "x-1.tar: not a whole tar of 1,000 bytes: unexpected end of data: copy or"),
        (of_bytes(without_end), ": it has no end mark: copy or download it again"),
        (of_bytes(flipped), ": no header that can be read at byte "),
        (of_bytes(lambda c: b""), "x-1.tar: not a whole tar of 0 bytes: empty file: copy or download it again"),
        (of_bytes(lambda c: b"<html>" * 900), "x-1.tar: not a whole tar of 5,400 bytes: "),
        (of_bytes(lambda c: c + c), "x-1.tar: more follows after its end mark before byte "),
        (of_bytes(gzip.compress), "x-1.tar: compressed (gzip), so that no sample can be read at its place: unpack it"),
        (of_bytes(bad_size), "x-1.tar: "),
        (of_bytes(repeat_extended), "x-1.tar: "),
        (
            repeated_key,
            ": key '0003' is that of two samples, whose images lie at byte 14,336 of x-0.tar and at byte 5,120 of",
        ),
        (scattered, "x-1.tar: key 'a' lies at byte 0 and again at byte "),
        (doubled, "x-1.tar, sample 'a': has two files .png, the second at byte "),
        (lambda folder: (folder / "x-1.tar").chmod(0), "x-1.tar: Permission denied: make it readable"),
        (lambda folder: (folder / "y-1.tar").touch(), "holds tars of 2 kinds (3 like x-N.tar, 1 like y-N.tar), and a"),
        (lambda folder: (folder / "y.tar.gz").touch(), "y.tar.gz: compressed, so that no sample can be read"),
    ],
)
def test_damaged_and_strange_tars(tmp_path, index, damage, message):
    folder = tars(tmp_path / "set", counts=(7, 4, 5))
    damage(folder)
    if os.geteuid() == 0 and "Permission" in message:
        pytest.skip("root reads everything")
    before = contents(folder)
    error = index(folder).error
    assert message in error and error.startswith(str(folder))
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "cl s"), "'cl s' says of no label where it stands: use cls, json, key or an extension"),
        (("--labels", "cls:x"), "'cls:x': only JSON files have fields: write 'cls'"),
        (("--field", "a", "--labels", "cls"), "--field 'a': goes with --labels json: leave out one of them"),
        (("--field", "a", "--pattern", "b"), "--field is for labels in JSON, --pattern for those in keys: leave out"),
        (("--pattern", "("), "--pattern '(': no regular expression (missing ), unterminated subpattern at position 0)"),
        (("--pattern", "a+"), "--pattern 'a+': has no group: put the part that names the class into parentheses"),
        (("--column", "clean"), "--column 'clean': write NAME=WHERE, such as clean=json:clean_label"),
        (("--column", "a b=cls"), "--column 'a b=cls': write NAME=WHERE, such as clean=json:clean_label"),
        (("--column", "given=cls"), "--column 'given=cls': column 'given' is there already: --labels says where"),
        (("--column", "a=cls", "--column", "a=json"), "--column 'a=json': column 'a' is there already: give it once"),
        (("--image", "j pg"), "--image 'j pg': no extension: write jpg, or image.png"),
        (("--image", "tif"), "none of 20 samples can be used, first x-0.tar/0000: has no image (.tif): tell where"),
        (("--labels", "json"), "none of 20 samples can be used, first x-0.tar/0000: has no .json: tell where labels"),
        (("--workers", "0"), "--workers 0 is too small: use 1 or more"),
        (("--dataset", "../x"), "--dataset '../x': no name of a set: use letters, digits, '_', '-' and '.'"),
        (("--out", ""), "--out is empty, as where a variable of the shell is not set: name a folder"),
        (("--classes", "absent.txt"), "absent.txt: not a file: correct the name"),
        (("--column", "b=key"), "labels of column 'given' are numbers, those of 'b' names: tell with --classes in"),
    ],
)
def test_options_that_do_not_fit(tmp_path, index, options, message):
    folder = tars(tmp_path / "set") if "b=key" not in options else tmp_path / "set"
    if "b=key" in options:
        tar(folder / "x.tar", sample("cat/1", 1, 1))
    before = contents(folder)
    assert message in index(folder, *options).error
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x\n\ny\n", "a.txt: line 2 names no class: complete or remove it"),
        ("a.txt", b"x\ny\nx\n", "a.txt: names class 'x' a second time: keep one of its lines"),
        ("a.txt", b"\xff\n", "a.txt: not text in UTF-8"),
        ("a.csv", b"name\nx\nx\n", "a.csv: names class 'x' a second time"),
        ("a.csv", b"source,target\n0,a\n0,b\n", "a.csv: maps '0' a second time"),
        ("a.txt", b"cat\n", "none of 3 samples can be used, first x.tar/1: label 'a' is none of the 1 classes"),
    ],
)
def test_lists_of_classes_that_do_not_fit(tmp_path, index, name, content, message):
    (tmp_path / name).write_bytes(content)
    tar(tmp_path / "set" / "x.tar", [file for i in "123" for file in [*sample(i, 1, 1, "none"), (f"{i}.cls", b"a")]])
    assert message in index(tmp_path / "set", "--classes", tmp_path / name).error


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["1", "2", "cat"], "labels of column 'given' are numbers and names, such as 'cat': name all classes with"),
        (["1", "123456789"], "label 123,456,789 is no class number, of which there are 100,000 at most: name the"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, index, labels, message):
    files = [
        file for i, label in enumerate(labels) for file in [*sample(str(i), 1, 1, "none"), (f"{i}.cls", label.encode())]
    ]
    tar(tmp_path / "x.tar", files)
    assert message in index(tmp_path).error


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("absent", "absent: no such folder or tar: correct the path or URL"),
        ("absent.tar", "absent.tar: is not there: correct the path, URL or pattern"),
        ("", ": holds no .tar: name the folder that the shards lie in"),
        ("set/x-{0..5}.tar", "set/x-3.tar: is not there, nor are 2 more of 6: correct the path, URL or pattern"),
        ("set/y-*.tar", "set/y-*.tar: no tar has such a name: correct the pattern"),
        ("*/x-0.tar", "* may stand in the name of the tars only: name their folder"),
        ("{set,other}/x-0.tar", "leads to 2 folders: the shards of a split lie in one; index each by itself"),
        ("set/x-{0..2}", "'x-0' is no .tar: let the pattern end in .tar"),
        ("set/x-{2..0}.tar", "{2..0} counts down: write the smaller number first"),
        ("set/x-{2}.tar", "{2} is no choice: write {000..146} or {a,b}"),
        ("set/x-{0..99999999}.tar", "stands for more than 1,000,000 names: correct its numbers"),
        ("set/x-{0..1999}{0..1999}.tar", "stands for more than 1,000,000 names: correct its numbers"),
        ("set/x-{0,1,0}.tar", "names 'x-0.tar' twice: correct the pattern"),
        ("set/x-{0..2}.tar.gz", "x-0.tar.gz: compressed, so that no sample can be read at its place: unpack it to a"),
        ("set/x-{0,1}.tar", "set: the tars there are not all of this split: give the manifest a folder, --out FOLDER"),
        ("set/x-0.tar", "set: the tars there are not all of this split: give the manifest a folder, --out FOLDER"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, index, url, message):
    tars(tmp_path / "set")
    (tmp_path / "other").mkdir()
    assert message in index(f"{tmp_path}/{url}").error


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://h.example/set", "https://h.example/set: a web server has no list of its files: name them with a"),
        ("https://h.example/*.tar", "*.tar: a web server has no list of its files: write {000000..000146} in place"),
        ("https://h.example/x.tar?token=secret", "https://h.example/x.tar: given with a query, which may hold keys"),
        ("https://me:secret@h.example/x.tar", "https://h.example/x.tar: it was given with a user or key"),
        ("s3://bucket/x.tgz", "s3://bucket/x.tgz: compressed"),
        ("https://h.example/x-{0..1}.tar", "https://h.example/: cannot be written: give the manifest a"),
    ],
)
def test_urls_that_cannot_be_indexed(index, url, message):
    error = index(url).error
    assert message in error and "secret" not in error


def test_prepared_splits_are_not_overwritten(tmp_path, index):
    folder = make_split(tmp_path / "train", 9)
    before = contents(folder)
    assert index(folder).error == (
        f"{folder}: prepared by a script, and its manifest.json is not overwritten: it can train as it is"
    )
    assert "prepared by a script" in index(tars(tmp_path / "tars"), "--out", folder).error
    assert contents(folder) == before
    assert index(folder, "--out", tmp_path / "index").code == 0, "our own shards are WebDataset tars too"
    assert read_all(tmp_path / "index").keys() == {f"toy-0-{i:04d}" for i in range(9)}


@pytest.mark.parametrize("name", ["manifest.json", "index.npz", "skipped.csv", "notes.txt", "a folder", ".preparing"])
def test_nothing_of_others_is_overwritten(tmp_path, index, name):
    folder = tars(tmp_path / "tars")
    out = tmp_path / "out"
    out.mkdir()
    if name == "a folder":
        (out / name).mkdir()
    else:
        (out / name).write_bytes(b"mine")
    error = index(folder, "--out", out).error
    assert error.startswith(str(out)) and "choose " in error
    assert [path.name for path in out.iterdir()] == [name]


def test_an_index_of_other_tars_is_not_overwritten(tmp_path, index):
    tars(tmp_path / "a", stem="a")
    tars(tmp_path / "b", stem="b")
    assert index(tmp_path / "a", "--out", tmp_path / "out").code == 0
    assert index(tmp_path / "b", "--out", tmp_path / "out").error == (
        f"{tmp_path / 'out'}: holds the index of other tars (a-0.tar): choose another folder with --out"
    )


def test_indexing_again_replaces_the_index(tmp_path, index):
    folder = tars(tmp_path)
    index(folder)
    first = contents(folder)
    assert index(folder).code == 0 and contents(folder) == first
    tar(folder / "x-3.tar", sample("new", 2, 3))
    assert index.verified(folder) == ["  'x-3.tar': a tar that manifest.json does not list"]
    assert index(folder).code == 0
    assert "new" in read_all(folder) and index.verified(folder) == []
    (folder / "manifest.json").unlink()  # as a kill leaves it that comes between the files
    (folder / "index.npz").unlink()
    assert index(folder).code == 0
    assert load_manifest(folder).count == 21


def test_members_that_mean_harm_are_only_names(tmp_path, index):
    """Nothing is unpacked; absolute names and dots are keys like others."""
    files = [file for key in ("/etc/x", "../../up", "a/../b") for file in sample(key, 1, 1)]
    tar(tmp_path / "set" / "x.tar", files)
    with tarfile.open(tmp_path / "set" / "x.tar", "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"odd{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO())
    assert index(tmp_path / "set").code == 0
    assert list(read_all(tmp_path / "set")) == ["/etc/x", "../../up", "a/../b"]
    assert load_manifest(tmp_path / "set").skipped == 3
    assert {path.name for path in tmp_path.iterdir()} == {"set"}
