import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from en_bench.data.images import ImageEncoder, UnreadableImage
from en_bench.errors import InputError

ORIENTATION = 0x0112


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    """Smooth, unsymmetric: red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decoded(payload: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(payload))
    image.load()
    return image


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A 16-bit PNG written by hand: grey from (H, W), RGB from (H, W, 3)."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png")])
def test_plain_files_keep_their_bytes(mode, kind, extension):
    raw = encoded(picture(mode), kind)
    for encoder in (ImageEncoder(), ImageEncoder(short_side=24), ImageEncoder(short_side=100)):
        result = encoder(raw)
        assert (result.payload, result.extension) == (raw, extension)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (picture("CMYK"), "JPEG"),
        (picture("P"), "PNG"),
        (picture("RGBA"), "PNG"),
        (picture("1"), "PNG"),
        (picture("RGB"), "WEBP"),
        (picture("RGB"), "BMP"),
        (picture("P"), "GIF"),
    ],
)
@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_other_files_become_plain(image, kind, encoding):
    result = ImageEncoder(encoding=encoding)(encoded(image, kind))
    plain = decoded(result.payload)
    assert (plain.format, plain.mode, plain.size) == (encoding.upper(), "RGB", image.size)
    assert result.extension == {"jpeg": "jpg", "png": "png"}[encoding]
    difference = np.abs(np.asarray(plain, float) - np.asarray(image.convert("RGB"), float)).mean()
    assert difference < 12


def test_an_exif_rotation_is_applied_once():
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by 90 degrees clockwise
    plain = decoded(ImageEncoder()(encoded(picture(), "JPEG", exif=exif, quality=95)).payload)
    expected = picture().transpose(Image.Transpose.ROTATE_270)
    assert plain.size == (24, 40)
    assert plain.getexif().get(ORIENTATION) is None
    assert np.abs(np.asarray(plain, float) - np.asarray(expected, float)).mean() < 5


def test_an_upright_exif_orientation_keeps_the_bytes():
    exif = Image.Exif()
    exif[ORIENTATION] = 1
    raw = encoded(picture(), "JPEG", exif=exif)
    assert ImageEncoder()(raw).payload == raw


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((64, 64), 32, (32, 32)), ((40, 24), 12, (20, 12)), ((24, 41), 12, (12, 20)), ((1000, 3), 2, (667, 2))],
)
def test_larger_images_are_reduced_to_the_short_side(size, short_side, expected):
    assert decoded(ImageEncoder(short_side=short_side)(encoded(picture(size=size), "JPEG")).payload).size == expected


def test_smaller_images_are_not_enlarged():
    assert decoded(ImageEncoder(short_side=32)(encoded(picture(size=(40, 24)), "BMP")).payload).size == (40, 24)


def test_grey_stays_grey_when_reduced():
    assert decoded(ImageEncoder(short_side=8)(encoded(picture("L"), "PNG")).payload).mode == "L"


@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 3)])
def test_sixteen_bits_become_eight_and_not_white(shape):
    values = np.linspace(0, 65535, np.prod(shape)).reshape(shape).astype(np.uint16)
    payload = ImageEncoder(encoding="png")(png_of_16_bits(values)).payload
    assert payload[24] == 8, "the bit depth in the PNG's header"
    plain = np.asarray(decoded(payload))
    assert plain.dtype == np.uint8
    assert np.abs(plain.astype(int) - (values >> 8)).max() <= 1


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (encoded(picture(), "JPEG")[:-20], "truncated"),
        (encoded(picture(), "PNG")[:60], "."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_the_reason(raw, reason):
    with pytest.raises(UnreadableImage, match=reason):
        ImageEncoder()(raw)


@pytest.mark.parametrize("limit", [400, 900])  # beyond twice Pillow's limit, and between once and twice
def test_decompression_bombs_are_refused(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableImage, match=f"more than {limit} pixels"):
        ImageEncoder()(encoded(picture(), "PNG"))


@pytest.mark.filterwarnings("ignore:Tag data larger")  # the unprotected reading below says it too
def test_metadata_that_readers_warn_of_is_dropped_in_silence():
    raw = encoded(picture(), "JPEG")
    # An EXIF block whose directory announces an entry that lies past its end.
    body = b"Exif\0\0MM\0*\0\0\0\x08\0\x05" + struct.pack(">HHII", 0x010F, 2, 400, 9000)
    raw = raw[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + raw[2:]
    with pytest.warns(UserWarning, match="EXIF"):
        decoded(raw).getexif()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        payload = ImageEncoder()(raw).payload
        assert payload != raw
        decoded(payload).getexif()


@pytest.mark.parametrize("options", [{"short_side": 0}, {"quality": 0}, {"quality": 96}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        ImageEncoder(**options)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone_as_pillow_does(orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    found = ImageEncoder(encoding="png")(buffer.getvalue())
    assert found.raw_size == found.size == expected.size
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found.payload))), np.asarray(expected))


def test_metadata_of_a_wrong_type_do_not_stop_a_turn():
    turn = struct.pack(">HHIHH", ORIENTATION, 3, 1, 6, 0)
    resolution = struct.pack(">HHI4s", 0x011A, 2, 4, b"72\0\0")  # as text, though it is a number
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + turn + resolution + bytes(4)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((24, 40, 3), dtype=np.uint8)).save(buffer, "JPEG", exif=exif)
    with pytest.raises(TypeError):  # what this test is about
        ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    assert ImageEncoder()(buffer.getvalue()).size == (24, 40)
