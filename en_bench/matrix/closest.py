"""What a user may have meant by a word that is not known."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """`; did you mean 'seeds'?` to end a message with, empty where none of `words` is close."""
    found = difflib.get_close_matches(str(word), list(words), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
