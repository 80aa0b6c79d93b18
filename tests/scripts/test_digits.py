import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_scripts import digits
from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader
from en_bench.noise.conditional import SymmetricNoise

pytest.importorskip("sklearn", reason="handwritten digits come from scikit-learn")

SPLITS = {"handwritten/train": 1400, "handwritten/val": 397, "typeset/train": 1500, "typeset/val": 400}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits")
    assert digits.main(["--out", str(out), "--noise", "0.4"]) == 0
    return out


def hashed(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}


def arrays(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    manifest = load_manifest(folder)
    index = manifest.load_index()
    with ShardReader(manifest, index) as reader:
        images = [Image.open(digits.io.BytesIO(reader.read(i))) for i in range(len(reader))]
        assert {(image.format, image.mode, image.size) for image in images} == {("PNG", "L", (32, 32))}
        return np.stack([np.asarray(image) for image in images]), index.labels["clean"]


@pytest.mark.parametrize(("split", "count"), SPLITS.items())
def test_every_split_is_whole_and_balanced(prepared, split, count):
    manifest = load_manifest(prepared / split)
    assert hashed(prepared / split) == {shard.name: shard.sha256 for shard in manifest.shards}
    assert (manifest.dataset, manifest.count, manifest.skipped) == (f"digits/{split.split('/')[0]}", count, 0)
    assert manifest.classes == tuple("0123456789")
    assert manifest.columns == ("given", "clean")
    per_class = np.bincount(manifest.load_index().labels["clean"], minlength=10)
    assert per_class.min() >= 0.75 * per_class.max()


@pytest.mark.parametrize("split", SPLITS)
def test_noise_is_in_the_given_labels_of_train_only(prepared, split):
    manifest = load_manifest(prepared / split)
    labels = manifest.load_index().labels
    flipped = labels["given"] != labels["clean"]
    if split.endswith("val"):
        assert manifest.noise == {}
        assert not flipped.any()
    else:
        made = {"kind": "symmetric", "rate": 0.4, "seed": 0, "from": "clean"}
        assert manifest.noise == {"given": {**made, "realised": flipped.mean()}}
        again = SymmetricNoise(0.4).apply(labels["clean"], manifest.load_index().keys, manifest.classes)
        assert np.array_equal(again, labels["given"])
        assert abs(flipped.mean() - 0.4) < 4 * (0.4 * 0.6 / manifest.count) ** 0.5


def test_noise_of_another_kind_and_seed_and_a_further_column(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "typeset_samples", dict)
    flipped, added = ["--noise", "0.3", "--noise-kind", "pair", "--seed", "4"], "symmetric,rate=0.4,from=clean"
    assert digits.main(["--out", str(tmp_path), "--workers", "1", *flipped, "--label-noise", added]) == 0
    manifest = load_manifest(tmp_path / "handwritten" / "train")
    assert manifest.columns == ("given", "clean", "symmetric40")
    assert {k: manifest.noise["given"][k] for k in ("kind", "rate", "seed")} == {"kind": "pair", "rate": 0.3, "seed": 4}
    labels = manifest.load_index().labels
    wrong = labels["given"] != labels["clean"]
    assert (labels["given"] == (labels["clean"] + 1) % 10)[wrong].all()
    assert abs(wrong.mean() - 0.3) < 4 * (0.3 * 0.7 / 1400) ** 0.5
    assert manifest.noise["symmetric40"]["realised"] == (labels["symmetric40"] != labels["clean"]).mean()
    assert load_manifest(tmp_path / "handwritten" / "val").columns == ("given", "clean")


def test_noise_of_the_same_seed_on_noise_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "typeset_samples", dict)
    added = ["--noise", "0.3", "--seed", "4", "--label-noise", "pair,rate=0.4,seed=4"]
    assert digits.main(["--out", str(tmp_path), "--workers", "1", *added]) == 1
    told = "on column 'given': symmetric 0.3 (seed 4) made these labels, and noise of the same seed would hit"
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and line.endswith("use seed=0, or from=clean")


def test_handwritten_digits_are_the_data_sets_own(prepared):
    from sklearn.datasets import load_digits

    expected = load_digits()
    images, labels = arrays(prepared / "handwritten" / "train")
    index = load_manifest(prepared / "handwritten" / "train").load_index()
    for row in range(0, 1400, 100):
        position = int(index.key(row).removeprefix("handwritten/"))
        assert labels[row] == expected.target[position]
        small = images[row].reshape(8, 4, 8, 4).mean(axis=(1, 3)) / 255 * 16
        assert np.corrcoef(small.ravel(), expected.images[position].ravel())[0, 1] > 0.95


def test_fonts_of_symbols_are_left_out():
    names = {path.name for path in digits.digit_fonts()}
    assert {"DejaVuSans.ttf", "STIXGeneral.ttf", "cmr10.ttf"} <= names
    assert not names & {
        "cmsy10.ttf",
        "cmex10.ttf",
        "STIXNonUni.ttf",
        "STIXSizOneSymReg.ttf",
        "LastResortHE-Regular.ttf",
    }


def test_typeset_splits_share_no_typeface():
    faces = {
        split: {sample.origin.rsplit(" ", 1)[0] for sample in samples}
        for split, samples in digits.typeset_samples().items()
    }
    assert len(faces["train"]) >= 10
    assert len(faces["val"]) >= 3
    assert not faces["train"] & faces["val"]


def test_no_picture_occurs_twice_in_typeset(prepared):
    pictures = np.concatenate([arrays(prepared / "typeset" / split)[0] for split in ("train", "val")])
    assert len({picture.tobytes() for picture in pictures}) == 1900


def test_the_sources_differ_but_can_be_carried_over(prepared):
    from sklearn.svm import SVC

    data = {split: arrays(prepared / split) for split in SPLITS}
    score = {}
    for source in ("handwritten", "typeset"):
        images, labels = data[f"{source}/train"]
        model = SVC().fit(images.reshape(len(images), -1) / 255, labels)
        for target in ("handwritten", "typeset"):
            images, labels = data[f"{target}/val"]
            score[source, target] = model.score(images.reshape(len(images), -1) / 255, labels)
    for source, target in (("handwritten", "typeset"), ("typeset", "handwritten")):
        assert score[source, source] > 0.9
        assert 0.3 < score[source, target] < score[source, source] - 0.1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_another_process(prepared, tmp_path):
    command = [sys.executable, digits.__file__, "--out", tmp_path, "--noise", "0.4"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for split, count in SPLITS.items():
        assert f"{split.partition('/')[2]}: {count:,} of {count:,} samples" in run.stderr
        assert f"wrote {count:,} samples" in run.stdout
        assert load_manifest(tmp_path / split).digest == load_manifest(prepared / split).digest
    assert "\r" not in run.stderr


def test_digits_drawn_by_other_versions_are_not_taken_for_the_same(tmp_path, capsys, monkeypatch):
    from importlib import metadata

    for name, packages in {"handwritten": ("pillow", "scikit-learn"), "typeset": ("pillow", "matplotlib")}.items():
        assert digits._versions(name) == {package: metadata.version(package) for package in packages}
    few = {"val": digits.handwritten_samples()["val"][:40]}
    monkeypatch.setattr(digits, "typeset_samples", dict)
    monkeypatch.setattr(digits, "handwritten_samples", lambda: few)
    assert digits.main(["--out", str(tmp_path)]) == 0
    source = load_manifest(tmp_path / "handwritten" / "val").source
    assert source["versions"] == digits._versions("handwritten")
    monkeypatch.setattr(digits, "_versions", lambda variant: {"pillow": "9.0.0", "scikit-learn": "1.0"})
    assert digits.main(["--out", str(tmp_path)]) == 1
    assert "made with other versions.pillow, versions.scikit-learn: remove it" in capsys.readouterr().err


def test_a_class_map_makes_even_and_odd(tmp_path, capsys, monkeypatch):
    # the first 40 digits: three times 0 to 9, then 0 9 5 5 6 5 0 9 8 9: 15 + 4 even, 15 + 6 odd, of which three are 1
    few = {"train": digits.handwritten_samples()["train"][:40]}
    monkeypatch.setattr(digits, "typeset_samples", dict)
    monkeypatch.setattr(digits, "handwritten_samples", lambda: few)
    table = tmp_path / "parity.csv"
    rows = [f"{digit},{'odd' if digit % 2 else 'even'}" for digit in range(10) if digit != 1]
    table.write_text("\n".join(["# version: 3", "source,target", *rows]) + "\n")
    options = ["--out", str(tmp_path / "out"), "--class-map", str(table), "--workers", "1"]
    assert digits.main([*options, "--noise", "0.5"]) == 0
    manifest = load_manifest(tmp_path / "out" / "handwritten" / "train")
    assert manifest.classes == ("even", "odd")
    assert (manifest.source["class_map"]["file"], manifest.source["class_map"]["version"]) == ("parity.csv", "3")
    labels = manifest.load_index().labels
    assert np.bincount(labels["clean"]).tolist() == [19, 18]
    assert set(labels["given"].tolist()) == {0, 1} and (labels["given"] != labels["clean"]).any()
    for content, message in (
        ("11,x", "maps '11', no digit: use 0 to 9"),
        ("1,x\n2,x", "one class has no other to flip to"),
    ):
        table.write_text(f"source,target\n{content}\n")
        assert digits.main([*options, "--noise", "0.5"]) == 1
        assert message in capsys.readouterr().err


def test_wrong_rates_and_options_end_with_their_codes(tmp_path, capsys):
    assert digits.main(["--out", str(tmp_path), "--noise", "1.5"]) == 1
    assert capsys.readouterr().err.endswith("error: --noise 1.5 is not a rate: use 0 to 1\n")
    for wrong in (["--noise-kind", "odd"], ["--seed", "-1"], []):
        with pytest.raises(SystemExit) as exit_:
            digits.main([*(["--out", str(tmp_path)] if wrong else []), *wrong])
        assert exit_.value.code == 2
