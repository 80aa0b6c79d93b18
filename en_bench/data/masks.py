"""Segmentation masks on their way into a shard: an index per pixel, in the classes of the manifest."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from en_bench.data.images import PNG_BIT_DEPTH, Encoded, UnreadableImage
from en_bench.errors import message_of

IGNORE = 255  # the value of pixels that no class is asked of, in the masks of every set


@dataclass(frozen=True)
class MaskEncoder:
    """Turns an index mask as published into an 8-bit grey PNG of class numbers, `IGNORE` where there is none.

    Args:
        table: from the values of the published mask to class numbers. None of a value that is mapped to `IGNORE` is
            lost: it counts as ignored.
        classes: number of classes.

    Values that the table lacks make a mask unreadable.
    """

    table: Mapping[int, int]
    classes: int

    def __call__(self, raw: bytes, image: Encoded) -> bytes:
        """The mask of an encoded image, resized with it (nearest neighbour).

        Raises UnreadableImage for what is no index mask of the image's size, or holds values that no class has.
        """
        try:
            with Image.open(io.BytesIO(raw), formats=("PNG",)) as mask:
                if mask.mode not in ("L", "P"):
                    raise UnreadableImage(f"mask of mode {mask.mode}, not an index per pixel")
                if mask.size != image.raw_size:
                    raise UnreadableImage(f"mask of {mask.size}, image of {image.raw_size} pixels")
                values = np.asarray(mask)
                if mask.mode == "L" and (depth := raw[PNG_BIT_DEPTH]) < 8:
                    # Pillow stretches grey of 2 and 4 bits to 0..255, which no index may be.
                    values = values // (255 // (2**depth - 1))
        except UnreadableImage:
            raise
        except UnidentifiedImageError:  # whose message is the address of a buffer
            raise UnreadableImage("mask: not a PNG" if raw else "mask: empty file") from None
        except Exception as error:  # Pillow's decoders raise nearly any type on a damaged file
            raise UnreadableImage(f"mask: {message_of(error)}") from error
        lookup = np.full(256, -1, dtype=np.int16)
        for value, number in self.table.items():
            lookup[value] = number
        numbers = lookup[values]
        if (numbers < 0).any():
            raise UnreadableImage(f"mask holds the value {int(values[numbers < 0].min())}, which no class has")
        plain = Image.fromarray(numbers.astype(np.uint8))
        if image.size != image.raw_size:
            plain = plain.resize(image.size, Image.Resampling.NEAREST)
        out = io.BytesIO()
        plain.save(out, "PNG")
        return out.getvalue()
