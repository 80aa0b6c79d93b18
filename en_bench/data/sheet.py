"""A contact sheet: samples of a split with their labels, or their masks, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from en_bench.data.index import Index
from en_bench.data.info import CLEAN
from en_bench.data.manifest import GIVEN, Manifest
from en_bench.data.order import write_order
from en_bench.data.places import is_remote, read_range, shown
from en_bench.data.reader import ShardReader
from en_bench.data.sheet_page import Caption, Cell, compose
from en_bench.errors import InputError
from en_bench.files import write_bytes

MOST = 1000  # samples on a sheet: more would be an image that few programs open
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Wish:
    """What a sheet shall show.

    Attributes:
        count: samples at most.
        per_row: samples side by side; None: 8, with masks 4.
        labels: columns to show beside the given and the clean label.
        category: name of a class: only samples labelled so, in `given` or one of `labels` where there are any; of
            splits with masks, only those whose mask holds it.
        wrong: only samples whose label, in the same columns, is known not to be the clean one.
        seed: of the draw.
    """

    count: int = 40
    per_row: int | None = None
    labels: tuple[str, ...] = ()
    category: str | None = None
    wrong: bool = False
    seed: int = 0

    @property
    def asked(self) -> tuple[str, ...]:
        """The columns that `category` and `wrong` are about."""
        return self.labels or (GIVEN,)


def check_writable(out: Path) -> None:
    """Raises InputError where a sheet must not be written: over what is no PNG, or under another extension."""
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: a sheet is a PNG: name it {out.stem or 'sheet'}.png")
    if out.is_dir():
        raise InputError(f"--out {out}: a folder: name a file in it, such as {out / 'sheet.png'}")
    if out.exists():
        with out.open("rb") as file:
            if file.read(len(_PNG_SIGNATURE)) != _PNG_SIGNATURE:
                raise InputError(f"--out {out}: holds something that is not a PNG: choose another name")


def draw_sheet(manifest: Manifest, wish: Wish, out: Path) -> str:
    """Writes the sheet of a split and returns what it shows, in one line.

    Raises InputError for wishes that the split cannot fulfil, or a split that cannot be read.
    """
    _check_wish(manifest, wish)
    samples = Samples(manifest)
    masks = "mask" in manifest.members
    rows = samples.with_mask_of(wish) if masks else choose(samples.index, manifest, wish)
    if not rows:
        others = [column for column in manifest.columns if column not in (*wish.asked, CLEAN)]
        cure = f"name another column with --labels ({', '.join(others)})" if others else "ask for others"
        raise InputError(f"{shown(manifest.folder)}: no sample {_meaning(wish)}: {cure}")
    cells = [samples.cell(row, wish) for row in rows]
    among = manifest.count if masks else len(candidates(samples.index, manifest, wish))
    count = f"{len(rows):,} of {among:,} sample{'' if among == 1 else 's'}"
    meaning = _meaning(wish)
    kinds = f", {meaning}" if meaning else ""
    title = f"{manifest.dataset} / {manifest.split}"
    subtitle = f"{count}{kinds}; seed {wish.seed}; manifest {manifest.digest[:12]}"
    per_row = wish.per_row or (4 if masks else 8)
    page = compose(title, subtitle, cells, per_row, manifest.classes if masks else (), manifest.ignore_index)
    content = io.BytesIO()
    page.save(content, "PNG")
    check_writable(out)
    write_bytes(out, content.getvalue())
    told = f"{count} of {manifest.dataset} {manifest.split}{kinds}"
    if CLEAN in manifest.columns and not wish.wrong:
        wrong = sum(cell.wrong for cell in cells)
        told += f"; {wrong:,} of them with a label that is not the clean one"
    return told


def choose(index: Index, manifest: Manifest, wish: Wish) -> list[int]:
    """Rows of the samples to show, drawn by the seed, ordered by given label and place."""
    rows = candidates(index, manifest, wish)
    drawn = rows[write_order(len(rows), wish.seed)[: wish.count]]
    return [int(row) for row in drawn[np.lexsort((drawn, index.labels[GIVEN][drawn]))]]


def candidates(index: Index, manifest: Manifest, wish: Wish) -> NDArray[np.int64]:
    """Rows of all samples that the wish means."""
    fits = np.ones(len(index), dtype=bool)
    if wish.category is not None:
        number = manifest.classes.index(wish.category)
        fits &= np.any([index.labels[column] == number for column in wish.asked], axis=0)
    if wish.wrong:
        fits &= np.any([_wrong(index, column) for column in wish.asked], axis=0)
    return np.flatnonzero(fits)


def _wrong(index: Index, column: str) -> NDArray[np.bool_]:
    labels, clean = index.labels[column], index.labels[CLEAN]
    wrong: NDArray[np.bool_] = (labels >= 0) & (clean >= 0) & (labels != clean)
    return wrong


def _check_wish(manifest: Manifest, wish: Wish) -> None:
    where = shown(manifest.folder)
    if wish.count > MOST:
        raise InputError(f"--count {wish.count}: at most {MOST:,} samples fit on a sheet: ask for fewer")
    if "mask" in manifest.members and (wish.labels or wish.wrong):
        raise InputError(f"{where}: holds masks, no labels: leave out --labels and --wrong")
    for column in wish.labels:
        if column not in manifest.columns:
            raise InputError(f"{where}: no label column {column!r}: choose from {', '.join(manifest.columns)}")
    if wish.wrong and (CLEAN not in manifest.columns or set(wish.asked) == {CLEAN}):
        told = f"no column {CLEAN!r}" if CLEAN not in manifest.columns else f"only {CLEAN!r} is asked for"
        raise InputError(f"{where}: {told}, so no label is known to be wrong: leave out --wrong")
    if wish.category is not None and wish.category not in manifest.classes:
        few = ", ".join(manifest.classes[:5]) + (", …" if len(manifest.classes) > 5 else "")
        raise InputError(
            f"{where}: no class {wish.category!r} among {few}: `en-bench data info --classes` lists all of them"
        )


def _meaning(wish: Wish) -> str:
    """What the wish says of samples."""
    columns = " or ".join(wish.asked)
    parts = [f"of class {wish.category}"] if wish.category is not None else []
    return " ".join([*parts, f"whose label {columns} is not the clean one"] if wish.wrong else parts)


@dataclass
class Samples:
    """Files and captions of the samples of a split, from disk or a URL."""

    manifest: Manifest
    index: Index = field(init=False)

    def __post_init__(self) -> None:
        self.manifest.check_shards()
        self.index = self.manifest.load_index()
        # A local reader also makes sure that it is this sample that lies there.
        remote = is_remote(self.manifest.place_of(self.manifest.shards[0]))
        self._reader = None if remote else ShardReader(self.manifest, self.index)

    def read(self, row: int, member: int = 0) -> bytes:
        if self._reader is not None:
            return self._reader.read(row, member)
        shard = self.manifest.place_of(self.manifest.shards[int(self.index.shard[row])])
        try:
            return read_range(shard, int(self.index.offset[row, member]), int(self.index.size[row, member]))
        except OSError as error:
            raise InputError(f"{shown(shard)}: {error.strerror or error}: see to the connection") from error

    def with_mask_of(self, wish: Wish) -> list[int]:
        """Rows of samples to show whose masks hold the class, drawn by the seed, in the order of the shards."""
        from en_bench.data.sheet_page import mask_values

        number = None if wish.category is None else self.manifest.classes.index(wish.category)
        found: list[int] = []
        for row in write_order(len(self.index), wish.seed).tolist():
            if len(found) == wish.count:
                break
            values = None if number is None else mask_values(self.read(row, 1))
            if number is None or (values is not None and bool((values == number).any())):
                found.append(row)
        return sorted(found)

    def cell(self, row: int, wish: Wish) -> Cell:
        """What the sheet shows of a sample."""
        key = self.index.key(row)
        if "mask" in self.manifest.members:
            return Cell(self.read(row), key, mask=self.read(row, 1))
        further = tuple(column for column in wish.labels if column not in (GIVEN, CLEAN))
        clean = int(self.index.labels[CLEAN][row]) if CLEAN in self.index.labels else -1
        captions, any_wrong = [], False
        for column in (GIVEN, *further):
            label = int(self.index.labels[column][row])
            wrong = label >= 0 and clean >= 0 and label != clean
            any_wrong |= wrong
            captions.append(Caption(column if further else "", self.name(label), red=wrong))
        if any_wrong or CLEAN in wish.labels:
            captions.append(Caption(CLEAN, self.name(clean)))
        return Cell(self.read(row), key, captions=tuple(captions), wrong=any_wrong)

    def name(self, label: int) -> str:
        return "unknown" if label < 0 else named(self.manifest.classes, label)


def named(classes: Sequence[str], number: int) -> str:
    """Name of a class, after its number where the sheet's font lacks letters of it."""
    name = classes[number]
    return name if all(" " <= letter < "\u0250" for letter in name) else f"{number}: {name}"
