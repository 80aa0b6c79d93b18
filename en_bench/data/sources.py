"""Samples on their way into shards: what the scripts hand to the writer."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from en_bench.data.manifest import GIVEN
from en_bench.data.names import fault_of_name
from en_bench.errors import InputError

_MAX_KEY_BYTES = 240  # key and extension must fit into a file name when somebody unpacks the tar
_FORBIDDEN = {"", ".", ".."}  # as parts of a key


@dataclass(frozen=True, slots=True)
class Source:
    """One sample to be written. It travels to worker processes: what it holds must be picklable, and small.

    Attributes:
        key: unique name in the split; "/" may group, the last part has no dot. Readers see `<key>.jpg`.
        labels: per column the class number, -1 where unknown. The same columns for all samples of a split. Empty where
            masks take the place of labels.
        load: returns the bytes of the raw image file. Where it raises UnreadableImage or DamagedFile the sample is
            skipped; any other OSError ends the run.
        origin: where the user finds the raw file, for skipped.csv.
        mask: None, or returns the bytes of the raw mask; for all samples of a split or for none.
    """

    key: str
    labels: Mapping[str, int]
    load: Callable[[], bytes]
    origin: str
    mask: Callable[[], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that is not in the shards, and why. `key` may be empty where none was made."""

    key: str
    origin: str
    reason: str


def check_sources(samples: Sequence[Source], classes: int, masks: bool) -> tuple[str, ...]:
    """The label columns, after a look at every key and label."""
    if not samples:
        return () if masks else (GIVEN,)
    columns = tuple(samples[0].labels)
    if masks and columns:
        raise ValueError(f"a split has masks or label columns, got masks and {columns}")
    if not masks and (not columns or columns[0] != GIVEN):
        raise ValueError(f"the first label column must be {GIVEN!r}, got {columns}")
    origins: dict[str, str] = {}
    checked: dict[int, Mapping[str, int]] = {}  # by identity: the samples of a class may share their labels
    for sample in samples:
        _check_key(sample)
        if sample.key in origins:
            raise InputError(
                f"key {sample.key!r} belongs to both {origins[sample.key]} and {sample.origin}: rename one of them"
            )
        origins[sample.key] = sample.origin
        if (sample.mask is not None) != masks:
            raise ValueError(f"{sample.origin}: masks must be there for all samples, or for none")
        labels = sample.labels
        if id(labels) in checked:
            continue
        if tuple(labels) != columns or not all(-1 <= label < classes for label in labels.values()):
            raise ValueError(f"{sample.origin}: labels {dict(labels)} do not fit {columns}, {classes} classes")
        checked[id(labels)] = labels
    return columns


def fingerprint(samples: Sequence[Source]) -> str:
    """sha256 (hex) over the keys and labels."""
    digest = hashlib.sha256()
    encoded: dict[int, tuple[Mapping[str, int], bytes]] = {}  # by identity, which lasts as the labels are held here
    for sample in samples:
        found = encoded.get(id(sample.labels))
        if found is None:
            found = encoded[id(sample.labels)] = (sample.labels, json.dumps(dict(sample.labels)).encode())
        digest.update(sample.key.encode() + b"\0" + found[1] + b"\n")
    return digest.hexdigest()


def _check_key(sample: Source) -> None:
    parts = sample.key.split("/")
    bad = not _FORBIDDEN.isdisjoint(parts) or "." in parts[-1] or fault_of_name(sample.key)
    if bad or len(sample.key.encode()) > _MAX_KEY_BYTES:
        raise InputError(
            f"{sample.origin}: {sample.key!r} cannot be a key: at most {_MAX_KEY_BYTES} bytes of UTF-8, relative, "
            "without '..' and control characters, and no dot in its last part; rename the file"
        )


def skipped_bytes(skipped: Sequence[Skipped]) -> bytes:
    """Content of skipped.csv."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["key", "origin", "reason"])
    table.writerows((item.key, item.origin, item.reason) for item in skipped)
    # A name that is not UTF-8 on disk reaches Python with surrogates; it is listed, visibly escaped.
    return text.getvalue().encode("utf-8", "backslashreplace")
