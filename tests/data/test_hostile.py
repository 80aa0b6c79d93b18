"""Archives and folders that are damaged, or made to do harm."""

import io
import os
import resource
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from en_bench.data.archives import RawFiles
from en_bench.data.raw_bytes import DamagedFile
from en_bench.errors import InputError
from tests.scripts.raw import tar_bytes, write_tree, zip_bytes

FILES = {f"{i}.jpg": bytes([i]) * 700 for i in range(10)}
REPO = Path(__file__).resolve().parents[2]


def raw_of(tmp_path: Path, content: bytes, nested: bool = False) -> RawFiles:
    (tmp_path / "raw.bin").write_bytes(content)
    return RawFiles(tmp_path / "raw.bin", nested)


@pytest.mark.parametrize("form", ["w", "w:xz"])
def test_a_damaged_header_is_not_taken_for_the_end(tmp_path, form):
    damaged = bytearray(tar_bytes(FILES))
    damaged[3 * 1536 + 100] ^= 1  # each file takes a header and two blocks
    content = bytes(damaged)
    if form == "w:xz":
        import lzma

        content = lzma.compress(content)
    with pytest.raises(InputError, match=r"not a whole archive \(no header that can be read at byte 4,608\)"):
        raw_of(tmp_path, content)
    with pytest.raises(InputError, match=r"not a whole archive \(n1\.tar: no header that can be read at byte 4,608\)"):
        raw_of(tmp_path, tar_bytes({"n0.tar": tar_bytes(FILES), "n1.tar": bytes(damaged)}), nested=True)


@pytest.mark.parametrize("size", [5 * 1536, 5 * 1536 + 200, 5 * 1536 + 600])
def test_a_tar_that_is_cut_anywhere_says_so(tmp_path, size):
    with pytest.raises(InputError, match="not a whole archive"):
        raw_of(tmp_path, tar_bytes(FILES)[:size])


def header(name: str, size: int) -> bytes:
    """A header whose size stands in base 256, so that it may be anything."""
    info = tarfile.TarInfo(name)
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def test_sizes_that_no_file_has_end_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"not a whole archive \('x.jpg' has -512 bytes\)"):
        raw_of(tmp_path, header("x.jpg", -512) + bytes(10240))


@pytest.mark.parametrize("size", [2**40, 2**62])
@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_names_that_would_fill_the_memory_end_in_one_line(tmp_path, kind, size):
    raw = bytearray(header("x", size))
    raw[156:157] = kind
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    (tmp_path / "raw.tar").write_bytes(bytes(raw) + bytes(10240))
    code = (
        "import sys; from en_bench.data.archives import RawFiles; from en_bench.errors import InputError\n"
        "try: RawFiles(sys.argv[1])\nexcept InputError as error: print(error)"
    )

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))

    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "raw.tar"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=small,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "raw.tar: not a whole archive (" in run.stdout and run.stdout.count("\n") == 1


def test_tars_in_tars_without_end_are_files_at_last(tmp_path):
    content = b"kernel"
    for _ in range(30):
        content = tar_bytes({"x.tar": content})
    assert raw_of(tmp_path, content, nested=True).names == ("x.tar/x.tar/x.tar/x.tar/x.tar",)


def test_a_bomb_in_a_zip_is_refused_by_name_and_one_that_lies_is_not_unpacked(tmp_path):
    raw = raw_of(tmp_path, zip_bytes({"zeros.jpg": bytes(2**25), "small.jpg": b"x" * 100}))
    assert raw.names == ("small.jpg",)
    assert raw.refused == [("zeros.jpg", "unpacks to more than 100 times its size, which no image does")]
    lying = bytearray(zip_bytes({"zeros.jpg": bytes(2**25)}))
    end = lying.rindex(b"PK\x01\x02")
    lying[end + 24 : end + 28] = struct.pack("<I", 1000)  # the size that the list of members tells
    with pytest.raises(DamagedFile, match="bad checksum"):
        raw_of(tmp_path, bytes(lying)).read("zeros.jpg")


def test_other_methods_of_zips_are_refused_by_name(tmp_path):
    raw = raw_of(tmp_path, zip_bytes({"x.jpg": b"x" * 1000}, zipfile.ZIP_BZIP2))
    assert raw.refused == [("x.jpg", "is neither stored nor deflated in the zip")]


def test_of_two_members_of_a_zip_with_one_name_the_last_usable_one_is_read(tmp_path):
    out = io.BytesIO()
    contents = [("a.jpg", b"first"), ("a.jpg", b"second"), ("b.jpg", b"small"), ("b.jpg", bytes(2**25))]
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        warnings.simplefilter("ignore", UserWarning)  # of duplicate names
        for name, content in contents:
            packed.writestr(name, content)
    raw = raw_of(tmp_path, out.getvalue())
    assert {name: raw.read(name) for name in raw.names} == {"a.jpg": b"second", "b.jpg": b"small"}
    assert [name for name, _ in raw.refused] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("damage", ["name", "version"])
def test_zips_that_python_cannot_read_end_in_one_line(tmp_path, damage):
    content = bytearray(zip_bytes({"caf\xe9.jpg": b"x"}))
    place = content.rindex(b"PK\x01\x02")
    if damage == "name":
        content[place + 46 + 3] = 0xE9  # no UTF-8, though the flag says that it is
    else:
        content[place + 6] = 99
    with pytest.raises(InputError, match=r"raw\.bin: (no archive that can be trusted|not a whole archive)"):
        raw_of(tmp_path, bytes(content))


def test_what_is_no_file_is_never_waited_for(tmp_path):
    write_tree(tmp_path / "raw", {"a/1.jpg": b"one"})
    os.mkfifo(tmp_path / "raw" / "a" / "pipe.jpg")
    (tmp_path / "raw" / "a" / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "raw" / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    raw = RawFiles(tmp_path / "raw")
    for name, reason in {"pipe": "no regular file", "zero": "no regular file", "gone": "a link to nothing"}.items():
        with pytest.raises(DamagedFile, match=reason):
            raw.read(f"a/{name}.jpg")
    (tmp_path / "raw" / "a" / "1.jpg").unlink()
    with pytest.raises(FileNotFoundError):  # and no DamagedFile: the disk may have gone
        raw.read("a/1.jpg")


def test_hidden_folders_hide_what_is_in_them(tmp_path):
    files = {"train/cat/1.jpg": b"x", "train/.ipynb_checkpoints/1.jpg": b"x", "__MACOSX/._1.jpg": b"x"}
    assert RawFiles(write_tree(tmp_path / "raw", files)).names == ("train/cat/1.jpg",)
    assert raw_of(tmp_path, tar_bytes({f"./{name}": b"x" for name in files})).names == ("train/cat/1.jpg",)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    write_tree(tmp_path / "raw", {"a/1.jpg": b"one", "b/1.jpg": b"two"})
    scandir = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match="Permission denied: make it readable"):
        RawFiles(tmp_path / "raw")


@pytest.mark.parametrize("backwards", [False, True])
def test_links_to_folders_do_not_depend_on_the_order_on_disk(tmp_path, monkeypatch, backwards):
    write_tree(tmp_path / "raw", {"b/1.jpg": b"one"})
    (tmp_path / "raw" / "a").symlink_to(tmp_path / "raw" / "b", target_is_directory=True)
    scandir = os.scandir

    class Ordered:
        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=backwards))

        def __enter__(self) -> "Ordered":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> object:
            return self.entries

        def __next__(self) -> object:
            return next(self.entries)

        def close(self) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Ordered)
    raw = RawFiles(tmp_path / "raw")
    assert raw.names == ("b/1.jpg",)
    assert raw.refused == [("a", "a link to a folder that is read already")]


def test_names_of_other_scripts_are_names(tmp_path):
    names = {"caf\u00e9\u00a0\u3000.jpg", "\u9ce5\u200b.jpg"}
    files = dict.fromkeys(names, b"x")
    assert set(RawFiles(write_tree(tmp_path / "raw", files)).names) == names
    assert set(raw_of(tmp_path, tar_bytes(files)).names) == names
    code = "import sys; from en_bench.data.archives import RawFiles; print(len(RawFiles(sys.argv[1]).names))"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "raw.bin"],
        cwd=REPO,
        env=plain,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "2\n"
