"""Raw files behind a presigned URL: its signature gets into no manifest and no message."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from en_bench.data.manifest import load_manifest
from tests.scripts.folders import tree
from tests.scripts.pairs import halves
from tests.scripts.raw import REPO, jpeg, mask_png, zip_bytes

SCRIPTS = ["ade20k", "camvid", "cifar", "cityscapes", "imagefolder", "imagenet", "tiny_imagenet", "webvision"]
SIGNATURE = "3f5dSECRET"


@pytest.fixture
def raw_at_url(request: pytest.FixtureRequest) -> Callable[[dict[str, bytes]], str]:
    """Puts files as a zip behind a signed URL, which it returns."""
    bucket = fsspec.filesystem("memory")

    def put(files: dict[str, bytes]) -> str:
        path = f"/signed-{request.node.name.partition('[')[0]}/set.zip?X-Amz-Signature={SIGNATURE}"
        bucket.pipe_file(path, zip_bytes(files))
        request.addfinalizer(lambda: bucket.rm(path))
        return f"memory:/{path}"

    return put


def run(script: str, *arguments: object) -> int:
    module = importlib.import_module(f"data_scripts.{script}")
    return module.main([str(argument) for argument in ("--workers", 1, *arguments)])


def written(folder: Path) -> str:
    """Everything of a prepared split that is text."""
    return "".join(path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".csv"))


FOLDERS = tree() | {"train/cat/bad.jpg": b"junk"}
TABLE = b"path,class,split\ntrain/cat/000.jpg,cat,train\ntrain/cat/gone.jpg,cat,train\n"
PAIRS = {
    "images/training/ADE_train_00000001.jpg": jpeg(1),
    "annotations/training/ADE_train_00000001.png": mask_png(halves(1, 2)),
    "sceneCategories.txt": b"ADE_train_00000001 street\nADE_train_00000002 street\n",
}


@pytest.mark.parametrize(
    ("script", "files", "options"),
    [
        ("imagefolder", FOLDERS, ["--dataset", "toy"]),
        ("imagefolder", FOLDERS | {"t.csv": TABLE}, ["--dataset", "toy", "--csv", "t.csv"]),
        ("ade20k", PAIRS, []),
    ],
)
def test_manifests_name_the_file_without_its_signature(tmp_path, capsys, raw_at_url, script, files, options):
    assert run(script, "--raw", raw_at_url(files), "--out", tmp_path / "out", *options) == 0
    assert load_manifest(tmp_path / "out" / "train").source["raw"] == "set.zip"
    captured = capsys.readouterr()
    assert SIGNATURE not in written(tmp_path / "out" / "train") + captured.out + captured.err


@pytest.mark.parametrize("script", SCRIPTS)
def test_messages_name_the_url_without_its_signature(tmp_path, capsys, raw_at_url, script):
    options = ["--dataset", "toy"] if script == "imagefolder" else []
    assert run(script, "--raw", raw_at_url({"notes.txt": b"none"}), "--out", tmp_path / "out", *options) == 1
    error = capsys.readouterr().err
    assert "memory://signed-" in error and "set.zip: " in error
    assert SIGNATURE not in error


def test_no_script_prints_the_path_of_raw_files_as_it_was_given():
    raw_path = re.compile(r"(shown\()?[\w.]*raw\.path\b")
    lines = [
        f"{path.name}:{number}"
        for path in sorted((REPO / "data_scripts").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for found in raw_path.finditer(line)
        if not found[1]
    ]
    assert lines == []
