import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_scripts import cityscapes
from en_bench.data.manifest import load_manifest, to_fields
from tests.scripts import raw
from tests.scripts.calling import Run, caller
from tests.scripts.pairs import HEIGHT, WIDTH, halves, odd_pairs, pairs_of, pixels_of, same_masks, upright

CLASSES = ["road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"]
CLASSES += ["terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
# The official table: the train ids of the label ids 0 to 33.
TRAIN_IDS = [255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12]
TRAIN_IDS += [13, 14, 15, 255, 255, 16, 17, 18]
ODD = [f"{number:06d}" for number in range(9)]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(cityscapes, capsys)


def all_ids() -> np.ndarray:
    """A mask whose column k has label id k, up to 33; then license plate, and road in the rest."""
    columns = [*range(34), 255, 7, 7, 7, 7, 7]
    assert len(columns) == WIDTH
    return np.tile(np.array(columns, dtype=np.uint8), (HEIGHT, 1))


def frame(split: str, city: str, name: str, image: bytes, mask: bytes, suffix: str = "png") -> dict[str, bytes]:
    """The published files of one frame."""
    fine = f"gtFine/{split}/{city}/{name}_gtFine"
    return {
        f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.{suffix}": image,
        f"{fine}_labelIds.png": mask,
        f"{fine}_color.png": raw.png(1),
        f"{fine}_instanceIds.png": raw.png(2),
        f"{fine}_polygons.json": b"{}",
    }


def layout() -> dict[str, bytes]:
    """Both archives: 6 frames of train that can be used, 1 of val, 1 of test with a dummy mask."""
    aachen, ulm = "aachen_000000_000019", "ulm_000000_000019"
    files = {
        **frame("train", "aachen", aachen, raw.png(1), raw.mask_png(all_ids())),
        **frame("train", "ulm", ulm, raw.png(2), raw.mask_png(halves(7, 23))),
        **frame("train", "ulm", aachen, raw.png(3), raw.mask_png(halves(26, 26))),  # a name of another city
        **frame("train", "bremen", "bremen_000001_000019", raw.png(4), raw.mask_png(halves(33, 0)), "JPEG"),
        **frame("train", "bremen", "bremen_000002_000019", raw.jpeg(5, mode="CMYK"), raw.mask_png(halves(8, 1)), "jpg"),
        **frame("train", "bremen", "bremen_000003_000019", raw.turned_jpeg(6), raw.mask_png(upright(11, 255)), "jpg"),
        **frame("train", "bremen", "bremen_000004_000019", raw.png(7), raw.mask_png(halves(7, 34))),
        **frame("val", "munster", "munster_000000_000019", raw.png(8), raw.mask_png(halves(24, 25), palette=True)),
        **frame("test", "berlin", "berlin_000000_000019", raw.png(9), raw.mask_png(halves(3, 3))),
        "leftImg8bit/train_extra/bonn/bonn_000000_000019_leftImg8bit.png": raw.png(10),
        "license.txt": b"terms",
        "README": b"read me",
    }
    odd = odd_pairs("leftImg8bit/train/ulm/o_{}_leftImg8bit.jpg", "gtFine/train/ulm/o_{}_gtFine_labelIds.png", ODD)
    return files | odd


def zips(folder: Path) -> Path:
    """A folder with the two archives as they are downloaded."""
    folder.mkdir()
    for archive, part in (("leftImg8bit_trainvaltest.zip", "leftImg8bit/"), ("gtFine_trainvaltest.zip", "gtFine/")):
        with zipfile.ZipFile(folder / archive, "w") as packed:
            for name, content in layout().items():
                if name.startswith(part) or "/" not in name:
                    packed.writestr(name, content)
    return folder


TRAIN = {
    "aachen/aachen_000000_000019": np.tile(np.array([*TRAIN_IDS, 255, *[0] * 5], dtype=np.uint8), (HEIGHT, 1)),
    "ulm/ulm_000000_000019": halves(0, 10),
    "ulm/aachen_000000_000019": halves(13, 13),
    "bremen/bremen_000001_000019": halves(18, 255),
    "bremen/bremen_000002_000019": halves(1, 255),
    "bremen/bremen_000003_000019": upright(2, 255),
}


def test_the_label_ids_are_the_official_ones():
    class_map, encoder = cityscapes.mask_classes("cityscapes19.csv", cityscapes.IGNORED)
    assert [encoder.table[value] for value in range(34)] == TRAIN_IDS
    assert encoder.table.keys() == {*range(34), 255}
    assert list(class_map.mapping.values()) == CLASSES
    assert len(CLASSES) == encoder.classes == 19


@pytest.mark.parametrize("kind", ["folder", "zips"])
def test_label_ids_become_train_ids_pixel_by_pixel(tmp_path, run, kind):
    source = raw.write_tree(tmp_path / "raw", layout()) if kind == "folder" else zips(tmp_path / "raw")
    code, out, _ = run("--raw", source, "--out", tmp_path / "out")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train", "val"]
    manifest = load_manifest(tmp_path / "out" / "train")
    assert (manifest.count, list(manifest.classes), manifest.dataset) == (6, CLASSES, "cityscapes")
    same_masks(tmp_path / "out" / "train", TRAIN)
    same_masks(tmp_path / "out" / "val", {"munster/munster_000000_000019": halves(11, 12)})
    pixels = pixels_of(tmp_path / "out" / "train")
    # One column of 36 pixels for each of the 19 classes, 5 more of road, 15 ids and the plate ignored, halves of 720.
    assert pixels.pop("road") == 6 * 36 + 720
    assert pixels.pop("ignored") == 16 * 36 - 36 + 36 + 3 * 720
    assert (pixels.pop("sky"), pixels.pop("car"), pixels.pop("bicycle")) == (36 + 720, 36 + 1440, 36 + 720)
    assert (pixels.pop("sidewalk"), pixels.pop("building")) == (36 + 720, 36 + 720)
    assert set(pixels.values()) == {36} and len(pixels) == 13
    images = {key: image for key, (image, _) in pairs_of(tmp_path / "out" / "train").items()}
    assert np.array_equal(images["aachen/aachen_000000_000019"], np.asarray(raw.picture(1)))
    assert np.array_equal(images["ulm/aachen_000000_000019"], np.asarray(raw.picture(3)))
    assert "test: 1 images and 1 masks are not prepared: its labels are withheld and the masks dummies" in out
    assert "train_extra: 1 images and 0 masks are not prepared: it has coarse annotations only" in out
    assert f"passed over {9 * 3 + (2 if kind == 'folder' else 4)} other files" in out


def test_what_is_no_pair_is_listed_with_its_reason(tmp_path, run):
    assert run("--raw", raw.write_tree(tmp_path / "raw", layout()), "--out", tmp_path / "out")[0] == 0
    found = raw.skipped_of(tmp_path / "out" / "train")
    image, mask = "leftImg8bit/train/ulm/o_{}_leftImg8bit.jpg", "gtFine/train/ulm/o_{}_gtFine_labelIds.png"
    assert "truncated" in found.pop(image.format("000001"))
    assert found.pop(image.format("000007")).startswith("mask: ")
    assert found == {
        image.format("000000"): "empty file",
        image.format("000002"): "an image without a mask",
        mask.format("000003"): "a mask without an image",
        image.format("000004"): "mask of (20, 18), image of (40, 36) pixels",
        image.format("000005"): "mask of mode RGB, not an index per pixel",
        image.format("000006"): "mask: empty file",
        image.format("000008"): "mask of (40, 36), image of (36, 40) pixels",
        "leftImg8bit/train/bremen/bremen_000004_000019_leftImg8bit.png": "mask holds the value 34, which no class has",
    }


def test_a_tar_gives_the_manifest_of_its_folder(tmp_path, run):
    archive = tmp_path / "cityscapes.tar"
    archive.write_bytes(raw.tar_bytes(layout()))
    found = []
    for source in (raw.write_tree(tmp_path / "raw", layout()), archive):
        assert run("--raw", source, "--out", tmp_path / f"out_{source.name}", "--short-side", 18)[0] == 0
        folder = tmp_path / f"out_{source.name}" / "train"
        same_masks(folder, {key: mask[1::2, 1::2] for key, mask in TRAIN.items()})
        fields = to_fields(load_manifest(folder))
        assert fields["source"].pop("raw") == source.name
        found.append(fields)
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_processes_read_the_zips_as_one(tmp_path, run):
    folder = zips(tmp_path / "raw")
    common = ("--raw", folder, "--shards", 2)
    assert run(*common, "--out", tmp_path / "one")[0] == 0
    done = raw.run_script("cityscapes.py", *common, "--out", tmp_path / "two", "--workers", 2)
    assert done.returncode == 0, done.stderr
    for split in ("train", "val"):
        one, two = (tmp_path / way / split / "manifest.json" for way in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def only(*starts: str) -> dict[str, bytes]:
    return {name: content for name, content in layout().items() if name.startswith(starts)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (only("leftImg8bit/train/"), "train has 15 images and no masks (gtFine/{train,val}/<city>/*_gtFine_labelIds"),
        (only("leftImg8bit/val/", "gtFine/train/", "leftImg8bit/train"), "val has 1 images and no masks (gtFine/"),
        (only("gtFine/val/"), "val has 1 masks and no images (leftImg8bit/{train,val}/<city>/*_leftImg8bit.png): name"),
        (only("leftImg8bit/test/", "gtFine/test/", "README"), "raw: no leftImg8bit/{train,val}/<city>/*_leftImg8bit"),
        (
            layout() | {f"old/{name}": content for name, content in only("leftImg8bit/val/").items()},
            "holds the set more than once, leftImg8bit/val/munster/munster_000000_000019_leftImg8bit.png and old",
        ),
    ],
)
def test_another_folder_ends_in_one_line(tmp_path, run, monkeypatch, files, message):
    monkeypatch.chdir(tmp_path)
    raw.write_tree(Path("raw"), files)
    code, _, err = run("--raw", "raw", "--out", "out")
    assert code == 1
    assert message in err.splitlines()[-1]
    assert not Path("out").exists()
