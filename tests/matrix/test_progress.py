import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from en_bench.matrix.progress import Progress, progress_path, read_progress, remove_progress, write_progress

HALF_WAY = Progress("fit", "validate", 3, 10, 42, 120, 812.5, {"top1": 0.5, "nll": None}, 33.0, "here", 7, 1.7e9)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    assert not write_progress(tmp_path / "run", HALF_WAY)  # whose training it is, it has a folder
    (tmp_path / "run").mkdir()
    assert write_progress(tmp_path / "run", HALF_WAY)
    assert read_progress(tmp_path / "run") == HALF_WAY
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["progress.json"]
    remove_progress(tmp_path / "run")
    remove_progress(tmp_path / "run")
    assert read_progress(tmp_path / "run") is None


@pytest.mark.parametrize(
    "change",
    [
        {"step": "42"},
        {"step": None},
        {"step": True},
        {"epoch": 1.5},
        {"scores": None},
        {"scores": {"top1": "good"}},
        {"seconds_left": [1]},
        {"time": None},
        {"host": 3},
    ],
)
def test_what_is_broken_is_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    progress_path(tmp_path).write_text(json.dumps({**asdict(HALF_WAY), **change}))
    assert read_progress(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"step": 1}', "\x00", '{"time": NaN}'])
def test_what_is_no_such_file_is_nothing(tmp_path: Path, text: str) -> None:
    progress_path(tmp_path).write_text(text)
    assert read_progress(tmp_path) is None


def test_a_folder_in_its_place_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "progress.json" / "inside").mkdir(parents=True)
    assert not write_progress(tmp_path, HALF_WAY)
    assert read_progress(tmp_path) is None
    remove_progress(tmp_path)


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    write_progress(tmp_path, HALF_WAY)
    (tmp_path / ".progress.json.new").symlink_to("/dev/full")
    assert not write_progress(tmp_path, HALF_WAY)
    assert read_progress(tmp_path) == HALF_WAY


def test_reading_imports_no_torch() -> None:
    code = "import sys, en_bench.matrix.progress; sys.exit(any(name in sys.modules for name in ('torch', 'lightning')))"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
