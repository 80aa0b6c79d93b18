"""Pixels out of image files: exactly those of a full decoding, at the price of what is needed of them."""

from __future__ import annotations

import io
import re
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from en_bench.data.images import TURNS, UnreadableImage, to_plain_mode
from en_bench.errors import message_of

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB

# Pillow opens far more, among them EPS, which would start Ghostscript on a stranger's file.
_FORMATS = ("JPEG", "PNG", "WEBP")
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frame headers with Huffman coding
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1 = 0xE1
_ORIENTATION = (b"\x01\x12", b"\x12\x01", b"tiff:Orientation")  # its tag in EXIF, in both byte orders, and in XMP
_METADATA = (b"Exif", b"eXIf", b"EXIF", b"exif", b"tiff:Orientation")  # what announces an orientation in any format
_BLOCK = 8  # pixels on each side of what JPEG transforms at a time
# What libjpeg says first, and only then, when everything that was asked for could be decoded and data are left over.
_LEFT_OVER = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd[0-79]")


class _Frame(NamedTuple):
    """The frame header of a plain JPEG."""

    position: int  # of its height in the file
    height: int
    width: int
    rows: int  # of pixels that are coded together
    sequential: bool


class ImageFile:
    """An image file (JPEG, PNG or WebP) whose size is known, and whose pixels are decoded when they are asked for.

    Pixels are those of libjpeg-turbo's full decoding (its accurate DCT and smooth upsampling) for a plain JPEG, and
    what Pillow makes of anything else: RGB, alpha dropped, 16 bits cut to 8, turned upright by the EXIF orientation, as
    when shards are written.

    Attributes:
        height, width: in pixels.

    Raises UnreadableImage, with the reason, for a file that cannot be decoded; `pixels` likewise.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._frame = _plain_frame(data)
        self._whole = None if self._frame else _by_pillow(data)
        self.height, self.width = self._frame[1:3] if self._frame else self._whole.shape[:2]  # type: ignore[union-attr]

    def pixels(self, rows: int | None = None) -> Pixels:
        """The pixels, writable, of at least the first `rows` rows: (R, W, 3).

        A sequential JPEG is not decoded beyond them, so that damage further down shows only when all is asked for.
        """
        frame = self._frame
        if frame is None:
            assert self._whole is not None
            return self._whole
        if rows is not None and frame.sequential:
            # Smooth upsampling looks at the rows below: with those that are coded together after the last one that is
            # wanted, all that are wanted are what a full decoding makes of them.
            enough = (rows // frame.rows + 2) * frame.rows
            if enough < frame.height:
                top = _top(self._data, frame, enough)
                if top is not None:
                    return top
        whole = np.empty((frame.height, frame.width, 3), np.uint8)
        try:
            simplejpeg.decode_jpeg(self._data, buffer=whole)
        except ValueError:
            whole = _by_pillow(self._data)
            if whole.shape != (frame.height, frame.width, 3):
                raise UnreadableImage("its size is not what its header says") from None
        return whole


def decode(data: bytes) -> Pixels:
    """All pixels of an image file, (H, W, 3). Raises UnreadableImage with the reason."""
    return ImageFile(data).pixels()


def _top(data: bytes, frame: _Frame, rows: int) -> Pixels | None:
    """The first rows of a sequential JPEG, None where libjpeg warns of them.

    Told that the image ends there, libjpeg stops, and complains of what is left over.
    """
    shortened = bytearray(data)
    shortened[frame.position : frame.position + 2] = rows.to_bytes(2, "big")
    pixels = np.empty((rows, frame.width, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(shortened, buffer=pixels)
    except ValueError as error:
        if not _LEFT_OVER.fullmatch(str(error)):
            return None
    return pixels


def _plain_frame(data: bytes) -> _Frame | None:
    """The frame header of an upright JPEG of grey or colour that libjpeg-turbo decodes to RGB, None for other files."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while data[at : at + 1] == b"\xff" and at + 9 < len(data):
        marker = data[at + 1]
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            return _parse_frame(data, at, marker)
        segment = data[at + 4 : at + 2 + length]
        if marker == _APP1 and any(tag in segment for tag in _ORIENTATION) and _is_turned(data):
            return None
        at += 2 + length
    return None


def _parse_frame(data: bytes, at: int, marker: int) -> _Frame | None:
    bits, components = data[at + 4], data[at + 9]
    height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
    known = marker in _SEQUENTIAL or marker == _PROGRESSIVE
    usable = height * width > 0 and (Image.MAX_IMAGE_PIXELS is None or height * width <= Image.MAX_IMAGE_PIXELS)
    if not (known and usable and bits == 8 and components in (1, 3)):
        return None
    sampling = data[at + 11 : at + 10 + 3 * components : 3]  # per component: horizontal, vertical in half a byte each
    return _Frame(at + 5, height, width, _BLOCK * max(s & 15 for s in sampling), marker in _SEQUENTIAL)


def _is_turned(data: bytes) -> bool:
    """Whether an image's metadata say that it does not stand upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on metadata that Pillow could not make sense of
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                return _turn(image) is not None
    except Exception:  # Pillow raises nearly any type on a damaged file, and decoding will say what is wrong with it
        return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))


def _by_pillow(data: bytes) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                turn = _turn(image) if any(mark in data for mark in _METADATA) else None
                image.load()
                plain = to_plain_mode(image if turn is None else image.transpose(turn))
                return np.array(plain if plain.mode == "RGB" else plain.convert("RGB"))
    except (MemoryError, UnreadableImage):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UnreadableImage(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except UnidentifiedImageError:  # whose message is the address of a buffer
        raise UnreadableImage("not a JPEG, PNG or WebP" if data else "empty file") from None
    except Exception as error:  # Pillow's decoders raise nearly any type on a damaged file
        raise UnreadableImage(message_of(error)) from None
