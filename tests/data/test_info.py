"""`en-bench data info`: counts made by hand, as text and as JSON."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from en_bench.cli import main
from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import classes_digest, load_manifest
from en_bench.data.places import place, write_file
from en_bench.data.sources import Skipped, Source
from en_bench.data.writer import write_split
from tests.data.damage import make_masked
from tests.scripts.raw import jpeg, png
from tests.test_cli import one_line

# Ten samples of four classes; the last class has none, and the last label of each column is unknown.
GIVEN = [0, 0, 0, 0, 1, 1, 2, 2, 2, -1]
CLEAN = [0, 0, 1, 1, 1, 2, 2, 2, -1, 2]  # of 8 known in both, 0 called 1 never, 1 called 0 twice, 2 called 1 once
CLASSES = ("cat", "dog", "naïve 犬\x1b[31m", "unused")
SKIPPED = [
    Skipped("", "raw/a", "image file is truncated (3 bytes not processed)"),
    Skipped("", "raw/b", "empty file"),
    Skipped("", "raw/c", "image file is truncated (41 bytes not processed)"),
]


def make(folder: object, given: Sequence[int] = GIVEN, clean: Sequence[int] | None = CLEAN, shards: int = 2) -> None:
    labels = {"given": given} if clean is None else {"given": given, "clean": clean}
    samples = [
        Source(
            f"s/{i}",
            {column: values[i] for column, values in labels.items()},
            partial(bytes, png(i, (60, 40)) if i < 3 else jpeg(i, (60, 40), "CMYK" if i == 3 else "RGB")),
            f"raw/{i}",
        )
        for i in range(len(given))
    ]
    encoder = ImageEncoder(short_side=50, quality=80, verify=False)
    write_split(
        folder,
        samples,
        dataset="pets",
        split="train",
        classes=CLASSES,
        encode=encoder,
        image=encoder.describe(),
        source={
            "script": "x.py",
            "class_map": {"file": "map.csv", "sha256": "ab" * 32, "version": None},
            "limit": None,
        },
        noise={"given": {"kind": "human", "file": "n.pt"}} if clean is not None else None,
        seed=7,
        skipped=SKIPPED,
        shards=shards,
    )


@pytest.fixture
def split(tmp_path: Path) -> Path:
    make(tmp_path / "train")
    return tmp_path / "train"


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    return make_masked(tmp_path / "val")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def told(*arguments: object) -> str:
        capsys.readouterr()
        assert main(["data", "info", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return told


def test_scripts_read_everything_as_json(split, run):
    (facts,) = json.loads(run(split, "--json"))
    manifest = load_manifest(split)
    assert (facts["url"], facts["dataset"], facts["split"], facts["samples"]) == (str(split), "pets", "train", 10)
    assert facts["skipped"] == {
        "count": 3,
        "reasons": [
            {"reason": "image file is truncated (N bytes not processed)", "count": 2, "first": "raw/a"},
            {"reason": "empty file", "count": 1, "first": "raw/b"},
        ],
    }
    sizes = [path.stat().st_size for path in split.glob("*.tar")]
    assert facts["shards"] == {"count": 2, "bytes": sum(sizes), "mean_bytes": sum(sizes) / 2}
    assert facts["classes"] == {"count": 4, "names": list(CLASSES), "sha256": classes_digest(CLASSES)}
    assert facts["columns"] == {
        "given": {
            "known": 9,
            "classes_present": 3,
            "per_class": {"min": 2, "median": 3.0, "max": 4},
            "counts": [4, 2, 3, 0],
            "noise": {
                "kind": "human",
                "file": "n.pt",
                "against": "clean",
                "known": 8,
                "differ": 3,
                "realised": 3 / 8,
                "confusions": [
                    {"clean": "dog", "label": "cat", "count": 2},
                    {"clean": CLASSES[2], "label": "dog", "count": 1},
                ],
            },
        },
        "clean": {
            "known": 9,
            "classes_present": 3,
            "per_class": {"min": 2, "median": 3.0, "max": 4},
            "counts": [2, 3, 4, 0],
        },
    }
    images = facts["images"]
    assert (images["kept"], images["reencoded"], images["short_side"], images["quality"]) == (9, 1, 50, 80)
    assert images["verified"] is False
    assert images["bytes"] == int(manifest.load_index().size.sum())
    assert (facts["masks"], facts["seed"], facts["digest"]) == (None, 7, manifest.digest)
    assert facts["source"] == dict(manifest.source)


def test_people_read_aligned_lines(split, run):
    manifest = load_manifest(split)
    size = sum(shard.bytes for shard in manifest.shards) / 1e3
    mean = int(manifest.load_index().size.sum()) / 10 / 1e3
    assert run(split).splitlines() == [
        str(split),
        "  data set      pets, split train",
        "  samples       10",
        "  skipped       3",
        "                2  image file is truncated (N bytes not processed): raw/a",
        "                1  empty file: raw/b",
        f"  shards        2, {size:.1f} kB, {round(size * 500) / 1e3:.1f} kB on average",
        "  classes       4: cat, dog, naïve 犬\\x1b[31m, unused",
        f"                sha256 of their names {classes_digest(CLASSES)[:12]}…",
        "  label given   9 of 10 known; 3 of 4 classes, 2 to 4 each, median 3",
        "                37.50 % differ from clean (3 of 8); made: kind human, file n.pt",
        "                most often dog called cat (2), naïve 犬\\x1b[31m called dog (1)",
        "  label clean   9 of 10 known; 3 of 4 classes, 2 to 4 each, median 3",
        f"  images        9 as they were, 1 encoded again; {mean:.1f} kB on average",
        "                encoded as JPEG of quality 80; short side at most 50 px; kept ones not decoded (--no-verify)",
        "  source        script            x.py",
        "                class_map.file    map.csv",
        f"                class_map.sha256  {'ab' * 32}",
        "  seed          7 (of the order in the shards)",
        f"  digest        {manifest.digest}",
    ]


def test_all_classes_are_listed_when_asked(split, run):
    lines = [re.sub(" +", " ", line) for line in run(split, "--classes").splitlines()[-5:]]
    assert lines == [" class given clean", " 0 cat 4 2", " 1 dog 2 3", " 2 naïve 犬\\x1b[31m 3 4", " 3 unused 0 0"]


def test_unknown_labels_and_balanced_classes(tmp_path, run):
    make(tmp_path / "a", [-1, -1], [-1, -1])
    text = run(tmp_path / "a")
    assert "  label given   0 of 2 known\n                no sample whose clean label is known too\n" in text
    make(tmp_path / "b", [0, 1, 2, 3], None, shards=1)
    text = run(tmp_path / "b")
    assert "  label given   all known; all 4 classes, 1 each\n  images" in text
    assert "differ from clean" not in text
    assert json.loads(run(tmp_path, "--json"))[0]["columns"]["given"]["per_class"] is None


def test_the_three_most_frequent_confusions_are_told(tmp_path, run):
    # dog called cat once; cat called unused three times, unused called dog twice, cat called dog twice.
    clean, given = [1, 0, 0, 0, 3, 3, 0, 0, 2], [0, 3, 3, 3, 1, 1, 1, 1, 2]
    make(tmp_path / "train", given, clean)
    told = "most often cat called unused (3), cat called dog (2), unused called dog (2)\n"
    assert told in run(tmp_path / "train")
    assert "88.89 % differ from clean (8 of 9)" in run(tmp_path / "train")


def test_masks_have_their_ignore_index(masked, run):
    (facts,) = json.loads(run(masked, "--json"))
    assert (facts["masks"], facts["columns"]) == ({"ignore_index": 255}, {})
    text = run(masked, "--classes")
    assert "  masks         a class number per pixel, 255 where none is asked\n" in text
    assert "  source        not stated\n" in text


def test_several_splits_and_urls(split, run):
    make(split.parent / "val")
    told = json.loads(run(split.parent, "--json"))
    assert [Path(facts["url"]).name for facts in told] == ["train", "val"]
    for path in split.iterdir():
        write_file(place(f"memory://info/set/train/{path.name}"), path.read_bytes())
    at_url = run("memory://info/set")
    assert at_url.splitlines()[0] == "memory://info/set/train"
    assert at_url.splitlines()[1:] == run(split).splitlines()[1:]


def test_damage_ends_in_one_line(split, capsys):
    (split / "skipped.csv").write_bytes(b"\xff")
    assert main(["data", "info", str(split)]) == 1
    assert "skipped.csv: not a CSV in UTF-8" in one_line(capsys)
    (split / "index.npz").unlink()
    assert main(["data", "info", str(split)]) == 1
    assert "index.npz: No such file or directory: copy or prepare the split again" in one_line(capsys)
    assert main(["data", "info", str(split / "absent")]) == 1
    assert "absent: no such folder: prepare the data set" in one_line(capsys)
