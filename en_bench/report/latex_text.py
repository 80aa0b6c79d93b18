"""Text of a table as LaTeX: what prints as it is written, where its lines may break, how wide it will be."""

from __future__ import annotations

import re
from functools import lru_cache

from en_bench.printable import printable

# No printable text holds them: places, in a text that is yet to be escaped.
_NOTHING, _BREAK, _QUOTE = "\u2060", "\u200b", "\u2061"
_LONG_WORD = 24
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "[": "{[}",  # after \\ it would open an optional argument
    "]": "{]}",
    '"': "\\textquotedbl{}",
    "`": "{\\textasciigrave}",
    "±": "$\\pm$",
    "−": "$-$",
    "→": "$\\to$",
    "≤": "$\\leq$",
    "≥": "$\\geq$",
    "–": "--",
    "×": "$\\times$",
    "…": "\\ldots{}",
    "‘": "\\textquoteleft{}",
    "’": "\\textquoteright{}",
    "“": "\\textquotedblleft{}",
    "”": "\\textquotedblright{}",
    _NOTHING: "{}",
    _QUOTE: "\\textquotesingle{}",
    _BREAK: "\\allowbreak{}",
}
_TRANSLATED = str.maketrans(_SPECIAL)
# What is neither ASCII, nor above, nor a letter of the T1 fonts.
_UNKNOWN = re.compile(f"[^ -~{re.escape(''.join(c for c in _SPECIAL if c > '~'))}À-ÖØ-öø-ÿ]")
_POINTS = {  # Computer Modern at 10 pt in T1, as `\settowidth` has it
    character: width
    for width, characters in (
        (2.8, " !',.:;[]`il|"),
        (3.3, "fj-"),
        (3.9, "I()rst"),
        (4.4, "cez"),
        (5.0, '?"$*/0123456789\\ago{}–'),
        (5.6, "JkqvxySbdhnpu"),
        (6.8, "Z^~LFEP"),
        (7.8, "BCTwRAHNUVXYD&+<=>@GKOQ_±−×≤≥"),
    )
    for character in characters
}
_WIDEST, _BOLDER = 10.3, 1.2


@lru_cache(maxsize=8192)  # thousands of fields hold the same few texts
def escaped(text: str) -> str:
    """Text that LaTeX prints as it is, on any engine and in one line.

    A sign before a number becomes a minus. What its standard fonts do not have stands as `[U+03C3]`.
    """
    return _escaped(_shown(text))


@lru_cache(maxsize=8192)
def breakable(text: str) -> str:
    """As `escaped`, with places where a long word may break."""
    return _escaped(_with_breaks(text))


@lru_cache(maxsize=8192)
def narrowest(text: str) -> float:
    """About how narrow a text can be set that `breakable` has made printable, in pt at 10 pt."""
    return max(map(width, re.split(f"[ {_BREAK}]", _with_breaks(text))))


@lru_cache(maxsize=8192)
def width(text: str, bold: bool = False) -> float:
    """About how wide a text is that `escaped` has made printable, in pt at 10 pt."""
    points = sum(_POINTS.get(character, _WIDEST) for character in _shown(text))
    return points * _BOLDER if bold else points


def _shown(text: str) -> str:
    signed = re.sub(r"(?<![\w.])-(?=\d)", "−", printable(text))
    return _UNKNOWN.sub(lambda match: f"[U+{ord(match[0]):04X}]", signed)


def _escaped(text: str) -> str:
    quoted = re.sub(r"(?<!\w)'|'(?!\w)", _QUOTE, text)
    # Two of them would become one dash, or a quotation mark.
    return re.sub("(?<=-)-|(?<=,),", rf"{_NOTHING}\g<0>", quoted).translate(_TRANSLATED)


def _with_breaks(text: str) -> str:
    def broken(word: re.Match[str]) -> str:
        return _BREAK.join(re.findall(rf"[^/_.,;:=-]{{1,{_LONG_WORD}}}[/_.,;:=-]*|[/_.,;:=-]+", word[0]))

    return re.sub(rf"\S{{{_LONG_WORD},}}", broken, _shown(text))
