"""WebDataset tars as others make them, and the verb that indexes them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from en_bench.cli import main
from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader
from tests.images import coloured_png

Files = Iterable[tuple[str, bytes]]
NAMES = ("bright", "dark", "grey")  # sorted; coloured_png's classes 2, 0, 1


def tar(path: Path, files: Files, form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of (name, content) in one of tarfile's formats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sample(key: str, label: int, seed: int, kind: str = "cls") -> list[tuple[str, bytes]]:
    """The files of a sample: a PNG of class `label` and, as `kind` says, `.cls`, `.txt`, `.json` or nothing more."""
    files = [(f"{key}.png", coloured_png(label, seed))]
    if kind in ("cls", "txt"):
        files.append(
            (f"{key}.{kind}", str(label).encode() if kind == "cls" else f"{('dark', 'grey')[label % 2]}\n".encode())
        )
    if kind == "json":
        files.append((f"{key}.json", json.dumps({"label": label, "about": {"clean": (label + seed % 2) % 3}}).encode()))
    return files


def tars(folder: Path, counts: Sequence[int] = (7, 4, 9), kind: str = "cls", stem: str = "x", **how: int) -> Path:
    """Tars `<stem>-0.tar`, ... of so many samples of classes 0, 1, 2, 0, ..."""
    seed = 0
    for number, count in enumerate(counts):
        files: list[tuple[str, bytes]] = []
        for _ in range(count):
            files += sample(f"{seed:04d}", seed % 3, seed, kind)
            seed += 1
        tar(folder / f"{stem}-{number}.tar", files, **how)
    return folder


class Told:
    """What a command said: its exit code, lines of stdout, and stderr without progress."""

    def __init__(self, code: int, capsys: pytest.CaptureFixture[str]) -> None:
        out, err = capsys.readouterr()
        self.code, self.lines = code, out.splitlines()
        self.errors = [line for line in err.splitlines() if line.startswith("en-bench: error: ")]
        assert "Traceback" not in err

    @property
    def error(self) -> str:
        """The one line of a failure."""
        assert self.code == 1 and len(self.errors) == 1, (self.code, self.errors, self.lines)
        return self.errors[0].removeprefix("en-bench: error: ")


class Verb:
    """Calls `en-bench data VERB` in the test's own process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object, verb: str = "index") -> Told:
        workers = () if "--workers" in arguments or verb not in ("index", "verify") else ("--workers", 1)
        self.capsys.readouterr()
        return Told(main(["data", verb, *map(str, (*arguments, *workers))]), self.capsys)

    def verified(self, folder: Path) -> list[str]:
        """The problems that `data verify` finds."""
        told = self(folder, verb="verify")
        assert told.code == (len(told.lines) > 1), told.lines
        return told.lines[:-1]


def read_all(folder: Path) -> dict[str, tuple[bytes, dict[str, str | None]]]:
    """By key what ShardReader reads of an indexed set, and class names by column; None where unknown."""
    manifest = load_manifest(folder)
    index = manifest.load_index()
    found: dict[str, tuple[bytes, dict[str, str | None]]] = {}
    with ShardReader(manifest, index) as reader:
        for row in range(len(index)):
            numbers: Mapping[str, int] = {column: int(values[row]) for column, values in index.labels.items()}
            labels = {column: manifest.classes[n] if n >= 0 else None for column, n in numbers.items()}
            found[index.key(row)] = (reader.read(row), labels)
    assert len(found) == manifest.count
    return found


def labels_of(folder: Path, column: str = "given") -> dict[str, str | None]:
    return {key: labels[column] for key, (_, labels) in read_all(folder).items()}


def skipped_of(folder: Path) -> dict[str, str]:
    """Reasons by key, as skipped.csv lists them."""
    from en_bench.data.info import skipped_rows

    return {row["key"]: row["reason"] for row in skipped_rows(load_manifest(folder))}
