import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from data_scripts import webvision
from tests.scripts.calling import Run, preparer
from tests.scripts.raw import (
    classes_of,
    jpeg,
    samples_of,
    skipped_of,
)
from tests.scripts.webvision_archives import (
    GOOGLE_LIST,
    IDS,
    MINI_TRAIN,
    QUERIES,
    VAL,
    VAL_LIST,
    as_folder,
    as_tars,
    google_files,
    synsets,
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return preparer(webvision, capsys)


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
