import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from data_scripts import webvision
from data_scripts.layouts.wordnet import imagenet_classes
from en_bench.data.manifest import load_manifest
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
    truncated_jpeg,
    turned_jpeg,
    write_tree,
)

Run = Callable[..., tuple[int, str, str]]
IDS = imagenet_classes()
TENCH, GOLDFISH, WHITE_SHARK, ALLIGATOR, TISSUE = "n01440764", "n01443537", "n01484850", "n01698640", "n15075141"

# Queries 1 and 2 are of synset 1, as "tench" and "Tinca tinca" would be; synsets 51 and 1000 are no mini classes.
QUERIES = "1 1\n2 1\n3 2\n4 3\n5 51\n6 1000\n"
GOOGLE_LIST = """google/q0001/a.jpg 0
google/q0001/really_png.jpg 0
google/q0002/a.jpg 0
google/q0003/cmyk.jpg 1
google/q0003/turned.jpg 1
google/q0004/empty.jpg 2
google/q0004/cut.jpg 2
google/q0004/v1.2.jpg 2
google/q0004/gone.jpg 2
google/q0005/out.jpg 50
"""
FLICKR_LIST = "flickr/q0001/a.jpg 0\nflickr/q0005/b.jpg 50\nflickr/q0006/last.jpg 999\n"
VAL_LIST = "".join(f"val{n:06d}.jpg {label}\n" for n, label in enumerate([0, 1, 2, 50, 999, 0], start=1))

TRAIN = {
    "google/q0001/a": TENCH,
    "google/q0001/really_png": TENCH,
    "google/q0002/a": TENCH,
    "google/q0003/cmyk": GOLDFISH,
    "google/q0003/turned": GOLDFISH,
    "google/q0004/v1_2": WHITE_SHARK,
    "google/q0005/out": ALLIGATOR,
    "flickr/q0001/a": TENCH,
    "flickr/q0005/b": ALLIGATOR,
    "flickr/q0006/last": TISSUE,
}
VAL = {
    "val000001": TENCH,
    "val000002": GOLDFISH,
    "val000003": WHITE_SHARK,
    "val000004": ALLIGATOR,
    "val000005": TISSUE,
}
MINI_TRAIN = {key: name for key, name in TRAIN.items() if key.startswith("google") and name != ALLIGATOR}  # 6
MINI_VAL = {key: VAL[key] for key in ("val000001", "val000002", "val000003")}
SKIPPED = {
    "google/q0004/empty.jpg": "empty file",
    "google/q0004/gone.jpg": "listed in train_filelist_google.txt, not among the images",
}


def synsets(ids: tuple[str, ...] = IDS) -> str:
    return "".join(f"{wnid} a name, another name\n" for wnid in ids)


def info_files() -> dict[str, bytes]:
    return {
        "info/synsets.txt": synsets().encode(),
        "info/queries_synsets_map.txt": QUERIES.encode(),
        "info/queries_google.txt": b"1 tench\n2 Tinca tinca\n3 goldfish\n4 white shark\n5 alligator\n6 tissue\n",
        "info/train_filelist_google.txt": GOOGLE_LIST.encode(),
        "info/train_filelist_flickr.txt": FLICKR_LIST.encode(),
        "info/val_filelist.txt": VAL_LIST.encode(),
        "info/test_filelist.txt": b"test000001.jpg\n",
    }


def google_files() -> dict[str, bytes]:
    return {
        "google/q0001/a.jpg": jpeg(1),
        "google/q0001/really_png.jpg": png(2),
        "google/q0002/a.jpg": jpeg(3),
        "google/q0003/cmyk.jpg": jpeg(4, mode="CMYK"),
        "google/q0003/turned.jpg": turned_jpeg(5, (60, 44)),
        "google/q0003/stray.jpg": jpeg(6),
        "google/q0004/empty.jpg": b"",
        "google/q0004/cut.jpg": truncated_jpeg(7),
        "google/q0004/v1.2.jpg": jpeg(8, mode="L"),
        "google/q0005/out.jpg": jpeg(9),
    }


def flickr_files() -> dict[str, bytes]:
    names = [line.partition(" ")[0] for line in FLICKR_LIST.splitlines()]
    return {name: jpeg(20 + number) for number, name in enumerate(names)}


def val_files(folder: str = "val_images_256", size: tuple[int, int] = (40, 36)) -> dict[str, bytes]:
    return {f"{folder}/val{n:06d}.jpg": jpeg(30 + n, size) for n in range(1, 6)}


def as_tars(folder: Path, **changed: Mapping[str, bytes] | None) -> Path:
    """The four tars of the resized set. `changed` replaces the content of one, None leaves it out."""
    contents: dict[str, Mapping[str, bytes] | None] = {
        "info": info_files(),
        "google_resized_256": google_files(),
        "flickr_resized_256": flickr_files(),
        "val_images_256": val_files(),
        **changed,
    }
    return write_tree(folder, {f"{name}.tar": tar_bytes(files) for name, files in contents.items() if files})


def as_folder(folder: Path, **info: str) -> Path:
    """The tars extracted in one place, where no name tells that Google's and Flickr's images are resized."""
    lists = {f"info/{name}.txt": content.encode() for name, content in info.items()}
    return write_tree(folder, {**info_files(), **google_files(), **flickr_files(), **val_files(), **lists})


def below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(raw: Path, out: Path, *options: object) -> tuple[int, str, str]:
        workers = () if "--workers" in options else ("--workers", 1)
        code = webvision.main([str(argument) for argument in ("--raw", raw, "--out", out, *workers, *options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def manifest_fields(folder: Path) -> dict[str, object]:
    """A manifest without the name of what was read."""
    fields = json.loads((folder / "manifest.json").read_text())
    assert fields["source"].pop("raw")
    return fields


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


def test_hostile_members_are_listed_and_never_read(tmp_path: Path, run: Run) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg(77))
    files = google_files()
    del files["google/q0001/a.jpg"], files["google/q0005/out.jpg"]
    raw = as_tars(tmp_path / "raw", google_resized_256={**files, "../google/q0005/out.jpg": jpeg(1)})
    with tarfile.open(raw / "google_resized_256.tar", "a") as tar:
        link = tarfile.TarInfo("google/q0001/a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.jpg")
        tar.addfile(link)
        again = tarfile.TarInfo("google/q0002/a.jpg")
        again.size = len(jpeg(78))
        tar.addfile(again, io.BytesIO(jpeg(78)))
    assert run(raw, tmp_path / "out", "--sources", "google")[0] == 0
    skipped = skipped_of(tmp_path / "out" / "train")
    assert skipped["google/q0001/a.jpg"] == "is a link or no regular file"
    assert skipped["google/q0005/out.jpg"] == "leads outside the archive"
    assert skipped["google/q0002/a.jpg"] == "a later member of the archive has the same name"
    held = samples_of(tmp_path / "out" / "train")
    assert set(held) == set(MINI_TRAIN) - {"google/q0001/a"}
    assert held["google/q0002/a"][1] == jpeg(78)


def test_what_is_listed_twice_is_used_once(tmp_path: Path, run: Run) -> None:
    raw = as_folder(tmp_path / "raw", val_filelist=VAL_LIST + "val000002.jpg 7\r\n\n")
    assert run(raw, tmp_path / "out", "--splits", "val")[0] == 0
    assert classes_of(tmp_path / "out" / "val") == VAL
    skipped = skipped_of(tmp_path / "out" / "val")
    assert skipped["val000002.jpg"] == "listed again in line 7 of val_filelist.txt, as label 7"


@pytest.mark.parametrize(
    ("info", "options", "message"),
    [
        (
            {"train_filelist_google": GOOGLE_LIST.replace("cmyk.jpg 1", "cmyk.jpg 2")},
            (),
            "train_filelist_google.txt: line 4: 'google/q0003/cmyk.jpg' has label 2 (n01484850), but "
            "queries_synsets_map.txt gives 1 (n01443537) to q0003",
        ),
        ({"queries_synsets_map": "1 1\n"}, (), "line 3: 'google/q0002/a.jpg' has label 0 (n01440764), but"),
        ({"queries_synsets_map": "1 n01440764\n"}, (), "queries_synsets_map.txt: line 1 is '1 n01440764', not"),
        ({"queries_synsets_map": QUERIES + "7 1001"}, (), "line 7: there is no synset 1001: it is of WebVision 2.0"),
        ({"train_filelist_flickr": GOOGLE_LIST}, (), "names 'google/q0001/a.jpg', which is not flickr/q0001/NAME.jpg"),
        ({"train_filelist_google": "google/q00001/a.jpg 0"}, (), "query folder 'q00001' is of WebVision 2.0"),
        ({"train_filelist_google": "google/q0001/a.jpg"}, (), "line 1 is 'google/q0001/a.jpg', not `PATH LABEL`"),
        ({"val_filelist": f"val000001.jpg {'9' * 5000}"}, (), "val_filelist.txt: line 1 is 'val000001.jpg 999"),
        ({"val_filelist": "val000001.jpg 1000"}, (), "label 1000 is not in 0 .. 999: it is of WebVision 2.0"),
        ({"val_filelist": "\n"}, (), "val_filelist.txt: line 1 is '', not `PATH LABEL`"),
        ({"synsets": synsets(IDS * 5)}, (), "synsets.txt: 5,000 classes, not 1,000: it is of WebVision 2.0"),
        (
            {"synsets": synsets(IDS[1:])},
            (),
            "its 999 WordNet ids are not ImageNet's 1,000 (1 missing, first n01440764)",
        ),
        ({"synsets": synsets((*IDS[1:], "n00000001"))}, (), "1 not of ImageNet, first n00000001"),
        ({"old/synsets": "n01440764 tench\n"}, (), "info/old/synsets.txt and info/synsets.txt differ: remove one"),
        ({}, ("--mini", "--sources", "google,flickr"), "--mini holds Google's images only: leave --sources google,fl"),
        ({}, ("--class-map", "map.csv"), "map.csv: source 'n00000001' is none of WebVision's 1,000 WordNet ids"),
        ({}, ("--class-map", "absent.csv"), "absent.csv: neither a file nor one within"),
        ({}, ("--variant", "original"), "original images of google and flickr and val are not there, only resized"),
    ],
)
def test_input_that_cannot_be_used_ends_in_one_line(
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    info: dict[str, str],
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("map.csv").write_text("source,target\nn00000001,a\n")
    code, _, err = run(as_folder(tmp_path / "raw", **info), tmp_path / "out", *options)
    assert code == 1
    assert message in err
    assert ": error: " in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"info": None}, "no synsets.txt: put info.tar, or its folder info, beside the images"),
        (
            {"flickr_resized_256": None},
            "no images of flickr: put flickr_resized_256.tar, or its folder, there, or leave",
        ),
        ({"val_images_256": None}, "no images of val: put val_images_256.tar"),
        ({"google_resized_256": {"google/q00001/a.jpg": b""}}, "query folders of five digits are of WebVision 2.0"),
        ({"info": {"info/synsets.txt": b"\xff\xfe"}}, "info.tar/info/synsets.txt: cannot be read as UTF-8"),
    ],
)
def test_archives_that_do_not_fit_are_named(
    tmp_path: Path, run: Run, changed: dict[str, Mapping[str, bytes] | None], message: str
) -> None:
    code, _, err = run(as_tars(tmp_path / "raw", **changed), tmp_path / "out")
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_cut_tar_ends_in_one_line(tmp_path: Path, run: Run) -> None:
    raw = as_tars(tmp_path / "raw")
    whole = (raw / "val_images_256.tar").read_bytes()
    (raw / "val_images_256.tar").write_bytes(whole[:700])
    code, _, err = run(raw, tmp_path / "out")
    assert code == 1
    assert "val_images_256.tar: not a whole archive" in err
    with pytest.raises(SystemExit, match="2"):
        run(raw, tmp_path / "out", "--sources", "bing")
    with pytest.raises(SystemExit, match="2"):
        run(raw, tmp_path / "out", "--splits", "test")


def test_the_mini_map_is_the_first_fifty_of_imagenet() -> None:
    rows = (REPO / "data_scripts" / "classes" / "webvision_mini.csv").read_text().splitlines()
    assert rows[1] == "source,target"
    assert rows[2:] == [f"{wnid},{wnid}" for wnid in IDS[:50]]


def test_a_network_trains_and_validates_on_it(tmp_path: Path, run: Run) -> None:
    assert run(as_tars(tmp_path / "raw"), tmp_path / "sets" / "webvision_mini", "--mini")[0] == 0
    val = fit_and_validate(tmp_path / "sets", "webvision_mini/train", "webvision_mini/val", tmp_path / "run")
    assert (val.count, len(val.classes)) == (3, 50)
