"""What a layout found in the raw files: which file belongs to which split and class, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.data.prepare import Split, shortened
from en_bench.data.sources import Skipped, Source
from en_bench.errors import InputError


@dataclass(frozen=True)
class Item:
    """One sample with its place in the data set.

    Attributes:
        name: where the user finds it: the name of a raw file, or an element of one.
        split, category: names.
        key: unique in the split once `tell_apart` has seen the listing.
        refusal: why it cannot be used, empty if it can.
        load: returns the bytes of the image; None where they are those of the raw file `name`.
    """

    name: str
    split: str
    category: str
    key: str
    refusal: str = ""
    load: Callable[[], bytes] | None = None


@dataclass
class Listing:
    """What was found.

    Attributes:
        items: the samples.
        notes: in words, what was left out.
        classes: the names in the order that the set publishes; empty where it publishes none.
        source: what the manifest shall say of the source, such as hashes of the lists that were read. JSON values.
    """

    items: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    source: dict[str, object] = field(default_factory=dict)

    def note(self, count: int, what: str, names: Iterable[str] = ()) -> None:
        if count:
            first = next(iter(names), None)
            self.notes.append(f"left out {count:,} {what}" + (f" (first: {first!r})" if first is not None else ""))


class Folder:
    """The raw files below folders of one name, wherever those lie, for lists that name files from there on.

    Where an archive lies beside what was extracted from it, the files with the shortest names are taken.

    Attributes:
        names: raw file by its path below the folder. Files that are refused are among them.
        twice: the names of files that are there a second time.
    """

    def __init__(self, raw: RawFiles, *folder: str) -> None:
        self._raw = raw
        self._readable = frozenset(raw.names)
        self._reasons = {name: reason for name, reason in raw.refused if name not in self._readable}
        self.names: dict[str, str] = {}
        self.twice: list[str] = []
        for name in sorted([*raw.names, *self._reasons], key=lambda name: (len(name), name)):
            parts = PurePosixPath(name).parts
            ends = [end for end in range(len(folder), len(parts)) if parts[end - len(folder) : end] == folder]
            if not ends:
                continue
            below = "/".join(parts[ends[-1] :])
            if below in self.names:
                self.twice.append(name)
            else:
                self.names[below] = name

    def item(self, path: str, split: str, category: str, key: str, table: str) -> Item:
        """The sample of a file that `table` lists; refused, with the reason, where it cannot be read."""
        name = self.names.get(path)
        if name is None:
            return Item(path, split, category, key, f"listed in {table}, not in {self._raw.name}")
        return Item(name, split, category, key, self._reasons.get(name, ""))

    def load(self, item: Item) -> Callable[[], bytes]:
        """What reads the raw file of an item that is not refused."""
        return self._raw.source(item.name)

    def note_rest(self, listing: Listing, table: str) -> None:
        """Says which files of the folder the listing does not hold."""
        used = {item.name for item in listing.items}
        rest = sorted(set(self.names.values()) - used)
        listing.note(len(rest), f"files that {table} does not list", rest)
        listing.note(len(self.twice), "files that are there a second time", self.twice)


def find_file(raw: RawFiles, name: str, data_set: str) -> str:
    """The raw file of this name, or path, in whatever folder; the one with the shortest name of several.

    Raises InputError if there is none.
    """
    found = [known for known in raw.names if f"/{known}".endswith(f"/{name}")]
    if not found:
        raise InputError(f"{shown(raw.path)}: no {name} in it: name the folder or archive of {data_set} as published")
    return min(found, key=lambda known: (len(known), known))


def key_of(parts: Sequence[str]) -> str:
    """Path without its extension; further dots of the file's name would look like extensions to readers of shards."""
    *folders, file = parts
    return "/".join([*folders, file.rpartition(".")[0].replace(".", "_") or file])


def tell_apart(listing: Listing) -> None:
    """Adds the extension to the keys of files that differ in nothing else: `a_jpg` and `a_png`."""
    longer = [item.key + PurePosixPath(item.name).suffix.replace(".", "_") for item in listing.items]
    while True:
        uses = Counter((item.split, item.key) for item in listing.items if not item.refusal)
        changed = False
        for position, item in enumerate(listing.items):
            if uses[item.split, item.key] > 1 and item.key != longer[position]:
                listing.items[position] = replace(item, key=longer[position])
                changed = True
        if not changed:  # a longer key may meet another file's, which then becomes longer too
            return


def note_uneven_classes(listing: Listing) -> None:
    """Says which classes occur in some of the splits only. Subsets may be so; misread folders are.

    Raises InputError where train and val have no class in common.
    """
    splits: dict[str, set[str]] = {}
    for item in listing.items:
        if not item.refusal:
            splits.setdefault(item.category, set()).add(item.split)
    every = set().union(*splits.values())
    if {"train", "val"} <= every and not any({"train", "val"} <= where for where in splits.values()):
        own = {split: sorted(c for c, where in splits.items() if split in where) for split in ("train", "val")}
        raise InputError(
            f"train and val have no class in common (train: {shortened(own['train'])}; val: {shortened(own['val'])}): "
            "--raw must hold <split>/<class>/<file>; name their labels with --csv, or use the script of the data set"
        )
    groups: dict[tuple[str, ...], list[str]] = {}
    for category in sorted(splits):
        if splits[category] != every:
            groups.setdefault(tuple(sorted(splits[category])), []).append(category)
    for where, names in sorted(groups.items()):
        listing.notes.append(f"{len(names):,} classes occur in {' and '.join(where)} only: {shortened(names)}")


def splits_of(listing: Listing, raw: RawFiles, classes: Sequence[str]) -> list[Split]:
    """The splits in which something can be read, by name; the others become a note."""
    number = {name: position for position, name in enumerate(classes)}
    readable = sorted({item.split for item in listing.items if not item.refusal})
    strays = [item.name for item in listing.items if item.split not in readable]
    listing.note(len(strays), "files of splits in which nothing can be read", strays)
    known = frozenset(raw.names)
    replaced: dict[str, list[str]] = {}  # members of an archive that a later one of the same name stands for
    for name, reason in raw.refused:
        if name in known:
            replaced.setdefault(name, []).append(reason)
    splits = []
    for split in readable:
        samples, skipped = [], []
        for item in listing.items:
            if item.split != split:
                continue
            skipped += [Skipped(item.key, item.name, reason) for reason in replaced.get(item.name, ())]
            if item.refusal:
                skipped.append(Skipped(item.key, item.name, item.refusal))
            else:
                load = item.load or raw.source(item.name)
                samples.append(Source(item.key, {"given": number[item.category]}, load, item.name))
        splits.append(Split(split, samples, skipped))
    return splits
