"""One image on its way into a shard: checked once, kept as it is where possible, otherwise made plain."""

from __future__ import annotations

import importlib.metadata
import io
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from en_bench.errors import InputError, message_of

# Pillow opens far more, among them EPS, which would start Ghostscript on a stranger's file.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
# libjpeg reduces by leaving out high frequencies. Resized from so many times the size, the result is within 0.01 dB
# PSNR of that from the whole image (`en-bench bench prepare`); from twice the size up to 0.6 dB are lost.
_MARGIN = 3
# EXIF orientations that are not upright. What undoes them: `ImageOps.exif_transpose` would also write the rest of the
# metadata anew, and fails on values of a wrong type in them.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_BIT_DEPTH = 24  # offset of the IHDR chunk's bit depth in a PNG file


class UnreadableImage(Exception):  # noqa: N818 - an outcome that is listed, not an error that ends the run
    """The file holds no image that can be used. The message is the reason, for skipped.csv."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Image file as it goes into a shard.

    Attributes:
        payload: the file.
        extension: of its format.
        kept: whether these are the bytes of the raw file.
        size, raw_size: width and height in pixels, of the payload and of the raw image (turned upright).
    """

    payload: bytes
    extension: Literal["jpg", "png"]
    kept: bool
    size: tuple[int, int]
    raw_size: tuple[int, int]


@dataclass(frozen=True)
class ImageEncoder:
    """Turns the bytes of an image file into those of a plain JPEG or PNG: RGB or grey, 8 bits, upright.

    A file that is so already, and needs no resizing, keeps its bytes. Anything else (CMYK, palette, 16 bits, alpha,
    EXIF rotation, another format, metadata that readers warn of, JPEG data that readers warn of) is decoded, turned
    upright by its EXIF orientation, made RGB (grey stays grey, alpha is dropped, 16 bits become 8) and encoded again.
    The format is told by content, never by name.

    JPEGs are decoded by libjpeg-turbo (simplejpeg) and resized by torch where they are plain, else by Pillow. Very
    large ones are decoded at half, a quarter or an eighth of their size, still three times too large, and resized from
    there. To check a JPEG that is kept, all its data are decoded, at an eighth of the size.

    Args:
        short_side: pixels of the shorter side. Larger images are reduced to it with their aspect ratio, smaller ones
            are never enlarged. None keeps every size.
        encoding: format of what must be encoded again.
        quality: JPEG quality of what must be encoded again, 1 to 95.
        verify: whether files that are kept are decoded too. Without it only their headers are read.
    """

    short_side: int | None = None
    encoding: Literal["jpeg", "png"] = "jpeg"
    quality: int = 90
    verify: bool = True

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise InputError(f"short side {self.short_side} px is not a size: use 1 or more")
        if not 1 <= self.quality <= 95:
            raise InputError(f"JPEG quality {self.quality} is not usable: use 1 to 95")

    def describe(self) -> dict[str, Any]:
        """The options, as the manifest records them."""
        return {
            "short_side": self.short_side,
            "encoding": self.encoding,
            "quality": self.quality,
            "filter": "bicubic",
            "verified": self.verify,
        }

    def versions(self) -> dict[str, str]:
        """Versions of what decodes and encodes; the bytes of images that are encoded again depend on them."""
        return {name: importlib.metadata.version(name) for name in ("pillow", "simplejpeg", "torch")}

    def __call__(self, raw: bytes) -> Encoded:
        """Raises UnreadableImage, with the reason, for what cannot be decoded whole."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)  # Pillow's word on metadata it could not make sense of
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
                    turned = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
                    if turned is None and not caught:
                        plain = self._plain_jpeg(raw, image)
                        if plain is not None:
                            return plain
                    image.load()
                    if turned is None and not (caught or self._too_large(image)) and _is_plain_png(raw, image):
                        return Encoded(raw, "png", True, image.size, image.size)
                    return self._encode(image if turned is None else image.transpose(turned))
            except MemoryError:
                raise
            except (Image.DecompressionBombWarning, Image.DecompressionBombError):
                raise UnreadableImage(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
            except UnidentifiedImageError:
                raise UnreadableImage("not an image" if raw else "empty file") from None
            except UnreadableImage:
                raise
            except Exception as error:  # Pillow's decoders raise nearly any type on a damaged file
                raise UnreadableImage(message_of(error)) from error

    def _too_large(self, image: Image.Image) -> bool:
        return self.short_side is not None and min(image.size) > self.short_side

    def _target_size(self, size: tuple[int, int]) -> tuple[int, int]:
        assert self.short_side is not None
        scale = self.short_side / min(size)
        width, height = (max(self.short_side, round(side * scale)) for side in size)
        return width, height

    def _plain_jpeg(self, raw: bytes, image: Image.Image) -> Encoded | None:
        """The quick way for an upright RGB or grey JPEG. None for others, and where libjpeg warns of the data."""
        if image.format != "JPEG" or image.mode not in ("RGB", "L"):
            return None
        size = image.size
        try:
            if not self._too_large(image):
                if self.verify:
                    simplejpeg.decode_jpeg(raw, "GRAY", min_height=1, min_width=1, min_factor=8)
                return Encoded(raw, "jpg", True, size, size)
            if self.encoding != "jpeg":
                return None
            colours: Literal["RGB", "GRAY"] = "RGB" if image.mode == "RGB" else "GRAY"
            width, height = self._target_size(size)
            pixels = reduced_pixels(raw, colours, height, width)
        except ValueError:
            return None
        subsampling = "420" if colours == "RGB" else "Gray"
        payload = simplejpeg.encode_jpeg(pixels, self.quality, colours, subsampling)
        return Encoded(payload, "jpg", False, (width, height), size)

    def _encode(self, image: Image.Image) -> Encoded:
        image = to_plain_mode(image)
        raw_size = image.size
        if self._too_large(image):
            image = image.resize(self._target_size(raw_size), Image.Resampling.BICUBIC)
        # A fresh copy carries pixels only: no profile, comment or EXIF block follows into the shard.
        plain = Image.frombytes(image.mode, image.size, image.tobytes())
        out = io.BytesIO()
        if self.encoding == "jpeg":
            plain.save(out, "JPEG", quality=self.quality)
            return Encoded(out.getvalue(), "jpg", False, image.size, raw_size)
        plain.save(out, "PNG")
        return Encoded(out.getvalue(), "png", False, image.size, raw_size)


def reduced_pixels(raw: bytes, colours: Literal["RGB", "GRAY"], height: int, width: int) -> NDArray[np.uint8]:
    """A plain JPEG, decoded and reduced to (height, width, C). Raises ValueError where libjpeg warns of the data."""
    margin = {"min_height": _MARGIN * height, "min_width": _MARGIN * width}
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(raw, colours, min_factor=2, **margin)
    return pixels if pixels.shape[:2] == (height, width) else _resized(pixels, height, width)


def _resized(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, C) to (height, width, C): bicubic with antialiasing, Pillow's filter in torch's vectorised form."""
    import torch  # here, since it takes a second and most files need no resizing
    from torch.nn.functional import interpolate

    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # in this order of steps torch sees channels_last
    resized = interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def _is_plain_png(raw: bytes, image: Image.Image) -> bool:
    """Whether a loaded image is a PNG whose bytes can be kept."""
    # Pillow cuts 16 bits to 8 on reading, other decoders do not: only 8 bits mean the same to all.
    return (
        image.format == "PNG"
        and image.mode in ("RGB", "L")
        and raw[PNG_BIT_DEPTH] == 8
        and not getattr(image, "is_animated", False)
    )


def to_plain_mode(image: Image.Image) -> Image.Image:
    """A loaded image as RGB or grey of 8 bits. Raises UnreadableImage for floating-point pixels."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns 16-bit images white.
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
