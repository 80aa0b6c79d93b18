import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_scripts import webvision
from en_bench.data.manifest import load_manifest
from tests.scripts.calling import Run, preparer
from tests.scripts.raw import (
    REPO,
    classes_of,
    fit_and_validate,
    jpeg,
    png,
    run_script,
    samples_of,
    skipped_of,
    tar_bytes,
    write_tree,
)
from tests.scripts.webvision_archives import (
    ALLIGATOR,
    GOLDFISH,
    IDS,
    MINI_TRAIN,
    MINI_VAL,
    SKIPPED,
    TENCH,
    TISSUE,
    TRAIN,
    VAL,
    as_folder,
    as_tars,
    below,
    flickr_files,
    google_files,
    info_files,
    manifest_fields,
    synsets,
    val_files,
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return preparer(webvision, capsys)


def test_the_published_tars_become_splits(tmp_path: Path) -> None:
    raw, out = as_tars(tmp_path / "raw"), tmp_path / "out"
    made = run_script("webvision.py", "--raw", raw, "--out", out, "--workers", 1)
    assert made.returncode == 0, made.stderr
    train, val = load_manifest(out / "train"), load_manifest(out / "val")
    assert (train.count, train.skipped, val.count, val.skipped) == (10, 3, 5, 1)
    assert train.classes == val.classes == IDS
    assert (train.dataset, train.columns) == ("webvision", ("given",))
    assert classes_of(out / "train") == TRAIN
    assert classes_of(out / "val") == VAL
    labels = {key: columns["given"] for key, (columns, _) in samples_of(out / "train").items()}
    assert [labels[key] for key in ("google/q0002/a", "google/q0003/cmyk", "google/q0004/v1_2")] == [0, 1, 2]
    assert [labels[f"flickr/{key}"] for key in ("q0005/b", "q0006/last")] == [50, 999]
    skipped = skipped_of(out / "train")
    assert skipped.pop("google/q0004/cut.jpg")
    assert skipped == SKIPPED
    assert skipped_of(out / "val") == {"val000006.jpg": "listed in val_filelist.txt, not among the images"}
    assert (
        "train: resized images of google and flickr; 1 images of train_filelist_google.txt are not there" in made.stdout
    )
    assert (
        "1 google images that train_filelist_google.txt does not name (first: 'google/q0003/stray.jpg')" in made.stdout
    )
    assert f"{out}: 15 samples in 2 splits, 1,000 classes, skipped 4" in made.stdout


def test_images_keep_their_bytes_or_become_plain(tmp_path: Path, run: Run) -> None:
    raw, out = as_tars(tmp_path / "raw"), tmp_path / "out"
    assert run(raw, out)[0] == 0
    held = {key: content for key, (_, content) in samples_of(out / "train").items()}
    assert held["google/q0001/a"] == jpeg(1)
    assert held["google/q0002/a"] == jpeg(3)
    assert held["flickr/q0001/a"] == jpeg(20)
    assert held["google/q0001/really_png"] == png(2)
    assert held["google/q0004/v1_2"] == jpeg(8, mode="L")
    opened = {key: Image.open(io.BytesIO(content)) for key, content in held.items()}
    assert (opened["google/q0003/cmyk"].mode, opened["google/q0003/cmyk"].size) == ("RGB", (40, 36))
    assert opened["google/q0003/turned"].size == (44, 60)


def test_provenance_says_which_images_they_are(tmp_path: Path, run: Run) -> None:
    raw, out = as_tars(tmp_path / "raw"), tmp_path / "out"
    assert run(raw, out, "--sources", "google")[0] == 0
    train, val = (load_manifest(out / split) for split in ("train", "val"))
    lists = train.source["lists"]
    assert {name: train.source[name] for name in train.source if name not in ("lists", "limit")} == {
        "script": "webvision.py",
        "raw": "raw",
        "version": "1.0",
        "variant": "resized",
        "resolution": "shorter side 256 px",
        "sources": ["google"],
        "mini": False,
        "class_map": None,
    }
    assert set(lists) == {"synsets.txt", "queries_synsets_map.txt", "train_filelist_google.txt"}
    assert set(val.source["lists"]) == {"synsets.txt", "val_filelist.txt"}
    assert (train.count, val.count) == (7, 5)
    assert str(tmp_path) not in (out / "train" / "manifest.json").read_text()


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "extracted in one place": as_folder,
    "extracted beside the tars": lambda root: as_folder(as_tars(root)),
    "each tar in a folder of its name": lambda root: write_tree(
        root,
        {
            **below("lists", info_files()),
            **below("google_resized_256", google_files()),
            **below("train/flickr_resized_256", flickr_files()),
            **{f"val/{IDS[int(n[-8]) % 2]}/{Path(n).name}": content for n, content in val_files().items()},
        },
    ),
    "tars without the folder google": lambda root: as_tars(
        root, google_resized_256={name.removeprefix("google/"): content for name, content in google_files().items()}
    ),
    "one tar of all": lambda root: Path(
        write_tree(
            root,
            {"all.tar": tar_bytes({**info_files(), **google_files(), **flickr_files(), **val_files("webvision/val")})},
        )
        / "all.tar"
    ),
}


@pytest.fixture(scope="module")
def from_tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("webvision")
    arguments = ["--raw", as_tars(root / "raw"), "--out", root / "out", "--workers", 1]
    assert webvision.main([str(argument) for argument in arguments]) == 0
    return root / "out"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_manifest_of_the_tars(tmp_path: Path, run: Run, from_tars: Path, layout: str) -> None:
    code, said, err = run(LAYOUTS[layout](tmp_path / "raw"), tmp_path / "out")
    assert code == 0, err
    for split in ("train", "val"):
        assert manifest_fields(tmp_path / "out" / split) == manifest_fields(from_tars / split)
    assert ("10 google images are there more than once" in said) == (layout == "extracted beside the tars")


@pytest.mark.slow
def test_two_workers_write_the_same(tmp_path: Path, run: Run) -> None:
    raw = as_tars(tmp_path / "raw")
    for workers in (1, 2):
        assert run(raw, tmp_path / str(workers), "--workers", workers, "--shards", 2)[0] == 0
    for split in ("train", "val"):
        first, second = (tmp_path / name / split for name in ("1", "2"))
        assert len(load_manifest(first).shards) == 2
        assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


def test_mini_is_google_and_the_first_fifty_classes(tmp_path: Path, run: Run) -> None:
    raw, out = as_tars(tmp_path / "raw", flickr_resized_256=None), tmp_path / "out"
    code, said, err = run(raw, out, "--mini")
    assert code == 0, err
    train, val = load_manifest(out / "train"), load_manifest(out / "val")
    assert train.classes == val.classes == IDS[:50]
    assert (train.classes[49], IDS[50]) == ("n01697457", ALLIGATOR)
    assert (train.count, train.skipped, val.count, val.skipped) == (6, 3, 3, 1)
    assert (classes_of(out / "train"), classes_of(out / "val")) == (MINI_TRAIN, MINI_VAL)
    assert (train.dataset, train.source["mini"], train.source["sources"]) == ("webvision_mini", True, ["google"])
    assert train.source["class_map"]["file"] == "webvision_mini.csv"
    assert "1 images of train_filelist_google.txt left out with their classes" in said
    assert "2 images of val_filelist.txt left out with their classes" in said


def test_a_class_map_keeps_and_joins(tmp_path: Path, run: Run) -> None:
    table = tmp_path / "map.csv"
    table.write_text(f"source,target\n{TENCH},fish\n{GOLDFISH},fish\n{TISSUE},paper\n")
    out = tmp_path / "out"
    assert run(as_tars(tmp_path / "raw"), out, "--class-map", table)[0] == 0
    train = load_manifest(out / "train")
    assert (train.classes, train.count, train.dataset) == (("fish", "paper"), 7, "webvision")
    assert classes_of(out / "val") == {"val000001": "fish", "val000002": "fish", "val000005": "paper"}


def test_labels_go_by_wordnet_id_not_by_line(tmp_path: Path, run: Run) -> None:
    turned_round = synsets(tuple(reversed(IDS)))
    assert run(as_folder(tmp_path / "raw", synsets=turned_round), tmp_path / "out")[0] == 0
    found = classes_of(tmp_path / "out" / "train")
    assert (found["google/q0001/a"], found["google/q0003/cmyk"], found["flickr/q0006/last"]) == (
        IDS[999],
        IDS[998],
        TENCH,
    )
    assert load_manifest(tmp_path / "out" / "train").classes == IDS
    code, _, err = run(tmp_path / "raw", tmp_path / "mini", "--mini")
    assert code == 1
    assert "synsets.txt: its first 50 WordNet ids are not those of webvision_mini.csv" in err


def test_splits_are_made_together_or_one_by_one(tmp_path: Path, run: Run, from_tars: Path) -> None:
    only_val = as_tars(tmp_path / "raw", google_resized_256=None, flickr_resized_256=None)
    assert run(only_val, tmp_path / "out", "--splits", "val")[0] == 0
    assert os.listdir(tmp_path / "out") == ["val"]
    code, said, _ = run(as_tars(tmp_path / "raw"), tmp_path / "out", "--splits", "val,train")
    assert code == 0
    assert said.count("already there") == 1
    assert manifest_fields(tmp_path / "out" / "train") == manifest_fields(from_tars / "train")


def originals() -> dict[str, bytes]:
    """Two tars of Google's originals, larger than the resized ones."""
    names = [name for name in google_files() if name != "google/q0004/gone.jpg"]
    halves = [{name: jpeg(50 + n, (420, 300)) for n, name in enumerate(names) if n % 2 == k} for k in (0, 1)]
    return {f"google_{k}.tar": tar_bytes(half) for k, half in enumerate(halves)}


def test_original_and_resized_images_never_mix(tmp_path: Path, run: Run) -> None:
    raw = write_tree(as_tars(tmp_path / "raw"), originals())
    code, _, err = run(raw, tmp_path / "out")
    assert code == 1
    where = "original google in google_0.tar/google; resized google in google_resized_256.tar/google"
    assert f"original and resized images are there ({where}; resized flickr" in err
    assert "choose with --variant" in err
    assert run(raw, tmp_path / "small", "--variant", "resized")[0] == 0
    assert load_manifest(tmp_path / "small" / "train").count == 10
    code, _, err = run(raw, tmp_path / "out", "--variant", "original")
    assert code == 1
    assert "original images of flickr and val are not there, only original and resized ones" in err
    options = ("--variant", "original", "--splits", "train", "--sources", "google", "--original")
    assert run(raw, tmp_path / "large", *options)[0] == 0
    large = load_manifest(tmp_path / "large" / "train")
    assert (large.count, large.source["variant"], large.source["resolution"]) == (9, "original", "as crawled")
    assert {Image.open(io.BytesIO(file)).size for _, file in samples_of(large.folder).values()} == {(420, 300)}


def test_an_extracted_original_is_known_by_its_size(tmp_path: Path, run: Run) -> None:
    files = {**info_files(), **val_files("val_images", (300, 257))}
    assert run(write_tree(tmp_path / "raw", files), tmp_path / "out", "--splits", "val")[0] == 0
    assert load_manifest(tmp_path / "out" / "val").source["variant"] == "original"
    files = {**info_files(), **val_files("val_images", (300, 256))}
    assert run(write_tree(tmp_path / "raw2", files), tmp_path / "out2", "--splits", "val")[0] == 0
    assert load_manifest(tmp_path / "out2" / "val").source["variant"] == "resized"


def test_the_mini_map_is_the_first_fifty_of_imagenet() -> None:
    rows = (REPO / "data_scripts" / "classes" / "webvision_mini.csv").read_text().splitlines()
    assert rows[1] == "source,target"
    assert rows[2:] == [f"{wnid},{wnid}" for wnid in IDS[:50]]


def test_a_network_trains_and_validates_on_it(tmp_path: Path, run: Run) -> None:
    assert run(as_tars(tmp_path / "raw"), tmp_path / "sets" / "webvision_mini", "--mini")[0] == 0
    val = fit_and_validate(tmp_path / "sets", "webvision_mini/train", "webvision_mini/val", tmp_path / "run")
    assert (val.count, len(val.classes)) == (3, 50)
