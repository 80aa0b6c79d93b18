import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from en_bench.data.images import Encoded, UnreadableImage
from en_bench.data.masks import IGNORE, MaskEncoder


def encoded(size: tuple[int, int], raw_size: tuple[int, int] | None = None) -> Encoded:
    """An image of (width, height) as it goes into a shard, made from one of `raw_size`."""
    return Encoded(b"", "jpg", True, size, raw_size or size)


def png(values: np.ndarray, mode: str = "L") -> bytes:
    image = Image.fromarray(values)
    if mode == "P":
        image = image.convert("P")
        image.putpalette([255 - v % 256 for v in range(768)])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def grey_png(rows: list[list[int]], depth: int) -> bytes:
    """A grey PNG of 2 or 4 bits, which Pillow does not write; `rows` fill whole bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    per_byte = 8 // depth
    lines = b""
    for row in rows:
        groups = (row[start : start + per_byte] for start in range(0, len(row), per_byte))
        lines += b"\0" + bytes(sum(v << (8 - depth * (i + 1)) for i, v in enumerate(group)) for group in groups)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), depth, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as mask:
        assert (mask.mode, mask.format) == ("L", "PNG")
        return np.asarray(mask)


RAW = np.array([[0, 7, 7, 255], [9, 9, 0, 7]], dtype=np.uint8)
WANTED = np.array([[IGNORE, 0, 0, IGNORE], [1, 1, IGNORE, 0]], dtype=np.uint8)
ENCODER = MaskEncoder({7: 0, 9: 1, 0: IGNORE, 255: IGNORE}, 2)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_values_become_classes_by_the_table(mode):
    assert np.array_equal(decoded(ENCODER(png(RAW, mode), encoded((4, 2)))), WANTED)


def test_equal_masks_give_equal_bytes():
    assert ENCODER(png(RAW, "L"), encoded((4, 2))) == ENCODER(png(RAW, "P"), encoded((4, 2)))


@pytest.mark.parametrize(("depth", "values"), [(2, [0, 1, 2, 3]), (4, [0, 1, 15, 11])])
def test_grey_of_few_bits_counts_by_its_values(depth, values):
    # 1 of 4 bits is 17 once it is stretched to 255, and 1 of 2 bits is 85: they must not be taken for those.
    table = {value: value for value in range(12)} | {15: IGNORE, 17: 3, 85: 3, 187: 3, 170: 3, 255: 3}
    found = decoded(MaskEncoder(table, 12)(grey_png([values, values], depth), encoded((4, 2))))
    assert found.tolist() == [[IGNORE if value == 15 else value for value in values]] * 2


def test_a_mask_is_reduced_with_its_image_and_makes_no_new_values():
    columns = np.repeat(np.array([[7, 9, 0, 7]], dtype=np.uint8), 2, axis=1)  # 7 7 9 9 0 0 7 7
    raw = np.repeat(columns, 6, axis=0)
    found = decoded(ENCODER(png(raw), encoded((4, 3), raw_size=(8, 6))))
    assert found.tolist() == [[0, 1, IGNORE, 0]] * 3


def test_a_mask_follows_an_uneven_reduction_at_the_centres_of_pixels():
    raw = np.full((9, 9), 7, dtype=np.uint8)
    raw[:, 4:] = 9
    # The centres of 4 pixels over 9 lie at 1.1, 3.4, 5.6 and 7.9.
    assert decoded(ENCODER(png(raw), encoded((4, 4), raw_size=(9, 9)))).tolist() == [[0, 0, 1, 1]] * 4


def broken(kind: str) -> bytes:
    whole = png(np.random.default_rng(0).choice(np.array([0, 7, 9], dtype=np.uint8), (40, 40)))
    return {"cut": whole[:150], "head": whole[:20], "crc": whole[:60] + b"\xff" + whole[61:]}[kind]


@pytest.mark.parametrize("kind", ["cut", "head", "crc"])
def test_a_damaged_mask_is_told_the_same_way_each_time(kind):
    reasons = set()
    for _ in range(2):
        with pytest.raises(UnreadableImage, match=r"^mask: ") as caught:
            ENCODER(broken(kind), encoded((40, 40)))
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert "0x" not in reasons.pop(), "an address would differ from run to run"


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(RAW).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("raw", "size", "reason"),
    [
        (b"", (4, 2), "mask: empty file"),
        (b"junk", (4, 2), "mask: not a PNG"),
        (jpeg(), (4, 2), "mask: not a PNG"),
        (png(RAW), (2, 4), "mask of (4, 2), image of (2, 4) pixels"),
        (png(np.full((2, 4), 8, dtype=np.uint8)), (4, 2), "mask holds the value 8, which no class has"),
        (png(np.stack([RAW] * 3, axis=-1)), (4, 2), "mask of mode RGB, not an index per pixel"),
        (png(np.stack([RAW] * 2, axis=-1)), (4, 2), "mask of mode LA, not an index per pixel"),
        (png(RAW.astype(np.uint16) * 300), (4, 2), "mask of mode I;16, not an index per pixel"),
        (png(RAW > 0), (4, 2), "mask of mode 1, not an index per pixel"),
    ],
)
def test_what_is_no_index_mask_is_refused_with_its_reason(raw, size, reason):
    with pytest.raises(UnreadableImage) as caught:
        ENCODER(raw, encoded(size))
    assert str(caught.value) == reason


def test_a_mask_of_another_size_is_refused_before_it_is_unpacked():
    bomb = grey_png([[0] * 4], 2).replace(struct.pack(">II", 4, 1), struct.pack(">II", 12_000, 7_000), 1)
    bomb = bomb[:29] + struct.pack(">I", zlib.crc32(bomb[12:29])) + bomb[33:]
    with pytest.raises(UnreadableImage, match=r"^mask of \(12000, 7000\), image of \(4, 2\) pixels$"):
        ENCODER(bomb, encoded((4, 2)))
