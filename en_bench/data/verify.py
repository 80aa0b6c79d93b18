"""Every hash, label, image and mask of a split, checked by other means than those that wrote it.

The tars are parsed by `tarfile` from their first byte on, and the images decoded by Pillow.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import numpy as np

from en_bench.data.findings import Findings
from en_bench.data.foreign_check import ForeignTarCheck
from en_bench.data.index import Index
from en_bench.data.index_home import is_indexed
from en_bench.data.info import skipped_rows
from en_bench.data.manifest import MANIFEST_NAME, SKIPPED_NAME, Manifest, Shard
from en_bench.data.places import is_remote, names_in, read_range, size_of
from en_bench.data.pool import fill_all
from en_bench.data.shard_task import Report
from en_bench.data.split_job import realised_noise
from en_bench.data.tar_check import TarCheck
from en_bench.errors import InputError

_CHUNK = 8 * 2**20  # bytes read at a time


@dataclass(frozen=True)
class ShardCheck:
    """One shard to be checked, with its rows of the index; None where only size and hash can be."""

    number: int
    shard: Shard
    rows: Index | None


def verify_split(
    manifest: Manifest, workers: int, fast: bool = False, progress: Callable[[int, int, int], None] = lambda *_: None
) -> Findings:
    """Checks all shards in `workers` processes, and what lies beside them. `fast`: sizes and hashes only.

    `progress` is called with (samples done, samples in all, bytes read). Raises OSError where the folder cannot be
    listed; what concerns one file is a finding.
    """
    findings = Findings()
    index: Index | None = None
    try:
        index = manifest.load_index()
        _check_index(manifest, index, findings)
    except InputError as error:
        findings.add(str(error))
    _check_beside(manifest, findings)
    done = read = 0

    def advance(more_samples: int, more_bytes: int) -> None:
        nonlocal done, read
        done, read = done + more_samples, read + more_bytes
        progress(done, manifest.count, read)

    first, tasks = 0, []
    for number, shard in enumerate(manifest.shards):
        rows = None if fast or index is None else _rows(index, slice(first, first + shard.samples))
        tasks.append(ShardCheck(number, shard, rows))
        first += shard.samples
    check = functools.partial(check_shard, manifest=manifest)
    cure = "use fewer --workers"
    found = dict(fill_all(tasks, check, max(1, min(workers, len(tasks))), advance, cure=cure))
    for number in range(len(tasks)):
        findings.merge(found[number])
    return findings


def check_shard(task: ShardCheck, report: Report, *, manifest: Manifest) -> Findings:
    """Size, sha256 and, with rows of the index, every sample of a shard."""
    shard, findings = task.shard, Findings()
    with contextlib.ExitStack() as stack:
        try:
            size, digest, file = _fetched(task, report, manifest, stack)
        except FileNotFoundError:
            findings.add(f"{shard.name}: missing")
            return findings
        except OSError as error:
            findings.add(f"{shard.name}: cannot be read: {error.strerror or error}")
            return findings
        findings.shards = 1
        if size != shard.bytes:
            findings.add(f"{shard.name}: {size:,} bytes instead of {shard.bytes:,}")
        elif digest != shard.sha256:
            findings.add(f"{shard.name}: sha256 {digest[:12]}… instead of {shard.sha256[:12]}…")
        if task.rows is None:
            findings.samples = shard.samples
            report(shard.samples, 0)
        else:
            check = ForeignTarCheck if is_indexed(manifest) else TarCheck
            check(manifest, task.rows, shard.name, file, size, findings).run(report)
    return findings


def _fetched(
    task: ShardCheck, report: Report, manifest: Manifest, stack: contextlib.ExitStack
) -> tuple[int, str, IO[bytes]]:
    """Size, sha256 and a file of the shard: its own, or a temporary one with what a URL sent. Raises OSError."""
    where = manifest.place_of(task.shard)
    size, digest = size_of(where), hashlib.sha256()
    copied = is_remote(where) and task.rows is not None
    file: IO[bytes] = tempfile.TemporaryFile() if is_remote(where) else where.open("rb")  # noqa: SIM115
    stack.callback(file.close)
    for offset in range(0, size, _CHUNK):
        content = read_range(where, offset, min(_CHUNK, size - offset))
        digest.update(content)
        if copied:
            file.write(content)
        report(0, len(content))
    return size, digest.hexdigest(), file


def _rows(index: Index, rows: slice) -> Index:
    labels = {column: values[rows] for column, values in index.labels.items()}
    return Index(index.keys[rows], index.shard[rows], index.offset[rows], index.size[rows], labels)


def _check_index(manifest: Manifest, index: Index, findings: Findings) -> None:
    keys, counts = np.unique(index.keys, return_counts=True)
    for key, count in zip(keys[counts > 1], counts[counts > 1], strict=True):
        findings.add(f"index: key {bytes(key).decode(errors='replace')!r} is that of {count:,} samples")
    for column, what in manifest.noise.items():
        found = realised_noise(index.labels, column, what)
        if what.get("realised") != found:
            findings.add(
                f"index: {found} of the labels {column!r} are wrong, {MANIFEST_NAME} says {what.get('realised')}"
            )


def _check_beside(manifest: Manifest, findings: Findings) -> None:
    try:
        listed = len(skipped_rows(manifest))
    except InputError as error:
        findings.add(str(error))
    else:
        if listed != manifest.skipped:
            findings.add(f"{SKIPPED_NAME}: lists {listed:,} samples, {MANIFEST_NAME} says {manifest.skipped:,}")
    if manifest.location is not None:
        return  # what else lies there is no matter of this split
    known = {shard.name for shard in manifest.shards} | set(manifest.source.get("left_out", ()))
    for name in names_in(manifest.folder):
        if name.endswith(".tar") and name not in known:
            findings.add(f"{name!r}: a tar that {MANIFEST_NAME} does not list")
