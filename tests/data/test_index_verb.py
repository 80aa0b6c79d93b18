"""`en-bench data index`: tars of other makers read like our own, with the labels that their makers meant."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from en_bench.data.manifest import load_manifest
from en_bench.data.sources import Source, fingerprint
from en_bench.data.transforms import CenterCrop
from tests.data.damage import replace_index
from tests.data.foreign import Verb, labels_of, read_all, sample, skipped_of, tar, tars
from tests.data.opened import open_dataset
from tests.images import coloured_png
from tests.scripts.raw import encoded, fit_and_validate, jpeg, picture

LONG = "folder " + "k" * 120 + "/" + "l" * 150 + "/"
FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.fixture
def index(capsys: pytest.CaptureFixture[str]) -> Verb:
    return Verb(capsys)


def by_webdataset(folder: Path, images: tuple[str, ...] = ("jpg", "png")) -> dict[str, tuple[bytes, bytes]]:
    """By key image and .cls as webdataset reads them."""
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    return {
        one["__key__"]: (next(one[name] for name in images if name in one), one["cls"])
        for one in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    }


def test_shards_of_webdatasets_own_writer(tmp_path, index):
    with webdataset.ShardWriter(str(tmp_path / "toy-validation-%06d.tar"), maxcount=7, verbose=0) as writer:
        for i in range(24):
            about = {"label": i % 3, "n": i}
            writer.write({"__key__": f"a/{i:04d}", "png": coloured_png(i % 3, i), "cls": i % 3, "json": about})
    told = index(tmp_path)
    assert told.lines[0] == "labels are taken from .cls (--labels names another place)"
    assert told.lines[1].startswith(f"{tmp_path}: indexed 24 samples of 3 classes in 4 shards, ")
    assert told.lines[1].endswith("; skipped 0") and len(told.lines) == 2
    manifest = load_manifest(tmp_path)
    assert (manifest.dataset, manifest.split, manifest.classes) == ("toy", "val", ("0", "1", "2"))
    assert (manifest.seed, manifest.location, manifest.columns) == (None, None, ("given",))
    expected = by_webdataset(tmp_path)
    assert len(expected) == 24
    assert {key: (data, labels["given"].encode()) for key, (data, labels) in read_all(tmp_path).items()} == expected
    assert index.verified(tmp_path) == []
    samples = [Source(f"a/{i:04d}", {"given": i % 3}, bytes, "") for i in range(24)]
    assert manifest.inputs_sha256 == fingerprint(samples), "as the writer of our own shards takes it"


@pytest.mark.parametrize("form", FORMS)
def test_the_stream_reads_what_webdataset_reads(tmp_path, index, form):
    """Keys in folders, not ASCII, at and beyond the length that a header takes, in every format of tarfile."""
    keys = ["plain", "./dotted", "a/b/c.d/e", "x" * 95, "x" * 96, "y" * 97 + "/z", "d/" * 60 + "f"]
    if form != "ustar":
        keys += ["鳥/ä ö", "é" * 60, LONG + "1", LONG + "2", "n" * 300]
    files = [file for i, key in enumerate(keys) for file in sample(key, i % 3, i)]
    tar(tmp_path / "x-0.tar", files, FORMS[form])
    tar(tmp_path / "x-1.tar", [*sample("last", 2, 99)], FORMS[form])
    assert index(tmp_path).code == 0
    stream = open_dataset(tmp_path, CenterCrop(32))
    batch = stream[0, np.arange(len(stream))]
    expected = by_webdataset(tmp_path)
    assert [stream.reader.index.key(row) for row in batch.row.tolist()] == [*keys, "last"] == list(expected)
    for image, target, row in zip(batch.image, batch.target.tolist(), batch.row.tolist(), strict=True):
        data, label = expected[stream.reader.index.key(row)]
        assert stream.reader.read(row) == data
        assert int(label) == target
        assert np.array_equal(image.permute(1, 2, 0), np.asarray(Image.open(io.BytesIO(data))))
    assert index.verified(tmp_path) == []


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar here")
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_tars_of_the_command_tar(tmp_path, index, form):
    """As users make them of folders: with folders, dot files, times and owners, in each of its formats."""
    names = {"n01/n01_1": 0, "n01/n01_2": 1, "n02/n02_3": 2}
    names |= {} if form in ("v7", "ustar") else {f"{'k' * 120}/{'ö' * 40}": 0}
    for i, (key, label) in enumerate(names.items()):
        for name, content in sample(key, label, i):
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.with_name(f"._{path.name}").write_bytes(b"Mac OS")
    command = ["tar", f"--format={form}", "--sort=name", "-cf", tmp_path / "out.tar", "-C", tmp_path / "tree", "."]
    assert subprocess.run(command, check=False).returncode == 0
    assert index(tmp_path / "out.tar").lines[-1].endswith("; skipped 0")
    found = read_all(tmp_path)
    assert {key: labels["given"] for key, (_, labels) in found.items()} == {
        f"./{key}": str(label) for key, label in names.items()
    }
    assert {key: data for key, (data, _) in found.items()} == {
        f"./{key}": coloured_png(label, i) for i, (key, label) in enumerate(names.items())
    }
    assert index.verified(tmp_path) == []


def test_pax_headers_with_much_in_them(tmp_path, index):
    """Owners, times and attributes make the headers before a payload longer than our own ever are."""
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for i, length in enumerate((3, 400, 3000, 60_000, 70_000)):
            for name, content in sample("ü" * 70 + str(i), i % 3, i):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                member.pax_headers = {"SCHILY.xattr.user.note": "n" * length, "mtime": "1700000000.25"}
                archive.addfile(member, io.BytesIO(content))
    assert index(tmp_path).code == 0
    assert [data for data, _ in read_all(tmp_path).values()] == [coloured_png(i % 3, i) for i in range(4)]
    assert [reason[:24] for reason in skipped_of(tmp_path).values()] == ["its .png has headers of "]


def test_shards_swapped_after_indexing_are_noticed(tmp_path, index):
    for number in range(2):
        tar(tmp_path / f"x-{number}.tar", sample(f"{'é' * 60}{number}", 1, 5), tarfile.GNU_FORMAT)
    assert index(tmp_path).code == 0
    (tmp_path / "x-0.tar").write_bytes((tmp_path / "x-1.tar").read_bytes())
    with pytest.raises(Exception, match="at its place: the shards are not those of this manifest"):
        read_all(tmp_path)
    assert "sha256" in index.verified(tmp_path)[0]


def test_order_of_shards_and_samples_is_that_of_numbers(tmp_path, index):
    for number in (10, 9, 100):
        tar(tmp_path / f"x-{number}.tar", [*sample(f"z{number}", 0, 1), *sample(f"a{number}", 1, 2)])
    index(tmp_path)
    manifest = load_manifest(tmp_path)
    assert [shard.name for shard in manifest.shards] == ["x-9.tar", "x-10.tar", "x-100.tar"]
    assert list(read_all(tmp_path)) == ["z9", "a9", "z10", "a10", "z100", "a100"]


@pytest.mark.slow
def test_workers_do_not_matter(tmp_path, index):
    tars(tmp_path, counts=(5, 1, 8, 3, 2), kind="json")
    options = ("--column", "clean=json:about.clean", "--out")
    for workers in (1, 3):
        assert index(tmp_path, *options, tmp_path / f"by{workers}", "--workers", workers).code == 0
    for name in ("manifest.json", "index.npz", "skipped.csv"):
        assert (tmp_path / "by1" / name).read_bytes() == (tmp_path / "by3" / name).read_bytes()


def test_samples_that_cannot_be_used_are_listed(tmp_path, index):
    files = [
        *sample("good", 1, 1),
        ("noimage.cls", b"1"),
        *sample("nolabel", 1, 1, "none"),
        *[("empty.png", b""), ("empty.cls", b"1")],
        *[("html.jpg", b"<html>404</html>"), ("html.cls", b"1")],
        *[*sample("blank", 1, 1, "none"), ("blank.cls", b" \n")],
        *[*sample("minus", 1, 1, "none"), ("minus.cls", b"-1")],
        *[*sample("binary", 1, 1, "none"), ("binary.cls", b"\xff\xfe\x00")],
        *[*sample("tab", 1, 1, "none"), ("tab.cls", b"a\tb")],
        *[*sample("long", 1, 1, "none"), ("long.cls", b"9" * 300)],
        *sample("k" * 1001, 1, 1),
        *sample("last", 0, 1),
    ]
    tar(tmp_path / "x-0.tar", files, tarfile.GNU_FORMAT)
    with tarfile.open(tmp_path / "x-0.tar", "a", format=tarfile.GNU_FORMAT) as archive:
        link = tarfile.TarInfo("linked.png")
        link.type, link.linkname = tarfile.LNKTYPE, "good.png"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("bytes\udcff.png"))
    tar(tmp_path / "x-1.tar", [("a.cls", b"1"), ("README", b"about"), (".DS_Store", b""), ("__about__/a.png", b"")])
    told = index(tmp_path)
    assert list(labels_of(tmp_path)) == ["good", "last"]
    assert "warning: x-1.tar: no sample in it can be used: left out" in told.lines
    assert skipped_of(tmp_path) == {
        "noimage": "has no image (.jpg, .jpeg, .png, .webp)",
        "nolabel": "has no .cls",
        "empty": "its .png is empty",
        "html": "its .jpg is neither JPEG, PNG nor WebP",
        "blank": "its .cls holds no label",
        "minus": "its label is -1",
        "binary": "its .cls is no text in UTF-8",
        "tab": "the label in its .cls holds the control character U+0009",
        "long": "its .cls holds more than 256 characters, which name no class",
        "k" * 1001: "its key has more than 1,000 bytes",
        "linked": "its .png is a link or no plain file",
        "bytes\\udcff": "its name holds bytes that are not UTF-8",
        "a": "has no image (.jpg, .jpeg, .png, .webp)",
    }
    assert index.verified(tmp_path) == []
    assert any("has no image" in line for line in index(tmp_path, verb="info").lines)


def test_images_of_any_kind(tmp_path, index):
    """The first of jpg, jpeg, png and webp, or the one that is named; CMYK and WebP train as they are."""
    webp = encoded(picture(3), "WEBP", quality=90)
    files = [
        *[("0.webp", webp), ("0.cls", b"0")],
        *[("1.jpeg", jpeg(1, mode="CMYK")), ("1.seg.png", coloured_png(0, 9)), ("1.cls", b"1")],
        *[("2.png", coloured_png(1, 8)), ("2.JPG", jpeg(2)), ("2.cls", b"2")],
    ]
    tar(tmp_path / "x.tar", files)
    assert index(tmp_path, "--verify").code == 0
    assert [data for data, _ in read_all(tmp_path).values()] == [webp, files[2][1], files[6][1]]
    assert index.verified(tmp_path) == []
    stream = open_dataset(tmp_path, CenterCrop(32))
    assert stream[0, np.arange(3)].image.float().std(dim=(1, 2, 3)).min() > 1
    assert index(tmp_path, "--out", tmp_path / "sheet.png", verb="show").code == 0
    assert index(tmp_path, "--image", ".SEG.PNG").lines[-1].endswith(f"skipped 2, see {tmp_path}/skipped.csv")
    assert [data for data, _ in read_all(tmp_path).values()] == [coloured_png(0, 9)]


def test_verify_decodes_and_plain_indexing_does_not(tmp_path, index):
    cut = jpeg(5, (200, 160))
    files = [*sample("good", 1, 1), ("cut.jpg", cut[: len(cut) // 2]), ("cut.cls", b"0")]
    tar(tmp_path / "x.tar", files)
    index(tmp_path)
    assert load_manifest(tmp_path).count == 2
    (problem,) = index.verified(tmp_path)
    assert problem.startswith("  x.tar, sample 'cut': cannot be decoded: ")
    index(tmp_path, "--verify")
    assert load_manifest(tmp_path).count == 1
    assert skipped_of(tmp_path)["cut"].startswith("its .jpg cannot be decoded: ")
    assert index.verified(tmp_path) == []


def test_verify_and_show_find_the_shards_elsewhere(tmp_path, index, monkeypatch):
    tars(tmp_path / "tars")
    monkeypatch.chdir(tmp_path)
    assert index("tars", "--out", "here", "--dataset", "mine", "--split", "val").code == 0
    manifest = load_manifest(tmp_path / "here")
    assert (manifest.location, manifest.dataset, manifest.split) == (str(tmp_path / "tars"), "mine", "val")
    assert sorted(path.name for path in (tmp_path / "tars").iterdir()) == ["x-0.tar", "x-1.tar", "x-2.tar"]
    assert index.verified(tmp_path / "here") == []
    assert f"  shards in     {tmp_path / 'tars'}" in index("here", verb="info").lines
    assert index("here", "--out", "sheet.png", verb="show").lines == ["wrote sheet.png: 20 of 20 samples of mine val"]
    tar(tmp_path / "tars" / "x-1.tar", sample("0007", 2, 3))
    problems = "".join(index.verified(tmp_path / "here"))
    assert "x-1.tar: " in problems and "bytes instead of" in problems and "sample '0008': missing" in problems


def test_verify_compares_labels(tmp_path, index):
    index(tars(tmp_path))
    found = load_manifest(tmp_path).load_index()
    labels = found.labels["given"].copy()
    labels[8] = (labels[8] + 1) % 3
    replace_index(tmp_path, dataclasses.replace(found, labels={"given": labels}))
    assert index.verified(tmp_path) == ["  x-1.tar, sample '0008': label 'given' is 0 in the index, and 2 by cls (2)"]


@pytest.mark.slow
def test_a_network_trains_on_it(tmp_path, index):
    tars(tmp_path / "tars" / "train", counts=(9, 5))
    tars(tmp_path / "tars" / "val", counts=(4, 3))
    for split in ("train", "val"):
        assert index(tmp_path / "tars" / split, "--out", tmp_path / "set" / split).code == 0
    manifest = fit_and_validate(tmp_path / "set", "train", "val", tmp_path / "run")
    assert (manifest.dataset, manifest.split, manifest.count) == ("tars", "val", 7)


@pytest.mark.skipif("EN_BENCH_DATA" not in os.environ, reason="EN_BENCH_DATA names no folder with real images")
def test_real_images(tmp_path, index):
    """A tar of 250 photographs as they were published, one of each class, named <wnid>_<name>.JPEG."""
    source = Path(os.environ["EN_BENCH_DATA"]) / "imagenet_sample_250.tar"
    told = index(source, "--out", tmp_path)
    assert "warning: 250 classes in 250 samples: see whether --labels is right" in told.lines
    with tarfile.open(source) as archive:
        expected = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
    found = read_all(tmp_path)
    assert {f"{key}.JPEG": data for key, (data, _) in found.items()} == expected
    assert all(labels["given"] == Path(key).name.partition("_")[0] for key, (_, labels) in found.items())
