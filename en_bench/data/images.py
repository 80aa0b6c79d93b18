"""One image on its way into a shard: checked once, kept as it is where possible, otherwise made plain."""

import io
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from en_bench.errors import InputError

# Pillow opens far more, among them EPS, which would start Ghostscript on a stranger's file.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_PNG_BIT_DEPTH = 24  # offset of the IHDR chunk's bit depth in a PNG file


class UnreadableImage(Exception):  # noqa: N818 - an outcome that is listed, not an error that ends the run
    """The file holds no image that can be used. The message is the reason, for skipped.csv."""


@dataclass(frozen=True)
class Encoded:
    """Image file as it goes into a shard."""

    payload: bytes
    extension: Literal["jpg", "png"]


@dataclass(frozen=True)
class ImageEncoder:
    """Turns the bytes of an image file into those of a plain JPEG or PNG: RGB or grey, 8 bits, upright.

    A file that is so already, and needs no resizing, keeps its bytes. Anything else (CMYK, palette, 16 bits, alpha,
    EXIF rotation, another format, metadata that readers warn of) is decoded, turned upright, made RGB (grey stays grey,
    alpha is dropped, 16 bits become 8) and encoded again. The format is told by content, never by name.

    Args:
        short_side: pixels of the shorter side. Larger images are reduced to it with their aspect ratio, smaller ones
            are never enlarged. None keeps every size.
        encoding: format of what must be encoded again.
        quality: JPEG quality of what must be encoded again, 1 to 95.
    """

    short_side: int | None = None
    encoding: Literal["jpeg", "png"] = "jpeg"
    quality: int = 90

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise InputError(f"short side {self.short_side} px is not a size: use 1 or more")
        if not 1 <= self.quality <= 95:
            raise InputError(f"JPEG quality {self.quality} is not usable: use 1 to 95")

    def describe(self) -> dict[str, Any]:
        """The options, as the manifest records them."""
        return {"short_side": self.short_side, "encoding": self.encoding, "quality": self.quality, "filter": "bicubic"}

    def __call__(self, raw: bytes) -> Encoded:
        """Raises UnreadableImage, with the reason, for what cannot be decoded whole."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)  # Pillow's word on metadata it could not make sense of
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
                    image.load()
                    turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
                    if not (turned or caught or self._too_large(image)):
                        kept = _plain_extension(raw, image)
                        if kept is not None:
                            return Encoded(raw, kept)
                    return self._encode(image)
            except MemoryError:
                raise
            except (Image.DecompressionBombWarning, Image.DecompressionBombError):
                raise UnreadableImage(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
            except UnidentifiedImageError:
                raise UnreadableImage("not an image" if raw else "empty file") from None
            except UnreadableImage:
                raise
            except Exception as error:  # Pillow's decoders raise nearly any type on a damaged file
                raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from error

    def _too_large(self, image: Image.Image) -> bool:
        return self.short_side is not None and min(image.size) > self.short_side

    def _encode(self, image: Image.Image) -> Encoded:
        image = _to_plain_mode(ImageOps.exif_transpose(image))
        if self.short_side is not None and self._too_large(image):
            scale = self.short_side / min(image.size)
            width, height = (max(self.short_side, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        # A fresh copy carries pixels only: no profile, comment or EXIF block follows into the shard.
        plain = Image.frombytes(image.mode, image.size, image.tobytes())
        out = io.BytesIO()
        if self.encoding == "jpeg":
            plain.save(out, "JPEG", quality=self.quality)
            return Encoded(out.getvalue(), "jpg")
        plain.save(out, "PNG")
        return Encoded(out.getvalue(), "png")


def _plain_extension(raw: bytes, image: Image.Image) -> Literal["jpg", "png"] | None:
    """Extension under which these bytes can be kept, None where they must be encoded again."""
    if image.mode not in ("RGB", "L"):
        return None
    if image.format == "JPEG":
        return "jpg"
    # Pillow cuts 16 bits to 8 on reading, other decoders do not: only 8 bits mean the same to all.
    if image.format == "PNG" and raw[_PNG_BIT_DEPTH] == 8 and not getattr(image, "is_animated", False):
        return "png"
    return None


def _to_plain_mode(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns 16-bit images white.
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
