"""`en-bench bench prepare`: that it measures what it says, and says what it may. Nobody's speed is tested."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from en_bench.benchmark import prepare_workers
from en_bench.benchmark.prepare_images import material
from en_bench.benchmark.prepare_quality import OURS, PIL
from en_bench.benchmark.prepare_rates import (
    CONTROL,
    ENCODER_KEPT,
    ENCODER_RESIZED,
    PILLOW,
    PROTOTYPE,
    SIMPLEJPEG,
    TAR,
    TAR_SYNC,
    WRITE_COPIED,
    WRITE_KEPT,
    WRITE_RESIZED,
    measure_copy,
    prototype,
)
from en_bench.benchmark.prepare_settings import Settings
from en_bench.benchmark.prepare_writing import ClockedEncoder, seconds_to_write
from en_bench.benchmark.timing import OwnClock, interleaved
from en_bench.cli import main
from en_bench.data.images import ImageEncoder
from tests.scripts.raw import jpeg, png, tar_bytes, truncated_jpeg, turned_jpeg

# Five plain JPEGs and six files that are none.
FILES = {
    "a/1.JPEG": jpeg(1, (90, 60)),
    "a/2.JPEG": jpeg(2, (60, 100)),
    "b/1.JPEG": jpeg(3, (70, 64)),
    "b/2.JPEG": jpeg(4, (64, 64), "L"),
    "b/3.JPEG": jpeg(5, (30, 20)),
    "a/png.JPEG": png(6),
    "a/cmyk.JPEG": jpeg(7, mode="CMYK"),
    "a/turned.JPEG": turned_jpeg(8),
    "a/empty.JPEG": b"",
    "a/truncated.JPEG": truncated_jpeg(9),
    "a/readme.txt": b"words",
}
PLAIN = [content for name, content in FILES.items() if name[2:-5].isdecimal()]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "images.tar"
    path.write_bytes(tar_bytes(FILES))
    return path


def settings(archive: Path, **changes: Any) -> Settings:
    told: dict[str, Any] = {
        "archive": archive,
        "gigabytes": 1e-6 * 4,
        "short_side": 32,
        "quality": 90,
        "workers": (1, 2),
        "repeats": {"rates": 1, "copy": 1, "workers": 1},
        "scratch": archive.parent,
        "quick": True,
    }
    return Settings(**{**told, **changes})


# ---- The command


@pytest.fixture(scope="module")
def measured(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Record and Markdown of one run."""
    folder, threads = tmp_path_factory.mktemp("bench"), torch.get_num_threads()
    files = ("--json", folder / "new" / "prepare.json", "--markdown", folder / "prepare.md", "--scratch", folder)
    flags = ("--quick", "--short-side", 32, "--repeats", 1, "--workers", 1, *files)
    assert main([*map(str, ("bench", "prepare", archive, *flags))]) == 0
    assert torch.get_num_threads() == threads
    assert sorted(path.name for path in folder.iterdir()) == ["new", "prepare.md"]  # nothing of the images stays
    return json.loads((folder / "new" / "prepare.json").read_text()), (folder / "prepare.md").read_text()


def test_the_record_holds_all_that_was_measured_and_where(measured: tuple[dict[str, Any], str]) -> None:
    record, _ = measured
    assert record["complete"] and record["quick"] and record["threads"] == 1
    assert set(record["versions"]) >= {"python", "pillow", "simplejpeg", "torch"}
    images = dict(record["images"])
    copies = images.pop("copies")
    mean = sum(map(len, PLAIN)) / 5
    assert images == {"archive": "images.tar", "distinct": 5, "left_out": 6, "mean_bytes": mean, "parts": 2}
    assert copies % 10 == 0 and copies * mean == pytest.approx(1e5, rel=0.1)
    sections = record["sections"]
    assert list(sections) == ["rates", "copy", "workers", "quality"]
    assert sections["rates"]["images"] * 2 == sections["copy"]["images"] == copies
    assert sections["rates"]["bytes"] * 2 == sections["copy"]["bytes"] == copies * mean
    assert set(sections["rates"]["timings"]) == {
        *(WRITE_KEPT, PILLOW, SIMPLEJPEG, CONTROL, ENCODER_KEPT, WRITE_RESIZED, ENCODER_RESIZED, PROTOTYPE)
    }
    assert set(sections["copy"]["timings"]) == {WRITE_COPIED, TAR, TAR_SYNC}
    assert [case["work"] for case in sections["workers"]["cases"]] == ["kept", "resized"]
    for case in (sections["rates"], sections["copy"], *sections["workers"]["cases"]):
        for timing in case["timings"].values():
            assert timing["n"] == 1 and 0 < timing["lower"] <= timing["median"] <= timing["upper"]
    assert set(sections["workers"]["cases"][0]["timings"]) == {prepare_workers.writing(1), prepare_workers.alone(1)}
    rows = [row for name in ("rates", "copy", "workers") for row in record["summary"][name]]
    assert {row["verdict"] for row in rows} == {"", "none"}


def test_tables_are_made_again_from_the_record_alone(
    measured: tuple[dict[str, Any], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, markdown = measured
    (tmp_path / "old.json").write_text(json.dumps(record))
    again = tmp_path / "again.md"
    assert main(["bench", "prepare", "--from", str(tmp_path / "old.json"), "--markdown", str(again)]) == 0
    assert again.read_text() == markdown
    printed = capsys.readouterr().out
    for text in (PROTOTYPE, TAR, "Several workers", "WebVision", "5th percentile", "no verdicts", "--quick"):
        assert text in printed and text in markdown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no archive was given"),
        (["nowhere.tar"], "nowhere.tar: no such folder or archive"),
        (["pyproject.toml"], "pyproject.toml: not a whole archive"),
        (["docs"], "docs: holds no upright RGB or grey JPEG"),
        (["x.tar", "--gb", "0"], "--gb 0 is no amount"),
        (["x.tar", "--gb", "nan"], "--gb nan is no amount"),
        (["{archive}", "--gb", "1e6"], "GB needed: give another folder with --scratch, or fewer --gb"),
        (["x.tar", "--workers", "2,0"], "--workers 2,0: expected numbers of processes"),
        (["x.tar", "--repeats", "0"], "--repeats 0 is too small"),
        (["x.tar", "--short-side", "0"], "short side 0 px is not a size"),
        (["x.tar", "--quality", "99"], "JPEG quality 99 is not usable"),
        (["x.tar", "--scratch", "pyproject.toml"], "--scratch pyproject.toml is no folder"),
        (["x.tar", "--json", "."], "--json . is a folder"),
        (["x.tar", "--from", "old.json"], "--from measures nothing: leave out x.tar"),
        (["--from", "tests/report/records/01d6ca485e3d110e.json"], "not what `en-bench bench prepare --json`"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    options: list[str],
    words: str,
    archive: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    assert main(["bench", "prepare", "--quick", *(option.format(archive=archive) for option in options)]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert words in line and line.startswith("en-bench: error: ")
    assert printed.out == ""


def test_commands_that_are_missing_are_told_before_anything_is_measured(
    archive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "prepare", str(archive), "--quick"]) == 1
    assert "no command tar and no sha256sum and no sync" in capsys.readouterr().err


# ---- What is measured


def test_the_copies_are_the_plain_jpegs_in_equal_parts_under_different_names(archive: Path) -> None:
    with material(settings(archive, gigabytes=6 * sum(map(len, PLAIN)) / 1e9)) as made:
        assert sorted(made.images) == sorted(PLAIN) and made.left_out == 6
        assert [len(part) for part in made.parts] == [15, 15]
        for part in made.parts:
            assert [sample.load() for sample in part] == list(made.images) * 3
        assert len({sample.key for sample in made.samples}) == 30
        assert made.part_bytes == 3 * sum(map(len, PLAIN))
        with Image.open(io.BytesIO(made.largest())) as image:
            assert min(image.size) == 64
    assert not made.scratch.exists()


def test_of_a_large_archive_a_draw_is_enough(archive: Path) -> None:
    with material(settings(archive, gigabytes=1e-8)) as made:
        assert len(made.images) == 1 and [len(part) for part in made.parts] == [1, 1]


def test_writing_is_timed_from_the_first_image_on(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to start does not count, what it takes to encode does."""

    def encode(self: ImageEncoder, raw: bytes, original: Any = ImageEncoder.__call__) -> Any:
        time.sleep(4 if raw == largest else 0.02)
        return original(self, raw)

    with material(settings(archive)) as made:
        largest = made.largest()
        others = [sample for sample in made.parts[0] if sample.load() != largest]
        monkeypatch.setattr(ImageEncoder, "__call__", encode)
        seconds = seconds_to_write(made, others, ImageEncoder())
        assert 0.02 * len(others) <= seconds < 0.02 * len(others) + 3.9
        assert sorted(path.name for path in made.scratch.iterdir()) == ["files"]


def test_the_first_process_starts_the_clock(tmp_path: Path) -> None:
    for name, text in (("1", "12.5"), ("2", "11.25"), ("3", "13.0")):
        (tmp_path / name).write_text(text)
    assert ClockedEncoder(ImageEncoder(), lambda: b"", str(tmp_path)).first() == 11.25


def test_two_processes_are_timed_over_all_images(archive: Path) -> None:
    """Both note when they start; a clock that this process starts, or none, would make their rate another."""
    with material(settings(archive)) as made:
        start = time.monotonic()
        seconds = seconds_to_write(made, made.samples, ImageEncoder(), workers=2, shards=4)
        assert 0 < seconds < time.monotonic() - start - 0.1  # an interpreter takes more than that to start


@pytest.mark.slow
def test_several_workers_beside_encoders_alone(archive: Path) -> None:
    with material(settings(archive)) as made:
        measured = prepare_workers.measure_workers(settings(archive, workers=(1, 2, 3)), made, lambda text: None)
    assert measured["shards"] == 6  # a multiple of 1, 2 and 3, and not fewer than the two parts
    for case in measured["cases"]:
        assert len(case["timings"]) == 6 and all(timing["median"] > 0 for timing in case["timings"].values())


def test_tar_packs_every_copy(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real copies: links would make the tar small, and its rate a wonder."""
    sizes, unlink = [], Path.unlink

    def seen(self: Path, missing_ok: bool = False) -> None:
        if self.name == "files.tar":
            with tarfile.open(self) as tar:
                sizes.append(sum(member.size for member in tar if member.isreg()))
        unlink(self, missing_ok)

    with material(settings(archive)) as made:
        monkeypatch.setattr(Path, "unlink", seen)
        measured = measure_copy(settings(archive), made, lambda text: None)
        expected = sum(len(sample.load()) for sample in made.samples)
    assert sizes and set(sizes) == {expected} and measured["bytes"] == expected


def test_each_call_tells_its_own_seconds_and_they_take_turns() -> None:
    turns: list[str] = []

    def call(name: str, seconds: float) -> Any:
        return lambda: turns.append(name) or seconds

    timings = interleaved({"a": call("a", 2.0), "b": call("b", 3.0)}, OwnClock(), 4, warm_ups=1)
    assert timings["a"] is not None and (timings["a"]["median"], timings["a"]["n"]) == (2.0, 4)
    assert turns[:2] == ["a", "b"]
    assert [sorted(turns[i : i + 2]) for i in range(2, 10, 2)] == [["a", "b"]] * 4


def test_the_prototype_is_what_one_writes_with_pillow() -> None:
    with Image.open(io.BytesIO(prototype(jpeg(1, (90, 60)), 30, 90))) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (45, 30), "RGB")
    with Image.open(io.BytesIO(prototype(jpeg(1, (20, 30)), 30, 90))) as image:
        assert image.size == (20, 30)


@pytest.mark.slow
@pytest.mark.skipif("EN_BENCH_DATA" not in os.environ, reason="needs imagenet_sample_250.tar below EN_BENCH_DATA")
def test_real_images(tmp_path: Path) -> None:
    """Both ways of resizing real photographs at their size differ from exact arithmetic by rounding alone."""
    out, real = tmp_path / "prepare.json", Path(os.environ["EN_BENCH_DATA"], "imagenet_sample_250.tar")
    assert main(["bench", "prepare", str(real), "--gb", "0.06", "--repeats", "1", "--json", str(out)]) == 0
    made = json.loads(out.read_text())
    assert made["images"]["distinct"] + made["images"]["left_out"] == 250
    (whole,) = (
        case for case in made["sections"]["quality"]["cases"] if (case["short_side"], case["decoded"]) == (352, "whole")
    )
    assert whole["psnr"][OURS]["worst"] > 50 < whole["psnr"][PIL]["worst"]
