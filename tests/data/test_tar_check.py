"""`en-bench data verify` on samples that are not what the index says, in shards whose hashes are right."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from en_bench.data.manifest import load_manifest
from tests.data.damage import Files, make, make_masked, members, remake, replace_index, replaced, shard_of, verified
from tests.images import make_split
from tests.scripts.raw import encoded, jpeg, mask_png, picture, png, turned_jpeg


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return make(tmp_path / "train")


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    return make_masked(tmp_path / "val")


def test_an_edited_label_is_told_with_what_is_where(split):
    remake(split, replaced("s/0.cls", b"2"))
    name = shard_of(split, "s/0")
    assert verified(split) == (
        1,
        [
            f"  {name}, sample 's/0': .cls says '2', the index 0",
            f"{split}: verified 9 samples in 3 shards: 1 problem",
        ],
    )


def test_an_edited_index_is_told_by_the_files_beside_the_image(split):
    index = load_manifest(split).load_index()
    index.labels["given"][index.keys.tolist().index(b"s/2")] = 0  # was 2, the clean one
    replace_index(split, index)
    name = shard_of(split, "s/2")
    assert verified(split)[1] == [
        f"  index: {3 / 9} of the labels 'given' are wrong, manifest.json says {2 / 9}",
        f"  {name}, sample 's/2': .cls says '2', the index 0",
        f"  {name}, sample 's/2': .json says {{'clean': 2, 'given': 2}}, the index {{'given': 0, 'clean': 2}}",
        f"{split}: verified 9 samples in 3 shards: 3 problems",
    ]


def sixteen_bits() -> bytes:
    """A 16-bit RGB PNG, which Pillow can read but not write: header and data made by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x12\x34" * 3 * 4) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("files", "problems"),
    [
        ([("s/3.png", b"")], [".png cannot be decoded: cannot identify"]),
        ([("s/3.png", jpeg(1))], [".png cannot be decoded: cannot identify"]),
        ([("s/3.jpg", png(1))], [".jpg cannot be decoded: cannot identify"]),
        ([("s/3.jpg", jpeg(1, (200, 160))[:3000])], [".jpg cannot be decoded: image file is truncated"]),
        ([("s/3.jpg", turned_jpeg(1))], [".jpg is not upright (EXIF orientation 6)"]),
        ([("s/3.jpg", jpeg(1, mode="CMYK"))], [".jpg is CMYK, not RGB or L"]),
        ([("s/3.png", encoded(picture(1, mode="P"), "PNG"))], [".png is P, not RGB or L"]),
        ([("s/3.png", sixteen_bits())], [".png has 16 bits per value, not 8"]),
        ([("s/3.png", png(1)), ("s/3.jpg", jpeg(1))], [".jpg lies at byte", "has 2 images"]),
        ([("s/3.txt", b"x")], ["'s/3.txt' is no file of a sample", "has no image"]),
        ([("s/3.png", png(1)), ("s/3.png", png(1))], [".png lies there twice"]),
        ([("s/3.png", png(1)), ("s/3.cls", b"0")], [".cls lies there twice"]),
        ([], ["has no image"]),
    ],
)
def test_images_that_training_would_stumble_over_are_told(split, files, problems):
    remake(split, lambda name, payload: files if name == "s/3.png" else [(name, payload)])
    code, lines = verified(split)
    assert code == 1
    found = [line.removeprefix(f"  {shard_of(split, 's/3')}, sample 's/3': ") for line in lines[:-1]]
    assert len(found) == len(problems), found
    assert all(line.startswith(problem) for line, problem in zip(found, problems, strict=True)), found


@pytest.mark.parametrize(
    ("name", "payload", "problem"),
    [
        ("s/3.cls", b"", ".cls says '', the index 0"),
        ("s/3.cls", b"\xff", ".cls says '�', the index 0"),
        ("s/3.json", b"{", ".json is not JSON: Expecting property name"),
        ("s/3.json", b"[" * 100_000, ".json is not JSON: maximum recursion depth"),
        ("s/3.json", b"[]", ".json names no source"),
        ("s/3.json", b'{"source": "x"}', ".json says None, the index {'given': 0, 'clean': 0}"),
    ],
)
def test_labels_beside_the_image_must_be_those_of_the_index(split, name, payload, problem):
    remake(split, replaced(name, payload))
    lines = verified(split)[1]
    assert lines[0].startswith(f"  {shard_of(split, 's/3')}, sample 's/3': {problem}")
    assert len(lines) == 2


def test_samples_that_are_missing_strange_or_twice_are_told(split):
    def edit(name: str, payload: bytes) -> Files:
        if name.startswith("s/5."):
            return []
        if name == "s/6.json":
            return [(name, payload), ("x/1.png", png(1)), ("s/6.cls", b"0")]
        return [(name, payload)]

    remake(split, edit)
    lines = verified(split)[1]
    six, five = shard_of(split, "s/6"), shard_of(split, "s/5")
    assert sorted(lines[:-1]) == sorted(
        [
            f"  {six}: 'x/1' is not in the index",
            f"  {six}: 's/6' lies there in two places",
            f"  {five}, sample 's/5': missing",
        ]
    )


def test_an_index_that_points_elsewhere_is_told(split):
    index = load_manifest(split).load_index()
    right = int(index.offset[0, 0]), int(index.size[0, 0])
    index.offset[0, 0] += 512
    replace_index(split, index)
    assert verified(split)[1][0].endswith(
        f"sample {index.key(0)!r}: .png lies at byte {right[0]:,} with {right[1]:,}, "
        f"the index says {right[0] + 512:,} with {right[1]:,}"
    )


def test_masks_are_checked_against_image_and_classes(masked):
    assert verified(masked) == (0, [f"{masked}: verified 2 samples in 1 shard: no problem"])
    name = load_manifest(masked).shards[0].name
    whole = np.zeros((16, 24))
    for payload, problem in [
        (mask_png(whole + 2), ".mask.png holds 2, which is neither a class nor the ignore index"),
        (mask_png(whole[:, :20]), ".mask.png is of (20, 16) pixels, the image of (24, 16)"),
        (mask_png(whole, palette=True), ".mask.png is P, not L"),
        (b"", ".mask.png cannot be decoded: cannot identify image file"),
    ]:
        remake(masked, replaced("m/1.mask.png", payload))
        code, lines = verified(masked)
        assert code == 1
        assert lines[0].startswith(f"  {name}, sample 'm/1': {problem}")
        assert len(lines) == 2
    remake(masked, lambda name, payload: [] if name == "m/1.mask.png" else [(name, payload)])
    assert verified(masked)[1][0] == f"  {name}, sample 'm/1': has no .mask.png"


def test_a_link_or_a_size_beyond_the_tar_is_told_and_not_followed(split):
    name = load_manifest(split).shards[0].name
    found = members(split / name)
    with tarfile.open(split / name, "w") as tar:
        for position, (member, payload) in enumerate(found):
            info = tarfile.TarInfo(member)
            if position == 0:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len(payload) if position else 0
            tar.addfile(info, io.BytesIO(payload))
        last = tarfile.TarInfo("s/9.png")
        last.size = 2**40
        tar.fileobj.write(last.tobuf())
    key = found[0][0].partition(".")[0]
    text = "\n".join(verified(split)[1])
    assert f"sample {key!r}: .png is not a plain file" in text
    assert "'s/9' is not in the index" in text


def test_a_damaged_header_hides_what_follows_and_is_told_once(tmp_path):
    folder = make_split(tmp_path / "train", 60, shards=2)
    shard, index = load_manifest(folder).shards[1], load_manifest(folder).load_index()
    at = int(index.offset[33, 0]) - 512  # the header of the fourth sample's image in the second shard
    content = bytearray((folder / shard.name).read_bytes())
    content[at] ^= 1
    (folder / shard.name).write_bytes(content)
    assert verified(folder)[1][1:] == [
        f"  {shard.name}: not a whole tar: no header that can be read at byte {at:,}",
        f"  {shard.name}: 27 of its 30 samples are missing, the first is {index.key(33)!r}",
        f"{folder}: verified 33 samples in 2 shards: 3 problems",
    ]


def test_a_tar_without_its_end_is_told(split):
    name, index = load_manifest(split).shards[0].name, load_manifest(split).load_index()
    content = (split / name).read_bytes().rstrip(b"\0")
    (split / name).write_bytes(content + bytes(-len(content) % 512))
    lines = verified(split)[1]
    assert lines[1] == f"  {name}: not a whole tar: it has no end mark"
    assert (len(lines), len(index)) == (3, 9)


def test_twenty_problems_are_told_and_the_others_counted(tmp_path):
    folder = make_split(tmp_path / "train", 60, shards=2)
    remake(folder, lambda name, payload: [(name, b"7" if name.endswith(".cls") else payload)])
    code, lines = verified(folder)
    assert code == 1
    assert len(lines) == 22
    assert all(".cls says '7'" in line for line in lines[:20])
    assert lines[20:] == ["  … and 40 more", f"{folder}: verified 60 samples in 2 shards: 60 problems"]
