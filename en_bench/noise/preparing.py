"""Label noise that is made when a set is prepared: further label columns, the same as when reading."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from en_bench.data.images import Encoded, UnreadableImage
from en_bench.data.info import CLEAN
from en_bench.data.manifest import GIVEN
from en_bench.data.pool import fill_all
from en_bench.data.progress import Progress
from en_bench.data.shard_task import Loaded, Report
from en_bench.data.sources import Source
from en_bench.errors import InputError
from en_bench.noise.added_twice import Known, same_seed
from en_bench.noise.base import Noise, SmallImages
from en_bench.noise.kinds import KINDS
from en_bench.noise.small_images import SIDE, small_image

_FLAG = "--label-noise"
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_CHUNK = 256  # images that a worker reduces at a time
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class NoisyColumn:
    """A label column to be made: `noise` on the labels of column `base`."""

    column: str
    base: str
    noise: Noise

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {**self.noise.describe(), "from": self.base}


def add_noise_option(parser: argparse.ArgumentParser) -> None:
    """Adds --label-noise, of the scripts that write labels."""
    parser.add_argument(
        _FLAG,
        type=parse_noisy_column,
        action="append",
        default=[],
        metavar="KIND,NAME=VALUE,...",
        help="add a label column with made noise to train, such as symmetric,rate=0.4 or "
        "pair,rate=0.4,mapping=cifar10,column=asymmetric40,from=given,seed=0; may be given several times; "
        f"kinds: {', '.join(KINDS)}",
    )


def parse_noisy_column(text: str) -> NoisyColumn:
    """Reads `KIND,NAME=VALUE,...`: arguments of the noise, `from` (given) and `column` (kind and percent).

    The percent of a rate that is not whole has `_` for its point: symmetric40_5.

    Raises InputError for what is no such text, for a column `clean`, which tells what is wrong, and as the noise does.
    """
    kind, *pairs = (part.strip() for part in text.split(","))
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value) or name in values:
            raise InputError(f"{_FLAG} {text}: write each argument once, as name=value")
        values[name] = value
    if kind not in KINDS:
        raise InputError(f"{_FLAG} {text}: {kind!r} is no kind of noise: use one of {', '.join(KINDS)}")
    base, column = values.pop("from", GIVEN), values.pop("column", None)
    _check_names(text, kind, values)
    try:
        noise = KINDS[kind](**{name: _value(name, value) for name, value in values.items()})
        noise.validate()
    except (TypeError, ValueError) as error:  # no number
        raise InputError(f"{_FLAG} {text}: {error}: correct its arguments") from None
    except InputError as error:
        raise InputError(f"{_FLAG} {text}: {error}") from None
    percent = f"{100 * noise.rate:g}".replace(".", "_") if hasattr(noise, "rate") else ""
    column = column or f"{kind}{percent}"
    if column == CLEAN:
        raise InputError(f"{_FLAG} {text}: column {CLEAN} tells which labels are wrong: give another column=")
    if not _COLUMN.fullmatch(column):
        raise InputError(f"{_FLAG} {text}: {column!r} cannot name a column: use letters, digits, '_' and '-'")
    return NoisyColumn(column, base, noise)


def _check_names(text: str, kind: str, given: Collection[str]) -> None:
    """Raises InputError where the kind of noise has no such argument, or lacks one that it needs."""
    parameters = inspect.signature(KINDS[kind]).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    there = f"use {', '.join([*parameters, 'column', 'from'])}"
    for name in given:
        if name not in parameters:
            raise InputError(f"{_FLAG} {text}: {name!r} is no argument of {kind}: {there}")
    for name in needed:
        if name not in given:
            raise InputError(f"{_FLAG} {text}: {name}= is missing: {there}")


def _value(name: str, text: str) -> Any:
    if name == "rate":
        return float(text)
    if name == "include_own":
        if text.lower() not in _TRUTH:
            raise ValueError(f"include_own={text} is neither true nor false")
        return _TRUTH[text.lower()]
    return int(text) if name == "seed" else text


def with_noise(
    samples: Sequence[Source],
    column: NoisyColumn,
    classes: Sequence[str],
    encode: Callable[[bytes], Encoded],
    workers: int,
) -> list[Source]:
    """The samples with the labels of `column`, which may take the place of one that is there.

    Args:
        samples: with a label in the column's base.
        classes: names, in label order.
        encode: as for the writer: noise that needs images sees them as a reader will.
        workers: processes that decode images.

    Raises InputError for noise that cannot be made with these classes, and where the base is missing.
    """
    if samples and column.base not in samples[0].labels:
        there = ", ".join(samples[0].labels)
        raise InputError(f"{_FLAG}: there is no label column {column.base!r} to start from: use from={there}")
    keys = np.array([sample.key.encode() for sample in samples], dtype=np.bytes_)
    base = np.array([sample.labels[column.base] for sample in samples], dtype=np.int32)

    def images(rows: NDArray[np.int64]) -> SmallImages:
        return _small_images([samples[row] for row in rows.tolist()], encode, workers)

    made = column.noise.apply(base, keys, classes, images).tolist()
    shared: dict[tuple[tuple[str, int], ...], Mapping[str, int]] = {}  # equal labels once: there may be millions

    def relabelled(sample: Source, label: int) -> Source:
        labels = {**sample.labels, column.column: label}
        return dataclasses.replace(sample, labels=shared.setdefault(tuple(labels.items()), labels))

    return [relabelled(sample, label) for sample, label in zip(samples, made, strict=True)]


def with_noisy_columns(
    samples: Sequence[Source],
    columns: Iterable[NoisyColumn],
    classes: Sequence[str],
    encode: Callable[[bytes], Encoded],
    workers: int,
    known: Known,
) -> tuple[Sequence[Source], dict[str, Mapping[str, Any]]]:
    """The samples with further columns, and what the manifest says of all; `known` is that of those that are there.

    Raises InputError as `with_noise` does, for a name that is taken, and for noise of the seed that made the base.
    """
    noise = dict(known)
    for column in columns:
        if samples and column.column in samples[0].labels:
            raise InputError(f"{_FLAG}: there is a label column {column.column!r} already: name another with column=")
        if (before := same_seed(column.noise, column.base, noise)) is not None:
            raise InputError(
                f"{_FLAG} on column {column.base!r}: {before}: use seed={before.free_seed}, or from={before.origin}"
            )
        samples = with_noise(samples, column, classes, encode, workers)
        noise[column.column] = column.describe()
    return samples, noise


@dataclass(frozen=True)
class _Chunk:
    number: int
    samples: Sequence[Source]


def _small_images(samples: Sequence[Source], encode: Callable[[bytes], Encoded], workers: int) -> SmallImages:
    """(n, 32, 32, 3). Those of samples that cannot be decoded, which the writer will list as skipped, are black."""
    starts = range(0, len(samples), _CHUNK)
    chunks = [_Chunk(number, samples[start : start + _CHUNK]) for number, start in enumerate(starts)]
    images = np.empty((len(samples), SIDE, SIDE, 3), np.uint8)
    done = size = 0
    with Progress("images for noise") as progress:

        def advance(more_samples: int, more_bytes: int) -> None:
            nonlocal done, size
            done, size = done + more_samples, size + more_bytes
            progress(done, len(samples), size)

        reduce = partial(_reduced, encode=encode)
        for number, found in fill_all(chunks, reduce, max(1, min(workers, len(chunks))), advance):
            images[number * _CHUNK : number * _CHUNK + len(found)] = found
    return images


def _reduced(chunk: _Chunk, report: Report, *, encode: Callable[[bytes], Encoded]) -> SmallImages:
    images = np.zeros((len(chunk.samples), SIDE, SIDE, 3), np.uint8)
    for position, sample in enumerate(chunk.samples):
        loaded = Loaded.of(sample)
        try:
            payload = b"" if loaded.refusal else encode(loaded.image).payload
        except UnreadableImage:
            payload = b""
        images[position] = small_image(payload)
        report(1, len(payload))
    return images
