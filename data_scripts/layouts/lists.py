"""Text files that give one thing per line: what the fine-grained sets publish beside their images."""

from __future__ import annotations

import hashlib

from data_scripts.layouts.listing import find_file
from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.errors import InputError


def read_lines(raw: RawFiles, name: str, data_set: str) -> tuple[list[str], str]:
    """The lines of a list that are not empty, and the list's sha256.

    Raises InputError where the raw files hold no such list, or it is no text.
    """
    return lines_of(raw, find_file(raw, name, data_set))


def lines_of(raw: RawFiles, path: str) -> tuple[list[str], str]:
    """As `read_lines`, of the raw file of exactly this name."""
    try:
        content = raw.read(path)
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{shown(raw.path)}: {path} cannot be read as text ({error}): download it again") from error
    return [line.strip() for line in lines if line.strip()], hashlib.sha256(content).hexdigest()


def read_pairs(raw: RawFiles, name: str, data_set: str) -> tuple[dict[str, str], str]:
    """A list of `id value` as a mapping, and the list's sha256. Values may hold spaces.

    Raises InputError as `read_lines` does, and for a line that is no pair or an id that comes twice.
    """
    lines, digest = read_lines(raw, name, data_set)
    pairs: dict[str, str] = {}
    for line in lines:
        number, _, value = line.partition(" ")
        if not value.strip():
            raise InputError(f"{shown(raw.path)}: {name}: {line!r} is not 'id value': download it again")
        if number in pairs:
            raise InputError(f"{shown(raw.path)}: {name}: id {number!r} comes twice: download it again")
        pairs[number] = value.strip()
    return pairs, digest


def require_same_ids(raw: RawFiles, a: dict[str, str], a_name: str, b: dict[str, str], b_name: str) -> None:
    """Raises InputError unless two lists are about the same ids."""
    lone = sorted(a.keys() ^ b.keys())
    if lone:
        raise InputError(
            f"{shown(raw.path)}: {a_name} has {len(a):,} ids, {b_name} has {len(b):,}; {lone[0]!r} is in one only: "
            "take both from the same download"
        )
