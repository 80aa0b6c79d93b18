"""What a user may have meant by a word that is not known."""

import difflib
import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """`; did you mean 'seeds'?` to end a message with, empty where none of `words` is close."""
    found = difflib.get_close_matches(str(word), list(words), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def did_you_mean_pattern(pattern: str, names: Sequence[str]) -> str:
    """The same of a shell pattern that none of `names` (all norm/train/seed) matches, part by part, in any case."""
    axes = zip(*(name.split("/") for name in names), strict=True)
    mended = "/".join(_closest_part(*pair) for pair in zip(pattern.split("/"), axes, strict=False))
    found = (meant for meant in (mended, f"{mended}/*") if any(fnmatchcase(name, meant) for name in names))
    meant = next(found, None)
    return "" if meant is None else f"; did you mean {meant!r}?"


def _closest_part(part: str, known: Iterable[str]) -> str:
    """A label that `part` may have meant, else `part`."""
    by_lower = {label.lower(): label for label in known}
    found = [] if part in by_lower.values() else difflib.get_close_matches(part.lower(), by_lower, n=1)
    return by_lower[found[0]] if found and not set(part) & set("*?[") else part


def did_you_mean_file(file: Path, start: Path) -> str:
    """The same of a YAML file that is not there, as a path from the folder `start`. The suffix makes none similar."""
    beside = {other.stem: os.path.relpath(other, start) for other in sorted(file.parent.glob("*.yaml"))}
    found = difflib.get_close_matches(file.stem, beside, n=1, cutoff=0.5 if len(file.stem) < 4 else 0.6)
    return f"; did you mean {beside[found[0]]!r}?" if found else ""
