"""Which tars a path, a URL or a pattern names."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from en_bench.data.places import Place, is_folder, is_remote, names_in, place, shown
from en_bench.errors import InputError

_MOST = 1_000_000  # names of one pattern
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_NO_LISTING = ("http://", "https://")


@dataclass(frozen=True)
class Tars:
    """The shards of one split.

    Attributes:
        folder: that all lie in.
        names: of the files in it, in natural order: x-2.tar before x-10.tar.
        listed: whether the folder could be listed, so that all are known to be there.
        alone: whether no other tars are known to lie there.
    """

    folder: Place
    names: tuple[str, ...]
    listed: bool = True
    alone: bool = True


def find_tars(url: str) -> Tars:
    """The tars that `url` names: all of a folder, one, or those of a pattern with `{000..146}`, `{a,b}` or `*`.

    Raises InputError where there are none, for compressed ones, for several folders, for a folder with tars of several
    kinds (train-0.tar, val-0.tar), and for what has no listing. Raises OSError where a folder cannot be read.
    """
    told = shown(url)
    if "://" in url and "?" in url:
        raise InputError(
            f"{told}: given with a query, which may hold keys and would stand in the manifest: leave it out"
        )
    is_pattern = any(mark in url for mark in "{*") and ("://" in url or not place(url).exists())
    if is_pattern:
        return _matching(url)
    if url.lower().endswith(_COMPRESSED):
        raise _compressed(told)
    if url.endswith(".tar") and ("://" in url or not is_folder(place(url))):
        where = place(url)
        return _among(where.parent, [where.name])
    if url.startswith(_NO_LISTING):
        raise InputError(
            f"{told}: a web server has no list of its files: name them with a pattern, such as "
            f"{told.rstrip('/')}/train-{{000000..000146}}.tar"
        )
    folder = place(url)
    if not is_folder(folder):
        raise InputError(f"{told}: no such folder or tar: correct the path or URL")
    return _all_of(folder)


def expand_braces(pattern: str) -> Iterator[str]:
    """All texts that a pattern with `{000..146}` and `{a,b}` stands for, in its order.

    Numbers keep the width of the first. Raises InputError for more than a million.
    """
    parts: list[Sequence[str]] = []
    size, end = 1, 0
    for found in _BRACES.finditer(pattern):
        choices = _choices(found[1], pattern)
        size *= len(choices)
        if size > _MOST:
            raise InputError(f"{shown(pattern)}: stands for more than {_MOST:,} names: correct its numbers")
        parts += [[pattern[end : found.start()]], choices]
        end = found.end()
    for choice in itertools.product(*parts, [pattern[end:]]):
        yield "".join(choice)


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names by value."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _choices(inner: str, pattern: str) -> Sequence[str]:
    bounds = _RANGE.fullmatch(inner)
    if bounds is None:
        if "," not in inner:
            raise InputError(f"{shown(pattern)}: {{{inner}}} is no choice: write {{000..146}} or {{a,b}}")
        return inner.split(",")
    first, last = int(bounds[1]), int(bounds[2])
    if last < first:
        raise InputError(f"{shown(pattern)}: {{{inner}}} counts down: write the smaller number first")
    if last - first >= _MOST:
        raise InputError(f"{shown(pattern)}: stands for more than {_MOST:,} names: correct its numbers")
    return [f"{number:0{len(bounds[1])}d}" for number in range(first, last + 1)]


def _matching(pattern: str) -> Tars:
    texts = list(expand_braces(pattern))
    folders = sorted({text.rpartition("/")[0] for text in texts})
    if len(folders) > 1:
        raise InputError(
            f"{shown(pattern)}: leads to {len(folders)} folders: the shards of a split lie in one; index each by itself"
        )
    if "*" in folders[0]:
        raise InputError(f"{shown(pattern)}: * may stand in the name of the tars only: name their folder")
    folder = place(folders[0] or ("/" if pattern.startswith("/") else "."))
    names = [text.rpartition("/")[2] for text in texts]
    if any("*" in name for name in names):
        if pattern.startswith(_NO_LISTING):
            raise InputError(
                f"{shown(pattern)}: a web server has no list of its files: write {{000000..000146}} in place of *"
            )
        there = [name for name in names_in(folder) if name.endswith(".tar") and not name.startswith(".")]
        names = [name for name in there if any(fnmatch.fnmatchcase(name, wanted) for wanted in names)]
        if not names:
            raise InputError(f"{shown(pattern)}: no tar has such a name: correct the pattern")
    for name in names:
        if name.lower().endswith(_COMPRESSED):
            raise _compressed(shown(folder / name))
        if not name.endswith(".tar"):
            raise InputError(f"{shown(pattern)}: {name!r} is no .tar: let the pattern end in .tar")
    twice = [name for name, uses in Counter(names).items() if uses > 1]
    if twice:
        raise InputError(f"{shown(pattern)}: names {twice[0]!r} twice: correct the pattern")
    return _among(folder, names)


def _among(folder: Place, names: Sequence[str]) -> Tars:
    listed = not (is_remote(folder) and str(folder).startswith(_NO_LISTING))
    if not listed:
        return Tars(folder, tuple(sorted(names, key=natural)), listed=False, alone=False)
    there = {name for name in names_in(folder) if _is_tar(name)}
    missing = sorted(set(names) - there, key=natural)
    if missing:
        more = f", nor are {len(missing) - 1:,} more of {len(names):,}" if len(missing) > 1 else ""
        raise InputError(f"{shown(folder / missing[0])}: is not there{more}: correct the path, URL or pattern")
    return Tars(folder, tuple(sorted(names, key=natural)), alone=there <= set(names))


def _all_of(folder: Place) -> Tars:
    told = shown(folder)
    found = names_in(folder)
    packed = [name for name in found if name.lower().endswith(_COMPRESSED) and not name.startswith(".")]
    if packed:
        raise _compressed(f"{told}/{packed[0]}")
    names = [name for name in found if _is_tar(name)]
    if not names:
        raise InputError(f"{told}: holds no .tar: name the folder that the shards lie in")
    kinds = Counter(re.sub(r"[0-9]+", "N", name) for name in names)
    if len(kinds) > 1:
        few = ", ".join(f"{count:,} like {kind}" for kind, count in kinds.most_common(3))
        example = kinds.most_common(1)[0][0].replace("N", "*", 1) if "N" in kinds.most_common(1)[0][0] else "*.tar"
        raise InputError(
            f"{told}: holds tars of {len(kinds)} kinds ({few}), and a split has one: name it with a pattern, such as "
            f"'{told}/{example}', or all with '{told}/*.tar'"
        )
    return Tars(folder, tuple(sorted(names, key=natural)))


def _is_tar(name: str) -> bool:
    return name.endswith(".tar") and not name.startswith(".")


def _compressed(told: str) -> InputError:
    return InputError(f"{told}: compressed, so that no sample can be read at its place: unpack it to a plain .tar")
