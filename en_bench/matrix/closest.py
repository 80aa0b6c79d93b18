"""What a user may have meant by a word that is not known."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """`; did you mean 'seeds'?` to end a message with, empty where none of `words` is close."""
    found = difflib.get_close_matches(str(word), list(words), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def did_you_mean_file(file: Path, start: Path) -> str:
    """The same of a YAML file that is not there, as a path from the folder `start`. The suffix makes none similar."""
    beside = {other.stem: os.path.relpath(other, start) for other in sorted(file.parent.glob("*.yaml"))}
    found = difflib.get_close_matches(file.stem, beside, n=1, cutoff=0.5 if len(file.stem) < 4 else 0.6)
    return f"; did you mean {beside[found[0]]!r}?" if found else ""
