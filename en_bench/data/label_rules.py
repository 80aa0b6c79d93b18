"""Where the label of a sample of other makers' shards stands: in one of its files, or in its key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from en_bench.data.names import fault_of_name
from en_bench.errors import InputError

KEY = "key"
DEFAULT_FIELD = "label"
LARGEST_LABEL_FILE = 2**24  # bytes; what is larger is read by nobody
_LONGEST_LABEL = 256  # characters; longer texts are captions, not names of classes
_EXTENSION = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class NoLabel(Exception):  # noqa: N818 - the sample is listed with the reason
    """A sample has no label that can be used. The message is the reason."""


@dataclass(frozen=True)
class LabelRule:
    """How the label of a sample is found.

    Attributes:
        source: extension of the file that holds it, or "key".
        detail: of a JSON file the field, "a.b" for one within another; of a key the regular expression whose group 1
            is the label, empty for the default: the name of the folder, else what stands before the first underscore.
    """

    source: str
    detail: str = ""

    @classmethod
    def parse(cls, text: str) -> LabelRule:
        """The rule that `str` gives: `cls`, `json:label`, `key`, `key:PATTERN`, or another extension.

        Raises InputError for what is none.
        """
        source, colon, detail = text.partition(":")
        if source == KEY:
            return cls(KEY, _pattern(detail))
        source = source.removeprefix(".").lower()
        if not _EXTENSION.fullmatch(source):
            raise InputError(f"{text!r} says of no label where it stands: use cls, json, key or an extension")
        if _is_json(source):
            detail = detail or DEFAULT_FIELD
        elif colon:
            raise InputError(f"{text!r}: only JSON files have fields: write {source!r}")
        return cls(source, detail)

    def __str__(self) -> str:
        return f"{self.source}:{self.detail}" if self.detail else self.source

    @property
    def extensions(self) -> frozenset[str]:
        """Of the files that it reads."""
        return frozenset() if self.source == KEY else frozenset({self.source})

    @property
    def names(self) -> bool:
        """Whether labels are always names of classes, also those that look like numbers."""
        return self.source == KEY

    def label(self, key: str, files: Mapping[str, bytes]) -> str:
        """The label as text, of the sample with this key and these files by extension. Raises NoLabel."""
        if self.source == KEY:
            return _checked(self._of_key(key), "key")
        if self.source not in files:
            raise NoLabel(f"has no .{self.source}")
        content = files[self.source]
        if _is_json(self.source):
            return _checked(_field(content, self.detail, self.source), f".{self.source}")
        try:
            return _checked(content.decode("utf-8-sig"), f".{self.source}")
        except UnicodeDecodeError:
            raise NoLabel(f"its .{self.source} is no text in UTF-8") from None

    def finds(self, key: str, files: Mapping[str, bytes]) -> bool:
        """Whether a sample has a label by this rule."""
        try:
            self.label(key, files)
        except NoLabel:
            return False
        return True

    def _of_key(self, key: str) -> str:
        if self.detail:
            found = re.search(self.detail, key)
            if found is None or found[1] is None:
                raise NoLabel("its key does not match the pattern")
            return found[1]
        folder, _, base = key.rpartition("/")
        name = folder.rpartition("/")[2]
        if name not in ("", ".", ".."):
            return name
        stem, underscore, _ = base.partition("_")
        if not underscore:
            raise NoLabel("its key names no class: it has no folder and no underscore")
        return stem


def _is_json(extension: str) -> bool:
    return extension == "json" or extension.endswith(".json")


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise InputError(f"--pattern {text!r}: no regular expression ({error}): correct it") from error
    if text and not groups:
        raise InputError(f"--pattern {text!r}: has no group: put the part that names the class into parentheses")
    return text


def _field(content: bytes, field: str, extension: str) -> str:
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise NoLabel(f"its .{extension} is not JSON") from None
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            raise NoLabel(f"its .{extension} has no field {field!r}")
        value = value[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        kind = "null" if value is None else type(value).__name__
        raise NoLabel(f"field {field!r} of its .{extension} is {kind}, neither a number nor a name")
    return f"{value:d}" if isinstance(value, int) and abs(value) < 10**18 else str(value)[: _LONGEST_LABEL + 1]


def _checked(text: str, where: str) -> str:
    text = text.strip()
    if not text:
        raise NoLabel(f"its {where} holds no label")
    if len(text) > _LONGEST_LABEL:
        raise NoLabel(f"its {where} holds more than {_LONGEST_LABEL} characters, which name no class")
    fault = fault_of_name(text)
    if fault:
        raise NoLabel(f"the label in its {where} holds {fault.removeprefix('its name holds ')}")
    return text
