"""The images of CIFAR-10 and CIFAR-100, in the forms in which they are published and passed on."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from data_scripts.layouts.cifar_sets import SETS, Cifar
from en_bench.data.archives import RawFiles
from en_bench.data.pickles import read_mapping
from en_bench.data.places import shown
from en_bench.data.prepare import shortened
from en_bench.data.raw_bytes import FileBytes, SpanBytes
from en_bench.data.sources import Skipped
from en_bench.errors import InputError

SIDE = 32
PIXELS = 3 * SIDE * SIDE  # bytes of an image: the red plane, the green, the blue


_FOLDERS = {"train": "train", "test": "val"}  # of image files, with the split that they become


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its key, its class number, what reads it, and where it is found."""

    key: str
    label: int
    load: Callable[[], bytes]
    origin: str


@dataclass
class Found:
    """What the raw files hold.

    Attributes:
        cifar: which set it is.
        form: "python", "binary" or "images".
        items: per split, in the set's own order; of images in the order of class and number.
        skipped: per split what cannot be read.
        unordered: why the order of image files within their class is not known, empty if it is.
        notes: what was left out, in words.
    """

    cifar: Cifar
    form: str
    items: dict[str, list[Item]]
    skipped: dict[str, list[Skipped]] = field(default_factory=dict)
    unordered: str = ""
    notes: list[str] = field(default_factory=list)


def find_set(raw: RawFiles) -> Found:
    """Recognises the set and its form by the names of the files, and lists its images.

    Raises InputError for none of the forms, for several of them, and for one that is not whole.
    """
    by_file: dict[str, list[str]] = {}
    for name in raw.names:
        by_file.setdefault(PurePosixPath(name).name, []).append(name)
    forms = {"python": (_read_python, ""), "binary": (_read_binary, ".bin")}
    candidates = [
        (cifar, form)
        for cifar in SETS
        for form, (_, ending) in forms.items()
        if any(file + ending in by_file for files in cifar.files.values() for file in files)
    ]
    images = [name for name in raw.names if len(p := PurePosixPath(name).parts) > 2 and p[-3] in _FOLDERS]
    kinds = [f"the {form} files of {cifar.name}" for cifar, form in candidates] + ["image files"] * bool(images)
    if len(kinds) > 1:
        raise InputError(f"{shown(raw.path)}: holds {' and '.join(kinds)}: name one of them with --raw")
    if not kinds:
        raise InputError(
            f"{shown(raw.path)}: none of {len(raw.names):,} files is one of CIFAR's (data_batch_1, data_batch_1.bin, "
            "train.bin, train/<class>/<image> ...): name an archive as published, or the folder it unpacks to"
        )
    if images:
        return _list_images(raw, images)
    (cifar, form) = candidates[0]
    read, ending = forms[form]
    found = Found(cifar, form, {})
    for split, files in cifar.files.items():
        names = [_only(raw, by_file, file + ending) for file in files]
        found.items[split] = _numbered(split, names, [list(read(raw, name, cifar)) for name in names])
    _check_class_names(raw, by_file, cifar, form)
    _note(found, [f"{name} ({reason})" for name, reason in raw.refused], "files that are refused")
    return found


def png_of(planes: bytes) -> bytes:
    """PNG of an image whose red, green and blue plane (each 32x32, uint8) follow one another."""
    pixels = np.frombuffer(planes, np.uint8).reshape(3, SIDE, SIDE).transpose(1, 2, 0)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    return out.getvalue()


def png_at(planes: Callable[[], bytes]) -> bytes:
    """The same of planes that are still to be read."""
    return png_of(planes())


def _only(raw: RawFiles, by_file: Mapping[str, Sequence[str]], file: str) -> str:
    names = by_file.get(file, [])
    if len(names) == 1:
        return names[0]
    if names:
        raise InputError(
            f"{shown(raw.path)}: holds {file} twice, {names[0]!r} and {names[1]!r}: name one folder with --raw"
        )
    refusals = [reason for name, reason in raw.refused if PurePosixPath(name).name == file]
    because = f" (one {refusals[0]})" if refusals else ""
    raise InputError(f"{shown(raw.path)}: lacks {file}{because}: download or unpack it again")


_Listed = tuple[int, Callable[[], bytes]]  # class number, and what makes the PNG


def _read_python(raw: RawFiles, name: str, cifar: Cifar) -> Iterator[_Listed]:
    where = f"{shown(raw.path)}: {name}"
    batch = read_mapping(_read(raw, name), where)
    data, labels = batch.get("data"), batch.get(cifar.label)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        raise InputError(f"{where}: holds no array 'data' of bytes, {PIXELS} per image: download it again")
    if not isinstance(labels, list | np.ndarray) or len(labels) != len(data):
        raise InputError(f"{where}: holds no {cifar.label!r}, one for each of {len(data):,} images: download it again")
    for row, label in zip(data, labels, strict=True):
        yield _checked_label(label, cifar, where), partial(png_of, row.tobytes())


def _read_binary(raw: RawFiles, name: str, cifar: Cifar) -> Iterator[_Listed]:
    where = f"{shown(raw.path)}: {name}"
    content = _read(raw, name)
    lead = cifar.record_labels
    count, rest = divmod(len(content), lead + PIXELS)
    if rest or not count:
        raise InputError(f"{where}: {len(content):,} bytes are no records of {lead + PIXELS}: download it again")
    source = raw.source(name)
    for number in range(count):
        start = number * (lead + PIXELS)
        label = _checked_label(content[start + lead - 1], cifar, where)
        yield label, partial(png_at, _part(source, content, start + lead))


def _part(source: Callable[[], bytes], content: bytes, start: int) -> Callable[[], bytes]:
    """Reads the planes at `start` of a raw file, where possible at their place, so that little stays in memory."""
    if isinstance(source, SpanBytes):
        return SpanBytes(source.path, source.offset + start, PIXELS)
    if isinstance(source, FileBytes):
        return SpanBytes(source.path, start, PIXELS)
    return partial(bytes, content[start : start + PIXELS])


def _numbered(split: str, names: Sequence[str], batches: Sequence[list[_Listed]]) -> list[Item]:
    """The images of a split, in the order of the set, which the keys tell."""
    sizes = {len(batch) for batch in batches}
    if len(sizes) > 1:
        counts = ", ".join(f"{PurePosixPath(n).name} {len(b):,}" for n, b in zip(names, batches, strict=True))
        raise InputError(f"the batches are not of one size ({counts} images): download the archive again")
    return [
        Item(f"{split}/{size * number + position:05d}", label, load, f"{PurePosixPath(name).name}[{position}]")
        for size in sizes
        for number, (name, batch) in enumerate(zip(names, batches, strict=True))
        for position, (label, load) in enumerate(batch)
    ]


def _checked_label(label: object, cifar: Cifar, where: str) -> int:
    if not isinstance(label, int | np.integer) or not 0 <= label < len(cifar.classes):
        raise InputError(f"{where}: label {label!r} is not in 0 .. {len(cifar.classes) - 1}: download it again")
    return int(label)


def _check_class_names(raw: RawFiles, by_file: Mapping[str, Sequence[str]], cifar: Cifar, form: str) -> None:
    """The list of classes that comes with the arrays, if it is there, must be the one that is known."""
    file, key, text = cifar.meta
    names = by_file.get(file if form == "python" else text, [])
    for name in names:
        content = _read(raw, name)
        if form == "python":
            listed = read_mapping(content, f"{shown(raw.path)}: {name}").get(key)
            written = [n.decode("latin1") if isinstance(n, bytes) else n for n in listed or []]
        else:
            written = content.decode("latin1").split()
        if written != list(cifar.classes):
            raise InputError(f"{shown(raw.path)}: {name} does not list the classes of {cifar.name}: download it again")


def _list_images(raw: RawFiles, names: Sequence[str]) -> Found:
    """Images `{train,test}/<class>/<file>`, wherever that lies."""
    parts = {name: PurePosixPath(name).parts[-3:] for name in names}
    for folder in _FOLDERS:
        if not any(found == folder for found, _, _ in parts.values()):
            raise InputError(f"{shown(raw.path)}: no images in {folder}/<class>/: name what holds both train and test")
    classes = {category for _, category, _ in parts.values()}
    cifar = next((cifar for cifar in SETS if set(cifar.classes) == classes), None)
    if cifar is None:
        nearest = min(SETS, key=lambda cifar: len(classes ^ set(cifar.classes)))
        strange, missing = sorted(classes - set(nearest.classes)), sorted(set(nearest.classes) - classes)
        details = [f"{what} {shortened(n)}" for what, n in (("lacks", missing), ("has also", strange)) if n]
        raise InputError(
            f"{shown(raw.path)}: its class folders are not those of {nearest.name} ({', '.join(details)}): "
            "correct --raw, or use imagefolder.py"
        )
    found = Found(cifar, "images", {split: [] for split in cifar.counts}, {split: [] for split in cifar.counts})
    number = {category: position for position, category in enumerate(cifar.classes)}
    for name in sorted(names, key=lambda name: _in_order(parts[name])):
        folder, category, file = parts[name]
        found.items[_FOLDERS[folder]].append(
            Item(f"{category}/{_stem(file)}", number[category], raw.source(name), "/".join(parts[name]))
        )
    for name, reason in raw.refused:
        *_, folder, category, _ = ("", "", *PurePosixPath(name).parts)
        if folder in _FOLDERS and category in number:
            found.skipped[_FOLDERS[folder]].append(Skipped("", name, reason))
    strays = sorted(set(raw.names) - set(names))
    _note(found, strays, "files that are not in {train,test}/<class>/")
    found.unordered = _unordered(parts.values())
    return found


def _stem(file: str) -> str:
    """Name of a file without its extension; further dots would look like extensions to readers of shards."""
    return (file.rpartition(".")[0] or file).replace(".", "_")


def _in_order(parts: Sequence[str]) -> tuple[str, str, int, str]:
    folder, category, file = parts
    stem = _stem(file)
    return folder, category, int(stem) if stem.isdecimal() else -1, file


def _unordered(files: Iterable[Sequence[str]]) -> str:
    """Why the training images are not in a known order, empty if the numbers in their names tell one."""
    numbers: Counter[tuple[str, int]] = Counter()
    for folder, category, file in files:
        if folder == "train":
            if not _stem(file).isdecimal():
                return f"'{folder}/{category}/{file}' has no number for a name"
            numbers[category, int(_stem(file))] += 1
    twice = next((key for key, count in numbers.items() if count > 1), None)
    return f"class {twice[0]} holds two files numbered {twice[1]}" if twice else ""


def _read(raw: RawFiles, name: str) -> bytes:
    try:
        return raw.read(name)
    except OSError as error:
        raise InputError(f"{shown(raw.path)}: {name}: {error.strerror or error}: download it again") from error


def _note(found: Found, names: Sequence[str], what: str) -> None:
    if names:
        found.notes.append(f"left out {len(names):,} {what} (first: {names[0]!r})")
