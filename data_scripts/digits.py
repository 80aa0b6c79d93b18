"""Makes two sources of the same ten digits, without a download: handwritten and typeset.

    python data_scripts/digits.py --out data/digits --noise 0.4

DIR/handwritten/{train,val}: the 1,797 digits of scikit-learn's `load_digits`, a copy of the test set of "Optical
Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak; UCI Machine Learning Repository; CC BY 4.0), 8x8 pixels of
0..16, enlarged to 32x32. The first 140 of each class in the data set's order train, the other 397 validate: neighbours
there are often by one writer, so a random split would show the writers of the validation digits in training.

DIR/typeset/{train,val}: digits drawn from the fonts that ship inside matplotlib (DejaVu: Bitstream Vera licence; STIX:
STIX licence; Computer Modern of the BaKoMa collection: its licence), 150 and 40 per class, shifted, turned, thickened
and blurred a little. Every fifth typeface validates and the others train, so no validation glyph was seen in training;
the draws come from the sample's key, so none repeats and another --seed leaves the pictures as they are.

Both are bright on dark, grey, 32x32, PNG. --noise flips labels of `given` in train only; `clean` keeps the truth.
--label-noise leaves `given` as it is and adds a column.
--class-map keeps and renames digits by a CSV, such as 0 to 9 to even and odd; labels flip among what this leaves.
"""

import argparse
import importlib.metadata
import io
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from en_bench.data.classes import ClassMap, read_class_map
from en_bench.data.images import ImageEncoder
from en_bench.data.places import place
from en_bench.data.prepare import Split, make_parser, run_script, write_splits
from en_bench.data.sources import Source
from en_bench.errors import InputError
from en_bench.noise.conditional import PairNoise, SymmetricNoise
from en_bench.noise.preparing import NoisyColumn, add_noise_option, with_noise

NOISES = {noise.kind: noise for noise in (SymmetricNoise, PairNoise)}
CLASSES = [str(digit) for digit in range(10)]
SIDE = 32  # pixels
HANDWRITTEN_TRAIN = 140  # per class
TYPESET_PER_CLASS = {"train": 150, "val": 40}
_GLYPH_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
# What the pictures depend on. Recorded, so that those of another version are not taken for the same.
_MADE_WITH = {"handwritten": ("pillow", "scikit-learn"), "typeset": ("pillow", "matplotlib")}
_OVERSAMPLING = 4  # typeset digits are drawn this much larger, then reduced


def handwritten_samples() -> dict[str, list[Source]]:
    """Per split the samples of scikit-learn's digits, labelled with the truth."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError('scikit-learn is not installed: pip install "en_bench[demo]"') from error
    digits = load_digits()
    splits: dict[str, list[Source]] = {"train": [], "val": []}
    seen = [0] * len(CLASSES)
    for position, (pixels, label) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
        split = "train" if seen[label] < HANDWRITTEN_TRAIN else "val"
        seen[label] += 1
        key = f"handwritten/{position:04d}"
        splits[split].append(_source(key, label, partial(enlarge, pixels), f"load_digits[{position}]"))
    return splits


def enlarge(pixels: NDArray[np.float64]) -> bytes:
    """PNG of 32x32 from 8x8 pixels of 0..16."""
    image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
    return _png(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def digit_fonts() -> list[Path]:
    """Fonts inside matplotlib whose code points 0 to 9 are the lining digits, sorted by file name.

    The names of the glyphs decide: symbol fonts put arrows and brackets there, or one and the same box.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font

    def has_digits(path: Path) -> bool:
        font = FT2Font(str(path))
        glyphs = [font.get_char_index(ord(digit)) for digit in CLASSES]
        return all(glyphs) and [font.get_glyph_name(glyph) for glyph in glyphs] == _GLYPH_NAMES

    return [path for path in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf")) if has_digits(path)]


def typeset_samples() -> dict[str, list[Source]]:
    """Per split the samples drawn from fonts, labelled with the truth. The splits share no typeface."""
    fonts = digit_fonts()
    faces = {"train": [path for number, path in enumerate(fonts) if number % 5 != 2], "val": fonts[2::5]}
    if not faces["val"]:
        raise InputError(f"matplotlib holds only {len(fonts)} fonts with digits: install matplotlib with its own fonts")
    splits: dict[str, list[Source]] = {}
    for split, count in TYPESET_PER_CLASS.items():
        splits[split] = []
        for label in range(len(CLASSES)):
            for number in range(count):
                face = faces[split][number % len(faces[split])]
                key = f"typeset/{split}-{label}-{number:03d}"
                splits[split].append(_source(key, label, partial(draw, label, face, key), f"{face.name} {label}"))
    return splits


def draw(label: int, face: Path, key: str) -> bytes:
    """PNG of a typeset digit; size, place, angle, weight and blur are drawn from the key."""
    chance = random.Random(key)
    canvas = SIDE * _OVERSAMPLING
    font = ImageFont.truetype(face, size=canvas, layout_engine=ImageFont.Layout.BASIC)
    weight = chance.choice((0, 0, 1, 2, 3))
    left, top, right, bottom = font.getbbox(CLASSES[label], stroke_width=weight)
    height = canvas * chance.uniform(0.72, 0.95)
    glyph = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(glyph).text((-left, -top), CLASSES[label], fill=255, font=font, stroke_width=weight)
    stretch = height / glyph.height * chance.uniform(0.9, 1.15)
    width = min(canvas, max(1, round(glyph.width * stretch)))
    glyph = glyph.resize((width, round(height)), Image.Resampling.BICUBIC)
    shift = [chance.uniform(-1.5, 1.5) * _OVERSAMPLING for _ in range(2)]
    place = [round((canvas - side) / 2 + offset) for side, offset in zip(glyph.size, shift, strict=True)]
    image = Image.new("L", (canvas, canvas))
    image.paste(glyph, (place[0], place[1]))
    image = image.rotate(chance.uniform(-12, 12), Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(chance.uniform(0.5, 1.5) * _OVERSAMPLING))
    return _png(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def prepare(args: argparse.Namespace) -> None:
    """Writes the four splits, after a look at the options."""
    if not 0 <= args.noise <= 1:
        raise InputError(f"--noise {args.noise} is not a rate: use 0 to 1")
    class_map = read_class_map(args.class_map) if args.class_map else None
    classes = list(class_map.classes) if class_map else CLASSES
    if class_map and (strange := sorted(set(class_map.mapping) - set(CLASSES))):
        raise InputError(f"{args.class_map}: maps {strange[0]!r}, no digit: use 0 to 9")
    if len(classes) < 2 and args.noise:
        raise InputError(f"{args.class_map}: one class has no other to flip to: leave --noise out")
    encode = ImageEncoder(encoding="png")
    flipped = NoisyColumn("given", "clean", NOISES[args.noise_kind](args.noise, seed=args.seed))
    for name, splits in {"handwritten": handwritten_samples(), "typeset": typeset_samples()}.items():
        found = []
        for split, samples in splits.items():
            noise: dict[str, dict[str, object]] = {}
            if class_map:
                samples = [renamed for sample in samples if (renamed := _mapped(sample, class_map)) is not None]
            if split == "train" and args.noise > 0:
                noise = {"given": flipped.describe()}
                samples = with_noise(samples, flipped, classes, encode, args.workers)
            found.append(Split(split, samples, noise=noise))
        write_splits(
            args,
            found,
            out=place(args.out) / name,
            dataset=f"digits/{name}",
            classes=classes,
            source={
                "script": "digits.py",
                "variant": name,
                "versions": _versions(name),
                **({"class_map": class_map.describe()} if class_map else {}),
            },
            encode=encode,
        )


def _versions(variant: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in _MADE_WITH[variant]}


def _source(key: str, label: int, load: Callable[[], bytes], origin: str) -> Source:
    return Source(key, {"given": label, "clean": label}, load, origin)


def _mapped(sample: Source, class_map: ClassMap) -> Source | None:
    """The sample with the label that the map gives its digit; None where it gives none."""
    target = class_map.mapping.get(CLASSES[sample.labels["clean"]])
    return None if target is None else _source(sample.key, class_map.classes.index(target), sample.load, sample.origin)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__.partition("\n")[0])
    add_noise_option(parser)
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="RATE", help="share of train labels to flip (%(default)s)"
    )
    parser.add_argument("--noise-kind", choices=list(NOISES), default="symmetric", help="how they flip (%(default)s)")
    parser.add_argument(
        "--class-map", metavar="CSV", help="columns source,target: the digits to keep, and what they are called"
    )
    return run_script(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
