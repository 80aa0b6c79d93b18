"""`en-bench data show`: which samples stand on the sheet, and what stands there, read from its pixels."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from en_bench.cli import main
from en_bench.data import sheet, sheet_page
from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import load_manifest
from en_bench.data.places import place, write_file
from en_bench.data.sheet import Wish, choose
from en_bench.data.sheet_page import Cell
from en_bench.data.sources import Source
from en_bench.data.writer import write_split
from tests.data.damage import make_masked, remake, replaced
from tests.scripts.raw import encoded, mask_png
from tests.test_cli import one_line

COUNT = 30
CLASSES = ("red", "green", "名前 " + "long " * 30)
RED = (200, 30, 30)  # of frames and clean labels


def plain(i: int) -> bytes:
    """A picture in one colour that tells the sample's number."""
    return encoded(Image.new("RGB", (20, 20), (0, 100, 8 * i)), "PNG")


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Sample i is of class i % 3; i % 5 == 0 are given the next class, and `worst` is wrong where i is even."""
    samples = [
        Source(
            f"folder/with/a/long/name/{i:02d}",
            {"given": (i + (i % 5 == 0)) % 3, "clean": i % 3, "worst": (i + (i % 2 == 0)) % 3},
            partial(plain, i),
            f"raw/{i}",
        )
        for i in range(COUNT)
    ]
    encoder = ImageEncoder(encoding="png")
    options = {"dataset": "toy", "split": "train", "classes": CLASSES, "encode": encoder}
    write_split(tmp_path / "train", samples, image=encoder.describe(), source={}, shards=2, **options)
    return tmp_path / "train"


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    return make_masked(tmp_path / "val")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, NDArray[np.uint8]]]:
    """Runs `en-bench data show` and returns what it printed and the sheet's pixels."""

    def shown(*arguments: object) -> tuple[str, NDArray[np.uint8]]:
        capsys.readouterr()
        out = tmp_path / "sheet.png"
        assert main(["data", "show", *map(str, arguments), "--out", str(out)]) == 0
        with Image.open(out) as image:
            assert image.format == "PNG"
            return capsys.readouterr().out, np.asarray(image.convert("RGB"))

    return shown


def numbers(pixels: NDArray[np.uint8]) -> set[int]:
    """The samples whose colour fills a large part of the sheet."""
    blues = pixels[..., 2][(pixels[..., 0] == 0) & (pixels[..., 1] == 100)]
    counts = np.bincount(blues, minlength=256)
    return {i for i in range(COUNT) if counts[8 * i] > 100 * 100}


def chosen(split: Path, **wish: object) -> set[int]:
    manifest = load_manifest(split)
    index = manifest.load_index()
    return {int(index.key(row)[-2:]) for row in choose(index, manifest, Wish(**wish))}


def has_red(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels == RED).all(axis=2).any())


def test_the_sheet_shows_the_samples_that_were_drawn(split, run):
    text, pixels = run(split)
    assert numbers(pixels) == set(range(COUNT))
    out = split.parent / "sheet.png"
    assert text == f"wrote {out}: 30 of 30 samples of toy train; 6 of them with a label that is not the clean one\n"
    text, pixels = run(split, "--count", 7, "--columns", 3, "--seed", 1)
    assert numbers(pixels) == chosen(split, count=7, seed=1)
    assert len(numbers(pixels)) == 7
    again = run(split, "--count", 7, "--columns", 3, "--seed", 1)[1]
    assert np.array_equal(again, pixels)
    assert numbers(run(split, "--count", 7, "--seed", 2)[1]) != numbers(pixels)


def test_only_wrong_labels_or_one_class_when_asked(split):
    fives, evens = {0, 5, 10, 15, 20, 25}, set(range(0, COUNT, 2))
    assert chosen(split, wrong=True) == fives
    assert chosen(split, wrong=True, labels=("worst",)) == evens
    assert chosen(split, wrong=True, labels=("given", "worst")) == fives | evens
    green = {i for i in range(COUNT) if (i % 3 == 0) == (i % 5 == 0) and i % 3 != 2 and (i % 3 == 1) != (i % 5 == 0)}
    assert chosen(split, category="green") == green | {i for i in fives if i % 3 == 0}
    assert chosen(split, category="green", wrong=True) == {0, 15}


def test_samples_stand_in_the_order_of_their_given_label(split):
    manifest = load_manifest(split)
    index = manifest.load_index()
    labels = index.labels["given"][choose(index, manifest, Wish(count=20))].tolist()
    assert labels == sorted(labels)


def test_wrong_labels_are_red_and_others_are_not(split, run):
    pixels = run(split, "--wrong", "--count", 1)[1]
    left, top = np.argwhere((pixels == (0, 100, 8 * min(numbers(pixels)))).all(axis=2))[0][::-1]
    assert (pixels[top - 2, left : left + 144] == RED).all(), "a frame around the picture"
    right = next(seed for seed in range(99) if not chosen(split, seed=seed, count=1) & {0, 5, 10, 15, 20, 25})
    assert not has_red(run(split, "--seed", right, "--count", 1)[1])
    manifest = load_manifest(split)
    samples = sheet.Samples(manifest)
    row = {samples.index.key(row)[-2:]: row for row in range(COUNT)}

    def captions(number: str, *labels: str) -> list[tuple[str, str, bool]]:
        cell = samples.cell(row[number], Wish(labels=labels))
        assert cell.wrong == any(caption.red for caption in cell.captions)
        return [(caption.column, caption.name, caption.red) for caption in cell.captions]

    assert captions("01") == [("", "green", False)]
    assert captions("15") == [("", "green", True), ("clean", "red", False)]
    assert captions("06", "worst") == [("given", "red", False), ("worst", "green", True), ("clean", "red", False)]
    assert captions("01", "worst", "clean") == [
        ("given", "green", False),
        ("worst", "green", False),
        ("clean", "green", False),
    ]
    assert captions("02")[0][1] == "2: " + CLASSES[2]


def test_texts_are_cut_to_their_width_and_stay_on_a_line():
    for text in ("long " * 500, "名前" * 80, "a\nb" * 60, "\x1b[31m" * 40, "עברית " * 40):
        for keep_end in (False, True):
            cut = sheet_page.shortened(text, 14, 144, keep_end)
            assert "\n" not in cut
            assert "…" in cut
            assert sheet_page._font(14).getlength(cut) <= 144
    assert sheet_page.shortened("folder/x/0001", 11, 50, keep_end=True).endswith("0001")
    assert sheet_page.shortened("cat", 14, 144) == "cat"
    assert sheet_page.shortened("", 14, 144) == ""


def test_fonts_without_freetype_draw_what_they_can(monkeypatch):
    monkeypatch.setattr(sheet_page, "_font", lambda size: ImageFont.load_default_imagefont())
    cell = Cell(plain(1), "名前/" + "x" * 90, (sheet_page.Caption("", "名前"),))
    assert sheet_page.compose("名前", "y" * 200, [cell], 8, (), None).width == 420


def test_a_damaged_image_leaves_its_place(split, run):
    remake(split, lambda name, payload: [(name, b"broken" if name.endswith("/04.png") else payload)])
    assert numbers(run(split)[1]) == set(range(COUNT)) - {4}


def test_masks_lie_over_the_image_in_the_colours_of_their_classes(masked, run):
    text, pixels = run(masked)
    assert text.endswith(": 2 of 2 samples of scenes val\n")
    colours = [*map(sheet_page.class_colour, (0, 1)), (0, 0, 0)]
    for colour in colours:  # of the legend
        assert (pixels == colour).all(axis=2).sum() >= 15 * 15
    remake(masked, replaced("m/1.mask.png", mask_png(np.zeros((16, 24)))))
    assert "1 of 2 samples of scenes val, of class road\n" in run(masked, "--class", "road")[0]
    remake(masked, replaced("m/0.mask.png", b"broken"))
    assert "2 of 2" in run(masked)[0]


def test_the_overlay_tints_each_pixel_by_its_class():
    grey = Image.new("RGB", (4, 2), (100, 100, 100))
    mask = np.array([[0, 1, 255, 7]] * 2, np.uint8)  # 7 is no class: as if ignored
    found = np.asarray(sheet_page._overlaid(grey, mask, 2, 255))
    for column, colour in enumerate([sheet_page.class_colour(0), sheet_page.class_colour(1), (0, 0, 0), (0, 0, 0)]):
        assert np.allclose(found[0, column], 0.4 * 100 + 0.6 * np.array(colour), atol=1.01)


def test_colours_of_classes_differ():
    assert len({sheet_page.class_colour(n) for n in range(150)}) == 150
    assert all(max(sheet_page.class_colour(n)) > 150 for n in range(255))


def test_each_split_has_a_sheet_of_its_own(split, tmp_path, capsys):
    (tmp_path / "set" / "a").mkdir(parents=True)
    split.rename(tmp_path / "set" / "a" / "train")
    shutil.copytree(tmp_path / "set" / "a" / "train", tmp_path / "set" / "val")
    assert main(["data", "show", str(tmp_path / "set"), "--out", str(tmp_path / "new" / "s.png")]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["s-a-train.png", "s-val.png"]


def test_a_url_shows_the_same_sheet(split, run):
    for path in split.iterdir():
        if path.is_file():
            write_file(place(f"memory://sheet/train/{path.name}"), path.read_bytes())
    assert np.array_equal(run("memory://sheet/train", "--count", 5)[1], run(split, "--count", 5)[1])


def test_only_pngs_are_overwritten(split, tmp_path, capsys):
    notes = tmp_path / "notes.png"
    notes.write_text("mine")
    for out, message in [
        (notes, "notes.png: holds something that is not a PNG: choose another name"),
        (tmp_path / "sheet.jpg", "a sheet is a PNG: name it sheet.png"),
        ("s3://b/sheet.png", "sheets are written to disk"),
    ]:
        assert main(["data", "show", str(split), "--out", str(out)]) == 1
        assert message in one_line(capsys)
    assert notes.read_text() == "mine"
    (tmp_path / "folder.png").mkdir()
    assert main(["data", "show", str(split), "--out", str(tmp_path / "folder.png")]) == 1
    assert "folder.png: a folder: name a file in it" in one_line(capsys)


def test_wishes_that_cannot_be_fulfilled_end_in_one_line(split, masked, tmp_path, capsys):
    fields = json.loads((split / "manifest.json").read_text())
    assert fields["columns"] == ["given", "clean", "worst"]
    for folder, options, message in [
        (split, ["--class", "blue"], "no class 'blue' among red, green, 名前"),
        (split, ["--labels", "random"], "no label column 'random': choose from given, clean, worst"),
        (split, ["--labels", "clean", "--wrong"], "only 'clean' is asked for, so no label is known to be wrong"),
        (split, ["--count", "0"], "--count 0 is too small: use 1 or more"),
        (split, ["--count", "1001"], "--count 1001: at most 1,000 samples fit on a sheet"),
        (split, ["--columns", "0"], "--columns 0 is too small"),
        (split, ["--seed", "-1"], "--seed -1 is not a seed"),
        (masked, ["--wrong"], "holds masks, no labels: leave out --labels and --wrong"),
        (masked, ["--class", "sea"], "no class 'sea' among sky, road:"),
        (tmp_path / "absent", [], "absent: no such folder"),
    ]:
        capsys.readouterr()
        assert main(["data", "show", str(folder), *options, "--out", str(tmp_path / "x.png")]) == 1
        assert message in one_line(capsys)
    assert not (tmp_path / "x.png").exists()
