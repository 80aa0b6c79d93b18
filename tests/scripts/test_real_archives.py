"""What lies below EN_BENCH_DATA, prepared for real and verified: the counts of benchmarks/results/prepared.md."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from data_scripts import camvid, cifar, imagefolder, tiny_imagenet
from en_bench.cli import main
from en_bench.data.manifest import load_manifest

CLASSES = Path(__file__).resolve().parents[2] / "data_scripts" / "classes"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("EN_BENCH_DATA" not in os.environ, reason="EN_BENCH_DATA does not say where the archives lie"),
]


@pytest.fixture
def archives() -> Path:
    return Path(os.environ["EN_BENCH_DATA"])


def prepared(out: Path) -> dict[str, tuple[int, int, int]]:
    """Per split the samples, those skipped, and the images encoded again, once `data verify` finds no fault."""
    assert main(["data", "verify", str(out), "--workers", "2"]) == 0
    manifests = [load_manifest(path.parent) for path in sorted(out.glob("*/manifest.json"))]
    return {m.split: (m.count, m.skipped, m.image["reencoded"]) for m in manifests}


def test_cifar10_with_its_human_labels(tmp_path, archives):
    options = ["--raw", archives / "cifar10_jpeg.tar.xz", "--noisy", archives / "CIFAR-10_human.pt", "--workers", 2]
    assert cifar.main([str(o) for o in (*options, "--out", tmp_path)]) == 0
    assert prepared(tmp_path) == {"train": (50_000, 0, 0), "val": (10_000, 0, 0)}


def test_seven_classes_of_cifar10_and_of_tiny_imagenet(tmp_path, archives):
    options = ["--raw", archives / "cifar10_jpeg.tar.xz", "--noisy", archives / "CIFAR-10_human.pt", "--workers", 2]
    mapped = ["--class-map", CLASSES / "cifar7.csv", "--out", tmp_path / "cifar7"]
    assert cifar.main([str(o) for o in (*options, *mapped)]) == 0
    assert prepared(tmp_path / "cifar7") == {"train": (35_000, 0, 0), "val": (7_000, 0, 0)}
    train = load_manifest(tmp_path / "cifar7/train")
    dropped = {"aggre": 654, "random1": 1_502, "random2": 1_617, "random3": 1_567, "worst": 3_732}
    assert train.source["dropped"] == dropped
    rates = {"aggre": 7.27, "random1": 13.83, "random2": 14.47, "random3": 13.94, "worst": 34.13}
    assert {column: round(100 * what["realised"], 2) for column, what in train.noise.items()} == rates
    options = ["--raw", archives / "tinyimagenet_cifar7.tar.xz", "--dataset", "tiny7", "--short-side", 32]
    mapped = ["--class-map", CLASSES / "tiny_cifar7.csv", "--out", tmp_path / "tiny7"]
    assert tiny_imagenet.main([str(o) for o in (*options, *mapped)]) == 0
    assert prepared(tmp_path / "tiny7") == {"train": (11_000, 0, 11_000), "val": (1_100, 0, 1_100)}
    assert load_manifest(tmp_path / "tiny7/train").classes == load_manifest(tmp_path / "cifar7/train").classes


def test_camvid(tmp_path, archives):
    assert camvid.main(["--raw", str(archives / "camvid_jpeg.tar"), "--out", str(tmp_path), "--workers", "2"]) == 0
    assert prepared(tmp_path) == {"train": (367, 0, 0), "val": (101, 0, 0), "test": (233, 0, 0)}


def test_a_sample_of_imagenet(tmp_path, archives):
    with tarfile.open(archives / "imagenet_sample_250.tar") as tar:
        names = [member.name for member in tar if member.isreg()]
    (tmp_path / "sample.csv").write_text("path,class\n" + "".join(f"{n},{n.partition('_')[0]}\n" for n in names))
    options = ["--raw", archives / "imagenet_sample_250.tar", "--dataset", "imagenet_sample", "--split", "val"]
    listed = ["--csv", tmp_path / "sample.csv", "--class-list", CLASSES / "imagenet1k.csv", "--out", tmp_path / "out"]
    assert imagefolder.main([str(o) for o in (*options, *listed)]) == 0
    assert prepared(tmp_path / "out") == {"val": (250, 0, 130)}
    assert len(load_manifest(tmp_path / "out/val").classes) == 1_000
