"""The one writer of shards: samples in, a whole split out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from en_bench.data.images import Encoded
from en_bench.data.manifest import SKIPPED_NAME, Manifest, load_manifest, to_fields
from en_bench.data.masks import IGNORE, MaskEncoder
from en_bench.data.places import place, shown
from en_bench.data.preparing import alone_in, clear, is_finished
from en_bench.data.shard_task import Encoders
from en_bench.data.sources import Skipped, Source, check_sources, fingerprint
from en_bench.data.split_job import Progress, SplitJob, differing_fields, nothing_readable, plain_names
from en_bench.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")


def write_split(
    folder: str | os.PathLike[str],
    samples: Sequence[Source],
    *,
    dataset: str,
    split: str,
    classes: Sequence[str],
    encode: Callable[[bytes], Encoded],
    image: Mapping[str, Any],
    source: Mapping[str, Any],
    encode_mask: MaskEncoder | None = None,
    noise: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    shards: int | None = None,
    workers: int = 1,
    resume: bool = False,
    skipped: Sequence[Skipped] = (),
    progress: Progress = lambda done, total, size: None,
    say: Callable[[str], None] = print,
) -> Manifest:
    """Writes the samples, in an order permuted by `seed`, into shards with a manifest, and returns the manifest.

    The manifest appears when all is there. A split that was made with the same options from samples of the same keys
    and labels is left as it is; the pixels are not compared. The bytes of all files depend on samples and options
    alone: not on `workers`, nor on how often the work was interrupted.

    Args:
        folder: the split folder to make, or its URL.
        samples: in the order of their source.
        dataset, split: names; `dataset` may contain "/".
        classes: names of the classes that labels, or the masks, number.
        encode: from raw file to image file; raises UnreadableImage with the reason.
        image: what `encode` does, for the manifest.
        source: provenance and the options of the script, for the manifest. JSON values.
        encode_mask: for samples with masks.
        noise: per label column what is known of its noise, such as kind, rate and seed. The realised rate is added
            here, over the samples written whose label in it and in column "clean" is known; in a set without that
            column, in the one that it was made `from`.
        seed: of the permutation.
        shards: their number. By default as many as make shards of about 256 MiB and at most 10,000 samples; of a set
            that needs fewer than 16, up to 16 of 1,000 samples or more.
        workers: processes. `encode` and the samples must be picklable for more than one.
        resume: go on with what an interrupted run left, if there is something.
        skipped: what the caller had to leave out already; listed first in skipped.csv.
        progress: called with (samples done, samples in all, bytes written).
        say: receives the closing line.

    Raises:
        InputError: no sample is readable, a key is used twice or cannot be a name, the folder holds something else
            or an interrupted run, another process is writing it, or the disk or bucket refuses.
    """
    folder = place(folder)
    for name in (dataset, split):
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot name shards: use letters, digits, '_', '-' and '.'")
    columns = check_sources(samples, len(classes), encode_mask is not None)
    if any("clean" not in columns and what.get("from") not in columns for what in (noise or {}).values()):
        raise ValueError("noise can be measured only beside a column 'clean', or the one that it was made from")
    plan = Manifest(
        folder=folder,
        dataset=dataset,
        split=split,
        classes=tuple(classes),
        columns=columns,
        members=("image",) if encode_mask is None else ("image", "mask"),
        count=0,
        skipped=0,
        shards=(),
        index_sha256="",
        inputs_sha256=fingerprint(samples),
        seed=seed,
        ignore_index=None if encode_mask is None else IGNORE,
        source=json.loads(json.dumps(source)),
        image=json.loads(json.dumps(image)),
        noise=json.loads(json.dumps(noise or {})),
    )
    if not samples:
        raise nothing_readable(split, skipped)
    try:
        if is_finished(folder):
            found = _same(plan, load_manifest(folder), shards)
            clear(folder)
            say(
                f"{shown(folder)}: already there, made with the same options from samples of the same keys and labels "
                "(their pixels are not compared); nothing to do"
            )
            return found
        with alone_in(folder):
            if is_finished(folder):
                raise InputError(f"{shown(folder)}: another process has just written it: run again")
            job = SplitJob(plan, samples, Encoders(encode, encode_mask), skipped)
            written = job.run(shards, workers, resume, progress, say)
            clear(folder)
    except (NotADirectoryError, FileExistsError, PermissionError, FileNotFoundError) as error:
        raise InputError(f"{shown(folder)}: {error.strerror or error}: choose another --out") from error
    except OSError as error:
        raise InputError(
            f"{shown(folder)}: {error.strerror or error}: finished shards are kept; make room, or see to the "
            "connection, and run again with --resume"
        ) from error
    size = sum(shard.bytes for shard in written.shards)
    number = f"{len(written.shards):,} shard{'' if len(written.shards) == 1 else 's'}"
    unused = f"; skipped {written.skipped:,}, see {shown(folder)}/{SKIPPED_NAME}" if written.skipped else "; skipped 0"
    say(f"{shown(folder)}: wrote {written.count:,} samples in {number}, {size / 1e6:,.1f} MB{unused}")
    return written


def _same(plan: Manifest, found: Manifest, shards: int | None) -> Manifest:
    """The finished split if it is the planned one. Raises InputError if it is another one."""
    found.check_shards()
    told_after = {"count", "skipped", "shards", "index"}
    there, wanted = (
        {name: value for name, value in to_fields(manifest).items() if name not in told_after}
        for manifest in (found, plan)
    )
    there["image"] = {name: value for name, value in there["image"].items() if name in plan.image}
    there["noise"] = {
        column: {name: value for name, value in what.items() if name != "realised"}
        for column, what in there["noise"].items()
    }
    differing = differing_fields(there, wanted)
    if shards is not None and len(found.shards) != min(shards, found.count):
        differing.append("--shards")
    if differing:
        names = ", ".join(plain_names(differing))
        raise InputError(
            f"{shown(found.folder)}: already there, made with other {names}: remove it, or choose another output folder"
        )
    return found
