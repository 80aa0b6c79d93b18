"""Noise made when preparing, counted by the verb, and read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_scripts import imagefolder
from en_bench.cli import main
from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import load_manifest
from en_bench.data.module import ShardDataModule
from en_bench.data.shard_cache import ShardCache
from en_bench.data.sources import Source
from en_bench.data.transforms import CenterCrop
from en_bench.data.writer import write_split
from en_bench.errors import InputError
from en_bench.noise.base import Noise
from en_bench.noise.conditional import MatrixNoise, SymmetricNoise
from en_bench.noise.preparing import NoisyColumn, parse_noisy_column, with_noise
from en_bench.noise.training_labels import load_training_labels
from tests.noise.made import labelled_split

CLASSES = ["bird", "cat", "cow", "dog", "fox", "yak"]
SPECS = {
    "symmetric40": "symmetric,rate=0.4",
    "own": "symmetric,rate=0.4,include_own=true,seed=3,column=own",
    "swapped": "pair,rate=0.3,mapping={table},column=swapped",
    "matrix": "matrix,matrix={matrix}",
    "instance50": "instance,rate=0.5",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Images of several sizes and formats: 72 to train, 12 to validate."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 2)):
        for category in CLASSES:
            (folder / split / category).mkdir(parents=True)
            for i in range(count):
                size = (20 + 17 * i, 190 - 9 * i)
                pixels = rng.integers(0, 256, (*size, 3) if i % 3 else size).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / category / f"{i:02d}.{'jpg' if i % 2 else 'png'}")
    (folder / "train" / "cat" / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("specs")
    (folder / "map.csv").write_text("source,target\ncat,dog\n")
    matrix = (np.eye(6) * 0.4 + 0.1).tolist()
    (folder / "T.json").write_text(json.dumps({"classes": CLASSES, "matrix": matrix}))
    return {name: text.format(table=folder / "map.csv", matrix=folder / "T.json") for name, text in SPECS.items()}


def prepare(raw: Path, out: Path, *more: str) -> int:
    options = ["--dataset", "pets", "--short-side", "48", "--workers", "1", *more]
    return imagefolder.main(["--raw", str(raw), "--out", str(out), *options])


def test_preparing_and_reading_make_the_very_same_labels(raw, specs, tmp_path, capsys):
    options = [word for text in specs.values() for word in ("--label-noise", text)]
    assert prepare(raw, tmp_path / "pets", *options) == 0
    manifest = load_manifest(tmp_path / "pets" / "train")
    labels = manifest.load_index().labels
    assert manifest.columns == ("given", *specs) and manifest.count == 72 and manifest.skipped == 1
    assert load_manifest(tmp_path / "pets" / "val").columns == ("given",)
    for column, text in specs.items():
        made = parse_noisy_column(text)
        data = ShardDataModule(
            "train", "val", CenterCrop(32), CenterCrop(32), str(tmp_path / "pets"), noise=made.noise, batch_size=8
        )
        data.open("fit")
        assert np.array_equal(data.training_labels.targets, labels[column]), column
        stored = ShardDataModule(
            "train", "val", CenterCrop(32), CenterCrop(32), str(tmp_path / "pets"), labels=column, batch_size=8
        )
        stored.open("fit")
        assert stored.training_labels.measured_by[0] == "given", "which the column was made from"
        wrong = stored.training_labels.facts()["wrong"]
        assert wrong == data.training_labels.facts()["wrong"]
        assert wrong["rate"] == pytest.approx(manifest.noise[column]["realised"]) and wrong["count"] > 0
        assert stored.training_labels.line().endswith(f"{100 * wrong['rate']:.2f} % of 72 differ from given")
        differing = (labels[column] != labels["given"]).mean()
        assert 0 < differing < 0.8
        assert manifest.noise[column] == {**made.describe(), "realised": differing}
    capsys.readouterr()
    assert main(["data", "verify", str(tmp_path / "pets"), "--workers", "1"]) == 0
    assert main(["data", "info", str(tmp_path / "pets" / "train")]) == 0
    shown = capsys.readouterr().out
    assert f"{100 * manifest.noise['own']['realised']:.2f} % differ from given" in shown
    assert f"\n  {'label symmetric40':19}all known" in shown and f"\n  {'samples':19}72\n" in shown
    assert prepare(raw, tmp_path / "pets", *options) == 0, "the same again: nothing to do"
    assert "already there" in capsys.readouterr().out
    assert prepare(raw, tmp_path / "pets") == 1


class Witness(Noise):
    """Keeps the images that it is shown, by key."""

    kind = "witness"
    needs_images = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[bytes, bytes] = {}

    def arguments(self):
        return {}

    def flip(self, labels, keys, classes, images):
        self.seen = {bytes(key): image.tobytes() for key, image in zip(keys, images, strict=True)}
        return labels


def test_preparing_and_reading_see_the_same_pixels(raw, tmp_path):
    encode = ImageEncoder(short_side=48, quality=30)
    files = sorted((raw / "train").glob("*/*.*"))
    samples = [Source(f"{path.parent.name}/{path.stem}", {"given": 0}, path.read_bytes, path.name) for path in files]
    preparing, reading = Witness(), Witness()
    with_noise(samples, NoisyColumn("made", "given", preparing), CLASSES, encode, 1)
    options = {"dataset": "pets", "split": "train", "classes": CLASSES, "image": encode.describe(), "source": {}}
    manifest = write_split(tmp_path / "train", samples, encode=encode, **options)
    load_training_labels(manifest, manifest.load_index(), "given", reading, ShardCache(tmp_path / "cache", 10**6))
    assert len(reading.seen) == 72
    assert reading.seen == {key: preparing.seen[key] for key in reading.seen}


@pytest.mark.slow
def test_workers_change_no_label(raw, specs, tmp_path):
    option = ["--label-noise", specs["instance50"]]
    assert prepare(raw, tmp_path / "one", *option) == 0
    assert prepare(raw, tmp_path / "two", *option, "--workers", "2") == 0
    one, two = (load_manifest(tmp_path / name / "train") for name in ("one", "two"))
    assert one.digest == two.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gauss,rate=0.4", "'gauss' is no kind of noise: use one of symmetric, pair, matrix, instance"),
        ("symmetric", "symmetric: rate= is missing: use rate, include_own, seed, column, from"),
        ("symmetric,rat=0.4", "'rat' is no argument of symmetric: use rate, include_own, seed, column, from"),
        ("symmetric,rate=0.4,mapping=next", "'mapping' is no argument of symmetric: use rate, include_own"),
        ("pair,rate=0.4,mapping=cifar11", "no mapping 'cifar11': use next, cifar10, cifar100, or a CSV with columns"),
        ("pair,rate=0.4,mapping=cifar11.csv", "cifar11.csv: not a file"),
        ("symmetric,rate=much", "could not convert string to float"),
        ("symmetric,rate=1.4", "1.4 is not a rate"),
        ("symmetric,rate", "write each argument once, as name=value"),
        ("symmetric,rate=0.4,column=a b", "'a b' cannot name a column"),
        ("symmetric,rate=0.4,column=clean", "column clean tells which labels are wrong: give another column="),
        ("symmetric,rate=0.4,include_own=maybe", "include_own=maybe is neither true nor false"),
        ("symmetric,rate=nan", "nan is not a rate"),
    ],
)
def test_what_cannot_be_understood(text, message):
    with pytest.raises(InputError) as told:
        parse_noisy_column(text)
    assert message in str(told.value) and "\n" not in str(told.value)


def test_it_is_told_in_one_line_without_the_usage(raw, tmp_path, capsys):
    assert prepare(raw, tmp_path / "out", "--label-noise", "symmetric,rat=0.4") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: --label-noise symmetric,rat=0.4: 'rat' is no argument" in line


@pytest.mark.parametrize(
    ("text", "own"),
    [("true", True), ("Yes", True), ("1", True), ("false", False), ("no", False), ("0", False)],
)
def test_whether_the_own_class_is_included(text, own):
    noise = parse_noisy_column(f"symmetric,rate=0.4,include_own={text}").noise
    assert noise.arguments() == SymmetricNoise(0.4, include_own=own).arguments()


def test_columns_of_different_rates_have_different_names():
    names = [parse_noisy_column(f"symmetric,rate={rate}").column for rate in (0.4, 0.405, 0.29, 1, 0.0005)]
    assert names == ["symmetric40", "symmetric40_5", "symmetric29", "symmetric100", "symmetric0_05"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["symmetric,rate=0.4,column=given"], "there is a label column 'given' already"),
        (["symmetric,rate=0.4", "--label-noise", "symmetric,rate=0.4,seed=1"], "'symmetric40' already"),
        (
            ["symmetric,rate=0.4", "--label-noise", "pair,rate=0.2,from=symmetric40"],
            "--label-noise on column 'symmetric40': symmetric 0.4 (seed 0) made these labels, and noise of the same "
            "seed would hit the same samples again: use seed=1, or from=given",
        ),
        (["symmetric,rate=0.4,from=clean"], "no label column 'clean' to start from: use from=given"),
        (["pair,rate=0.4,mapping=cifar10"], "'truck' of its mapping is none of the 6 classes"),
        (["symmetric,rate=0.4", "--split-map", "train=fit"], "there is no split train"),
    ],
)
def test_what_cannot_be_made(raw, tmp_path, capsys, options, message):
    assert prepare(raw, tmp_path / "out", "--label-noise", *options) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_verb_counts_and_its_file_makes_noise(tmp_path, capsys):
    split = labelled_split(tmp_path / "train", 120)
    out = tmp_path / "T.json"
    assert main(["noise", "matrix", str(split), "--labels", "human", "--out", str(out)]) == 0
    known = [i for i in range(120) if i % 10 != 9]
    counts = [[0] * 3 for _ in range(3)]
    for i in known:
        counts[i % 3][(i % 3 + (i % 4 == 0)) % 3] += 1
    written = json.loads(out.read_text())
    assert written["counts"] == counts and written["classes"] == ["dark", "grey", "bright"]
    assert written["matrix"] == [[count / sum(row) for count in row] for row in counts]
    assert written["digest"] == load_manifest(split).digest
    shown = capsys.readouterr().out
    assert f"{100 * 30 / 108:.2f} % of 108 differ (30)" in shown
    assert f"dark  {100 * counts[0][0] / sum(counts[0]):7.2f}" in shown
    assert MatrixNoise(str(out)).transition(("dark", "grey", "bright")) == pytest.approx(np.array(written["matrix"]))


def test_the_verb_names_what_is_missing(tmp_path, shards, capsys):
    split = labelled_split(tmp_path / "train", 30)
    for arguments, message in (
        ([str(split), "--labels", "worst"], "no label column 'worst' (it has given, clean, human)"),
        ([str(shards / "a" / "train")], "no label column 'clean' (it has given)"),
        ([str(tmp_path / "none")], "no such folder"),
    ):
        assert main(["noise", "matrix", *arguments]) == 1
        (told,) = capsys.readouterr().err.splitlines()
        assert message in told
