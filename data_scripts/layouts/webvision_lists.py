"""The files of WebVision's folder `info`: classes, queries and lists of images, checked against each other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from data_scripts.layouts.wordnet import require_imagenet_classes
from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.errors import InputError

TRAIN_LIST = "train_filelist_{}.txt"
VAL_LIST = "val_filelist.txt"
VERSION_2 = "of WebVision 2.0, whose 5,000 classes are others: name the files of WebVision 1.0"
_QUERY_FOLDER = re.compile(r"q(\d+)")


@dataclass
class Info:
    """The small files of the folder `info`, each read once.

    Attributes:
        raw: where they are.
        sha256: of those read so far, by name.
    """

    raw: RawFiles
    sha256: dict[str, str] = field(default_factory=dict)

    def lines(self, name: str) -> list[str]:
        """Lines of one of the files, without line ends. Raises InputError if it is not there, or there in two forms."""
        places = [found for found in self.raw.names if found.rpartition("/")[2] == name]
        if not places:
            raise InputError(f"{shown(self.raw.path)}: no {name}: put info.tar, or its folder info, beside the images")
        try:
            contents = {self.raw.read(place): place for place in places}
            if len(contents) > 1:
                raise InputError(
                    f"{shown(self.raw.path)}: {' and '.join(contents.values())} differ: remove one of them"
                )
            content = next(iter(contents))
            lines = content.decode().rstrip().replace("\r\n", "\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{places[0]}: cannot be read as UTF-8 ({error}): unpack info.tar again") from error
        self.sha256[name] = hashlib.sha256(content).hexdigest()
        return lines

    def hashes(self, *names: str) -> dict[str, str]:
        """sha256 of files that were read."""
        return {name: self.sha256[name] for name in names}


def read_synsets(info: Info) -> list[str]:
    """The WordNet id of each label. Raises InputError unless they are ImageNet's 1,000, in any order."""
    synsets = [line.partition(" ")[0] for line in info.lines("synsets.txt")]
    if len(synsets) > 1_000:
        raise InputError(f"synsets.txt: {len(synsets):,} classes, not 1,000: it is {VERSION_2}")
    require_imagenet_classes(synsets, "synsets.txt")
    return synsets


def read_queries(info: Info, classes: int) -> dict[int, set[int]]:
    """Labels of each query, by its number. Raises InputError for what is no such table."""
    name = "queries_synsets_map.txt"
    queries: dict[int, set[int]] = {}
    for number, line in enumerate(info.lines(name), start=1):
        try:
            query, synset = (int(part) for part in line.split())
        except ValueError:
            raise InputError(f"{name}: line {number} is {line!r}, not `QUERY SYNSET`: unpack info.tar again") from None
        if not 1 <= synset <= classes:
            raise InputError(f"{name}: line {number}: there is no synset {synset}: it is {VERSION_2}")
        queries.setdefault(query, set()).add(synset - 1)
    return queries


def read_list(info: Info, name: str, classes: int) -> Iterator[tuple[int, str, int]]:
    """Line number, path and label of what a list names. Raises InputError for what is no such list."""
    for number, line in enumerate(info.lines(name), start=1):
        path, text = ["", "", *line.rsplit(maxsplit=1)][-2:]
        if not path or not text.isdecimal() or len(text) > 9:
            raise InputError(f"{name}: line {number} is {line!r}, not `PATH LABEL`: unpack info.tar again")
        label = int(text)
        if label >= classes:
            raise InputError(f"{name}: line {number}: label {label} is not in 0 .. {classes - 1}: it is {VERSION_2}")
        yield number, path, label


def read_train_list(
    info: Info, source: str, synsets: Sequence[str], queries: dict[int, set[int]]
) -> Iterator[tuple[int, str, int]]:
    """Line number, path `<source>/<query>/<file>` and label.

    Args:
        info: where the list is.
        source: "google" or "flickr".
        synsets: WordNet id of each label.
        queries: labels of each query.

    Raises InputError for what is no such list, and for a label that is none of its query's.
    """
    name = TRAIN_LIST.format(source)
    for number, path, label in read_list(info, name, len(synsets)):
        *_, found, folder, file = ["", "", *path.split("/")]
        query = _QUERY_FOLDER.fullmatch(folder)
        if query is None or found != source:
            raise InputError(f"{name}: line {number} names {path!r}, which is not {source}/q0001/NAME.jpg")
        if len(folder) != len("q0001"):
            raise InputError(f"{name}: line {number}: query folder {folder!r} is {VERSION_2}")
        meant = queries.get(int(query[1]), set())
        if label not in meant:
            others = " or ".join(f"{other} ({synsets[other]})" for other in sorted(meant)) or "no label"
            raise InputError(
                f"{name}: line {number}: {path!r} has label {label} ({synsets[label]}), but queries_synsets_map.txt "
                f"gives {others} to {folder}: the files of info are not of one version; unpack info.tar again"
            )
        yield number, f"{source}/{folder}/{file}", label


def read_val_list(info: Info, classes: int) -> Iterator[tuple[int, str, int]]:
    """Line number, file name and label."""
    return ((number, path.rpartition("/")[2], label) for number, path, label in read_list(info, VAL_LIST, classes))
