"""Pixels of image files: those of a full decoding by Pillow, however little of a file is decoded."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from en_bench.data.decoding import ImageFile, decode
from en_bench.data.images import UnreadableImage
from tests.data.test_images import png_of_16_bits
from tests.data.test_views import picture


def encoded(image: Image.Image, encoding: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, encoding, **options)
    return out.getvalue()


def jpeg(height: int, width: int, mode: str = "RGB", **options: object) -> bytes:
    return encoded(Image.fromarray(picture(height, width)).convert(mode), **options)


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


SHAPES = [(97, 60), (64, 64), (33, 130)]
KINDS = [
    {"subsampling": 0},
    {"subsampling": 1},
    {"subsampling": 2},
    {"mode": "L"},
    {"subsampling": 2, "restart_marker_rows": 1},
    {"subsampling": 2, "restart_marker_blocks": 3, "quality": 30},
    {"subsampling": 2, "optimize": True, "quality": 97},
    {"subsampling": 2, "comment": b"\xff\xc0\x00\x11\x08 no frame header"},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_first_rows_are_those_of_a_full_decoding(shape, options):
    data = jpeg(*shape, **options)
    image = ImageFile(data)
    expected = by_pillow(data)
    assert (image.height, image.width) == shape
    assert np.array_equal(image.pixels(), expected)
    for rows in range(1, shape[0] + 1):
        top = image.pixels(rows)
        assert np.array_equal(top[:rows], expected[:rows]) and top.flags.writeable
        assert len(top) < rows + 33, "more was decoded than is needed"


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_progressive_jpeg_is_decoded_whole(mode):
    data = jpeg(97, 60, mode, progressive=True, subsampling=2 if mode == "RGB" else -1)
    assert np.array_equal(ImageFile(data).pixels(10), by_pillow(data))


def test_real_jpegs_are_decoded_as_pillow_does():
    place = os.environ.get("EN_BENCH_DATA")
    if place is None:
        pytest.skip("EN_BENCH_DATA does not say where the real images are")
    with tarfile.open(Path(place) / "imagenet_sample_250.tar") as archive:
        members = [member for member in archive if member.name.endswith((".JPEG", ".jpg", ".jpeg"))][::9]
        for member in members:
            file = archive.extractfile(member)
            assert file is not None
            data = file.read()
            expected = by_pillow(data)
            assert np.array_equal(decode(data), expected), member.name
            for rows in (len(expected) // 3, len(expected) // 2, len(expected) - 40):
                top = ImageFile(data).pixels(rows)
                assert np.array_equal(top[:rows], expected[:rows]), member.name
                assert len(top) < len(expected), "all was decoded"


def scan(data: bytes) -> int:
    """Where the coded data of a JPEG begin."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def test_damage_above_what_is_wanted_is_not_overlooked():
    """Data that libjpeg warns of are given to Pillow, which overlooks what it can, as when all is asked for."""
    data = bytearray(jpeg(320, 64, subsampling=2))
    at = scan(data) + (len(data) - scan(data)) // 8
    data[at : at + 2] = b"\xff\xd3"  # a restart marker where none belongs
    whole = decode(bytes(data))
    assert np.array_equal(whole, by_pillow(bytes(data)))
    assert not np.array_equal(whole, by_pillow(jpeg(320, 64, subsampling=2)))
    top = ImageFile(bytes(data)).pixels(100)
    assert len(top) == 320 and np.array_equal(top, whole)


def test_damage_below_what_is_wanted_is_not_looked_at():
    good = jpeg(320, 64, subsampling=2)
    data = good[: len(good) - 60] + b"\xff\xd3" + good[len(good) - 58 :]
    assert np.array_equal(ImageFile(data).pixels(100)[:100], by_pillow(good)[:100])


@pytest.mark.parametrize("rows", [None, 100])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_jpeg_that_is_cut_off_cannot_be_decoded(share, rows):
    data = jpeg(320, 64, subsampling=2)
    cut = data[: scan(data) + int((len(data) - scan(data)) * share)]
    with pytest.raises(UnreadableImage, match="truncated"):
        ImageFile(cut).pixels(rows)


def plain(image: Image.Image, encoding: str, **options: object) -> tuple[bytes, np.ndarray]:
    return encoded(image, encoding, **options), np.asarray(image.convert("RGB"))


COLOURS = Image.fromarray(picture(30, 21))
CASES = {
    "png": plain(COLOURS, "PNG"),
    "grey png": plain(COLOURS.convert("L"), "PNG"),
    "black and white png": plain(COLOURS.convert("1"), "PNG"),
    "palette png": plain(COLOURS.convert("P"), "PNG"),
    "transparent png": plain(Image.merge("RGBA", (*COLOURS.split(), COLOURS.split()[0])), "PNG"),
    "webp": plain(COLOURS, "WEBP", lossless=True),
}


@pytest.mark.parametrize("case", CASES)
def test_other_files_are_decoded_as_they_were_drawn(case):
    data, expected = CASES[case]
    image = ImageFile(data)
    assert (image.height, image.width) == (30, 21)
    assert np.array_equal(image.pixels(), expected) and np.array_equal(image.pixels(5), expected)
    assert image.pixels().flags.writeable


def test_sixteen_bits_keep_their_upper_eight():
    values = (np.arange(30 * 20) * 109 % 65536).reshape(30, 20)
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(decode(png_of_16_bits(values)), expected)


def test_a_cmyk_jpeg_is_left_to_pillow():
    data = encoded(COLOURS.convert("CMYK"), "JPEG", quality=95)
    assert np.array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP"])
def test_images_are_turned_upright(encoding, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(COLOURS, encoding, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    image = ImageFile(data)
    assert (image.height, image.width) == expected.shape[:2] == ((30, 21) if orientation < 5 else (21, 30))
    assert np.array_equal(image.pixels(), expected) and np.array_equal(image.pixels(9)[:9], expected[:9])


def test_an_orientation_in_xmp_counts_as_it_does_for_pillow():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(COLOURS, "JPEG", xmp=xmp)
    assert np.array_equal(decode(data), np.rot90(by_pillow(data), -1))


def test_metadata_that_make_no_sense_do_no_harm():
    data = encoded(COLOURS, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x12\x01")
    assert np.array_equal(decode(data), by_pillow(encoded(COLOURS, "JPEG")))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"x", "not a JPEG, PNG or WebP"),
        (b"\xff\xd8", "not a JPEG, PNG or WebP|truncated"),
        (b"\x89PNG broken", "not a JPEG, PNG or WebP"),
        (encoded(COLOURS, "GIF"), "not a JPEG, PNG or WebP"),
        (encoded(COLOURS, "BMP"), "not a JPEG, PNG or WebP"),
        (encoded(COLOURS, "PNG")[:-300], "."),
        (encoded(COLOURS, "WEBP")[:-100], "."),
    ],
)
def test_what_cannot_be_decoded_has_its_reason(data, reason):
    with pytest.raises(UnreadableImage, match=reason) as error:
        decode(data)
    assert "\n" not in str(error.value) and "0x" not in str(error.value)


def test_a_size_that_is_claimed_takes_no_memory():
    data = bytearray(jpeg(64, 64))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xf0\xff\xf0"
    with pytest.raises(UnreadableImage, match=r"more than \d+ pixels"):
        ImageFile(bytes(data))


@pytest.mark.parametrize("options", [{"subsampling": 2}, {"progressive": True}, {"encoding": "PNG"}], ids=str)
def test_damaged_files_are_decoded_or_have_a_reason(options):
    """Whatever the bytes: an image of the size that was announced, or one reason in one line."""
    data = encoded(Image.fromarray(picture(80, 72)), **options)
    random = np.random.default_rng(0)
    reasons = []
    for attempt in range(150):
        damaged = bytearray(data[: random.integers(1, len(data))] if attempt % 3 == 0 else data)
        for at in random.integers(0, len(damaged) if attempt % 2 else min(700, len(damaged)), random.integers(1, 6)):
            damaged[at] = random.integers(0, 256)
        try:
            image = ImageFile(bytes(damaged))
            rows = min(20, image.height)
            top, whole = image.pixels(rows), image.pixels()
            assert whole.shape == (image.height, image.width, 3) and whole.dtype == np.uint8
            assert len(top) >= rows and top.shape[1:] == whole.shape[1:]
        except UnreadableImage as error:
            reasons.append(str(error))
    assert len(reasons) > 5 and all(reason and "\n" not in reason for reason in reasons)
