"""The page of a contact sheet: cells with pictures and captions, drawn by Pillow."""

from __future__ import annotations

import colorsys
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_MARGIN, _GAP = 24, 14  # pixels
_SIDE, _MASK_SIDE = 144, 232  # width of a picture
_TITLE, _TEXT, _SMALL = 22, 14, 11  # sizes of letters
_LINE = 18  # height of a caption's line
_PAPER, _INK, _GREY, _RED, _EMPTY = "#ffffff", "#1a1a1a", "#767676", "#c81e1e", "#ededed"
_IGNORED = (0, 0, 0)  # colour of pixels that no class is asked of
_TINT = 0.6  # share of the class colour over the picture

Size = tuple[int, int]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Caption:
    """A line below a picture: the column's name, if it is told, and the class."""

    column: str
    name: str
    red: bool = False


@dataclass(frozen=True)
class Cell:
    """One sample: the files of its image and mask, and what stands below. `wrong`: with a red frame."""

    image: bytes
    key: str
    captions: tuple[Caption, ...] = ()
    wrong: bool = False
    mask: bytes | None = None


def compose(
    title: str, subtitle: str, cells: Sequence[Cell], per_row: int, classes: Sequence[str], ignore_index: int | None
) -> Image.Image:
    """The sheet. `classes` and `ignore_index` are for splits with masks: they get a legend."""
    masks = any(cell.mask is not None for cell in cells)
    pictures = [decoded(cell.image) for cell in cells]
    values = [None if cell.mask is None else mask_values(cell.mask) for cell in cells]
    box = _box(pictures, _MASK_SIDE if masks else _SIDE)
    width = 2 * box[0] + 2 if masks else box[0]
    height = box[1] + 6 + _LINE * (1 + max(len(cell.captions) for cell in cells))
    per_row = min(per_row, len(cells))
    rows = -(-len(cells) // per_row)
    page_width = max(2 * _MARGIN + per_row * (width + _GAP) - _GAP, 420)
    legend = _Legend(values, classes, ignore_index, page_width - 2 * _MARGIN) if masks else None
    top = _MARGIN + 56
    page_height = top + rows * (height + _GAP) - _GAP + _MARGIN + (legend.height if legend else 0)
    page = Image.new("RGB", (page_width, page_height), _PAPER)
    draw = ImageDraw.Draw(page)
    _write(draw, (_MARGIN, _MARGIN - 4), title, _TITLE, _INK, page_width - 2 * _MARGIN)
    _write(draw, (_MARGIN, _MARGIN + 26), subtitle, _TEXT, _GREY, page_width - 2 * _MARGIN)
    for position, (cell, picture, mask) in enumerate(zip(cells, pictures, values, strict=True)):
        left = _MARGIN + position % per_row * (width + _GAP)
        upper = top + position // per_row * (height + _GAP)
        _picture(page, (left, upper), box, picture, "image cannot be decoded")
        if masks:
            overlay = None if picture is None or mask is None else _overlaid(picture, mask, len(classes), ignore_index)
            _picture(page, (left + box[0] + 2, upper), box, overlay, "mask cannot be decoded")
        if cell.wrong:
            draw.rectangle((left - 3, upper - 3, left + box[0] + 2, upper + box[1] + 2), outline=_RED, width=3)
        upper += box[1] + 6
        _write(draw, (left, upper), cell.key, _SMALL, _GREY, width, keep_end=True)
        for number, caption in enumerate(cell.captions, start=1):
            text = f"{caption.column}: {caption.name}" if caption.column else caption.name
            _write(draw, (left, upper - 3 + number * _LINE), text, _TEXT, _RED if caption.red else _INK, width)
    if legend is not None:
        legend.draw(draw, _MARGIN, page_height - _MARGIN - legend.height + _GAP)
    return page


def decoded(payload: bytes) -> Image.Image | None:
    """The image in RGB, None if it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(payload), formats=("JPEG", "PNG", "WEBP")) as image:
            return image.convert("RGB")
    except Exception:  # Pillow's decoders raise nearly any type on a damaged file; the sheet says so in its place
        return None


def mask_values(payload: bytes) -> NDArray[np.uint8] | None:
    """The class numbers of a mask (H, W), None if it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(payload), formats=("PNG",)) as mask:
            return np.asarray(mask) if mask.mode == "L" else None
    except Exception:  # as above
        return None


def class_colour(number: int) -> Colour:
    """A colour for a class: neighbours in number are far apart in hue, and never as dark as what is ignored."""
    hue = number * 0.618034 % 1.0  # by the golden ratio, which comes near no earlier hue for long
    saturation, value = ((0.80, 0.98), (0.95, 0.72), (0.45, 0.95))[number // 7 % 3]
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def shortened(text: str, size: int, width: float, keep_end: bool = False) -> str:
    """Text as it may be drawn in letters of a size: within `width` pixels, cut with an ellipsis, on one line."""
    font = _font(size)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if not isinstance(font, ImageFont.FreeTypeFont):
        text = text.encode("latin-1", "replace").decode("latin-1")  # all that Pillow without FreeType draws
    ellipsis = "…" if isinstance(font, ImageFont.FreeTypeFont) else "..."
    if font.getlength(text) <= width:
        return text

    def cut(length: int) -> str:
        return ellipsis + text[len(text) - length :] if keep_end else text[:length].rstrip() + ellipsis

    fits, too_long = 0, min(len(text), 400)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if font.getlength(cut(middle)) <= width:
            fits = middle
        else:
            too_long = middle
    return cut(fits)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _write(
    draw: ImageDraw.ImageDraw, at: Size, text: str, size: int, colour: str, width: float, keep_end: bool = False
) -> None:
    draw.text(at, shortened(text, size, width, keep_end), fill=colour, font=_font(size))


def _box(pictures: Sequence[Image.Image | None], width: int) -> Size:
    """Width and height that all pictures are fitted into: their usual shape, within bounds."""
    shapes = [picture.height / picture.width for picture in pictures if picture is not None]
    shape = float(np.clip(np.median(shapes), 0.5, 1.25)) if shapes else 1.0
    return width, round(width * shape)


def _picture(page: Image.Image, at: Size, box: Size, picture: Image.Image | None, complaint: str) -> None:
    draw = ImageDraw.Draw(page)
    left, upper = at
    draw.rectangle((left, upper, left + box[0] - 1, upper + box[1] - 1), fill=_EMPTY)
    if picture is None:
        draw.text((left + 8, upper + 8), complaint.replace(" cannot", "\ncannot"), fill=_RED, font=_font(_SMALL))
        return
    scale = min(box[0] / picture.width, box[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    page.paste(picture.resize(size, way), (left + (box[0] - size[0]) // 2, upper + (box[1] - size[1]) // 2))


def _overlaid(picture: Image.Image, mask: NDArray[np.uint8], classes: int, ignore_index: int | None) -> Image.Image:
    """The picture in grey under the colours of its classes; black where there is none."""
    table = np.array([_IGNORED if n == ignore_index or n >= classes else class_colour(n) for n in range(256)], np.uint8)
    colours = Image.fromarray(table[mask]).resize(picture.size, Image.Resampling.NEAREST)
    return Image.blend(picture.convert("L").convert("RGB"), colours, _TINT)


class _Legend:
    """Colour and name of the classes that occur in masks, in lines of a width."""

    def __init__(
        self, masks: Sequence[NDArray[np.uint8] | None], classes: Sequence[str], ignore_index: int | None, width: int
    ) -> None:
        present = sorted({int(value) for mask in masks if mask is not None for value in np.unique(mask)})
        entries = [(class_colour(n), f"{n} {classes[n]}") for n in present if n < len(classes) and n != ignore_index]
        if ignore_index in present:
            entries.append((_IGNORED, f"{ignore_index} ignored"))
        self._places: list[tuple[int, int, Colour, str]] = []
        x = y = 0
        for colour, name in entries:
            text = shortened(name, _TEXT, 180)
            needed = 22 + round(_font(_TEXT).getlength(text)) + 18
            if x and x + needed > width:
                x, y = 0, y + 24
            self._places.append((x, y, colour, text))
            x += needed
        self.height = y + 24 + _GAP if entries else 0

    def draw(self, draw: ImageDraw.ImageDraw, left: int, upper: int) -> None:
        for x, y, colour, text in self._places:
            draw.rectangle((left + x, upper + y, left + x + 14, upper + y + 14), fill=colour)
            draw.text((left + x + 21, upper + y - 1), text, fill=_INK, font=_font(_TEXT))
