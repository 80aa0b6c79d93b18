import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from en_bench.data import archives, raw_bytes
from en_bench.data.archives import RawFiles
from en_bench.errors import InputError
from tests.scripts.raw import tar_bytes, write_tree, zip_bytes

FILES = {"a/1.jpg": b"one", "a/2.jpg": b"two", "b/1.jpg": b"three"}


@pytest.mark.parametrize("form", ["folder", "w", "w:gz", "w:xz", "w:bz2", "zip", "stored zip"])
def test_folders_and_archives_read_alike(tmp_path, form):
    files = {**FILES, ".DS_Store": b"x", "a/._1.jpg": b"x"}
    if form == "folder":
        path = write_tree(tmp_path / "raw", files)
    else:
        path = tmp_path / "raw.bin"
        stored = zipfile.ZIP_STORED if form == "stored zip" else zipfile.ZIP_DEFLATED
        path.write_bytes(zip_bytes(files, stored) if "zip" in form else tar_bytes(files, form))
    raw = RawFiles(path)
    assert raw.names == ("a/1.jpg", "a/2.jpg", "b/1.jpg")
    assert {name: raw.read(name) for name in raw.names} == FILES
    assert raw.refused == []
    with pytest.raises(KeyError):
        raw.read("a/3.jpg")


@pytest.mark.parametrize("form", ["w", "w:xz", "zip"])
def test_sources_are_small_and_read_in_another_process(tmp_path, form):
    import pickle

    path = tmp_path / "raw.bin"
    path.write_bytes(zip_bytes(FILES) if form == "zip" else tar_bytes(FILES, form))
    raw = RawFiles(path)
    pickled = pickle.dumps(raw.source("b/1.jpg"))
    assert len(pickled) < 300
    code = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1]))().decode())"
    run = subprocess.run([sys.executable, "-c", code, pickled.hex()], capture_output=True, text=True, check=True)
    assert run.stdout == "three\n"


def test_tars_in_tars_and_in_folders_are_looked_into_when_asked(tmp_path):
    inner = tar_bytes({"n1_1.JPEG": b"one", "n1_2.JPEG": b"two"})
    outer = tar_bytes({"n1.tar": inner, "n2.tar": tar_bytes({"n2_1.JPEG": b"three"}), "readme": b"r"})
    write_tree(tmp_path, {"train.tar": outer, "kit.tar.gz": tar_bytes({"data/meta": b"m"}, "w:gz"), "x/y.txt": b"y"})
    raw = RawFiles(tmp_path, nested=True)
    assert {name: raw.read(name) for name in raw.names} == {
        "kit.tar.gz/data/meta": b"m",
        "train.tar/n1.tar/n1_1.JPEG": b"one",
        "train.tar/n1.tar/n1_2.JPEG": b"two",
        "train.tar/n2.tar/n2_1.JPEG": b"three",
        "train.tar/readme": b"r",
        "x/y.txt": b"y",
    }
    assert RawFiles(tmp_path).names == ("kit.tar.gz", "train.tar", "x/y.txt")


def test_a_broken_tar_in_a_tar_is_named(tmp_path):
    (tmp_path / "train.tar").write_bytes(tar_bytes({"n1.tar": b"no tar at all", "n2.tar": tar_bytes({"x": b"x"})}))
    with pytest.raises(InputError, match=r"train\.tar: not a whole archive \(n1\.tar: .*download it again"):
        RawFiles(tmp_path, nested=True)


def hostile_tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("../up.jpg", "/etc/absolute.jpg", "a/../../up2.jpg", "line\nbreak.jpg", "good.jpg", "twice.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"evil" if name != "good.jpg" else b"good"))
        latin = tarfile.TarInfo("caf\udce9.jpg")  # the byte E9, which is not UTF-8
        latin.size = 4
        tar.addfile(latin, io.BytesIO(b"evil"))
        again = tarfile.TarInfo("twice.jpg")
        again.size = 4
        tar.addfile(again, io.BytesIO(b"last"))
        for kind, name in ((tarfile.SYMTYPE, "soft.jpg"), (tarfile.LNKTYPE, "hard.jpg"), (tarfile.CHRTYPE, "device")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    return out.getvalue()


def test_hostile_members_are_refused_by_name(tmp_path):
    (tmp_path / "raw.tar").write_bytes(hostile_tar())
    raw = RawFiles(tmp_path / "raw.tar")
    assert {name: raw.read(name) for name in raw.names} == {"good.jpg": b"good", "twice.jpg": b"last"}
    assert dict(raw.refused) == {
        "../up.jpg": "leads outside the archive",
        "/etc/absolute.jpg": "leads outside the archive",
        "a/../../up2.jpg": "leads outside the archive",
        "line\nbreak.jpg": "its name holds the control character U+000A",
        "caf\udce9.jpg": "its name holds bytes that are not UTF-8",
        "twice.jpg": "a later member of the archive has the same name",
        "soft.jpg": "is a link or no regular file",
        "hard.jpg": "is a link or no regular file",
        "device": "is a link or no regular file",
    }


def test_hostile_zips_are_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as packed:
        packed.writestr("../up.jpg", b"evil")
        packed.writestr("good.jpg", b"good")
        link = zipfile.ZipInfo("soft.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
    raw = RawFiles(tmp_path / "raw.zip")
    assert raw.names == ("good.jpg",)
    assert dict(raw.refused) == {"../up.jpg": "leads outside the archive", "soft.jpg": "is a link or no regular file"}


def test_names_on_disk_that_are_not_utf8_are_refused(tmp_path):
    write_tree(tmp_path / "raw", {"good.jpg": b"good"})
    Path(os.fsdecode(bytes(tmp_path / "raw") + b"/caf\xe9.jpg")).write_bytes(b"x")
    (tmp_path / "raw" / "line\nbreak.jpg").write_bytes(b"x")
    raw = RawFiles(tmp_path / "raw")
    assert raw.names == ("good.jpg",)
    assert sorted(name for name, _ in raw.refused) == ["caf\udce9.jpg", "line\nbreak.jpg"]


@pytest.mark.parametrize("form", ["w:gz", "w:bz2", "w:xz"])
def test_a_bomb_ends_before_it_fills_the_disk(tmp_path, monkeypatch, form):
    monkeypatch.setattr(archives, "_BOMB_START", 2**20)
    path = tmp_path / "bomb.tar"
    path.write_bytes(tar_bytes({"zeros.jpg": bytes(2**25)}, form))
    assert path.stat().st_size < 2**25 / 500
    with pytest.raises(InputError, match=r"bomb\.tar: unpacks to more than 100 times its size, which no images do"):
        RawFiles(path)


def test_members_too_large_for_images_are_refused_by_name(tmp_path, monkeypatch):
    for module in (archives, raw_bytes):
        monkeypatch.setattr(module, "MAX_FILE", 1000)
    files = {"large.jpg": bytes(1001), "small.jpg": bytes(1000)}
    (tmp_path / "raw.tar").write_bytes(tar_bytes(files))
    (tmp_path / "raw.zip").write_bytes(zip_bytes(files))
    for name in ("raw.tar", "raw.zip"):
        raw = RawFiles(tmp_path / name)
        assert raw.names == ("small.jpg",)
        assert raw.refused == [("large.jpg", "1,001 bytes: too large for an image")]
    folder = RawFiles(write_tree(tmp_path / "raw", files))
    with pytest.raises(OSError, match="larger than 1,000 bytes"):
        folder.read("large.jpg")


@pytest.mark.parametrize("form", ["w", "w:gz", "w:xz", "zip"])
def test_archives_that_are_cut_off_say_so(tmp_path, form):
    noise = {f"{i}.jpg": os.urandom(5000) for i in range(40)}
    whole = zip_bytes(noise) if form == "zip" else tar_bytes(noise, form)
    path = tmp_path / "raw.bin"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"raw\.bin: not a whole archive .*: download it again"):
        RawFiles(path)


def test_what_is_no_archive_says_so(tmp_path):
    (tmp_path / "raw.txt").write_text("hello" * 1000)
    with pytest.raises(InputError, match=r"raw\.txt: not a whole archive"):
        RawFiles(tmp_path / "raw.txt")
    with pytest.raises(InputError, match="no such folder or archive: correct --raw"):
        RawFiles(tmp_path / "absent")


def test_a_loop_of_links_in_a_folder_ends(tmp_path):
    write_tree(tmp_path / "raw", {"a/1.jpg": b"one"})
    (tmp_path / "raw" / "a" / "back").symlink_to(tmp_path / "raw", target_is_directory=True)
    assert RawFiles(tmp_path / "raw").names == ("a/1.jpg",)


def test_a_full_temporary_folder_names_the_cure(tmp_path):
    code = """
import resource, signal, sys
from en_bench.data.archives import RawFiles
from en_bench.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    RawFiles(sys.argv[1])
except InputError as error:
    print(error)
"""
    path = tmp_path / "raw.tar.gz"
    path.write_bytes(tar_bytes({f"{i}.jpg": os.urandom(5000) for i in range(40)}, "w:gz"))
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True)
    assert "cannot be read or unpacked into" in run.stdout and "set TMPDIR to a place with room" in run.stdout


@pytest.mark.slow
def test_ten_gigabytes_of_zeros_in_ten_megabytes(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    header = tarfile.TarInfo("zeros.jpg")
    header.size = 10 * 2**30
    import gzip

    with gzip.open(path, "wb", compresslevel=6) as packed:
        packed.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(10 * 2**30 // 2**24):
            packed.write(bytes(2**24))
    assert path.stat().st_size < 12 * 2**20
    with pytest.raises(InputError, match="unpacks to more than 100 times its size"):
        RawFiles(path)
