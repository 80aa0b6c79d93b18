"""What a prepared split holds, for people and for scripts."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from en_bench.data.index import Index
from en_bench.data.manifest import SKIPPED_NAME, Manifest, classes_digest
from en_bench.data.places import read_bytes, shown
from en_bench.errors import InputError

CLEAN = "clean"
_CONFUSIONS = 3  # most frequent ones that are told
_NAMES = 12  # classes named where not all are asked for
_REASONS = 8  # reasons of skipped samples in the text
_WIDTH = 14  # of the first column of the text, unless a label column has a longer name
_MEASURED = {"known", "differ", "realised", "confusions", "against"}  # of noise; what else is told of it was asked for


def skipped_rows(manifest: Manifest) -> list[dict[str, str]]:
    """Rows of skipped.csv: key, origin, reason. Raises InputError where it is missing or something else."""
    path = shown(manifest.folder / SKIPPED_NAME)
    try:
        text = read_bytes(manifest.folder / SKIPPED_NAME).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}: copy or prepare the split again") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV in UTF-8 ({error}): copy or prepare the split again") from error
    if any(set(row) != {"key", "origin", "reason"} for row in rows):
        raise InputError(f"{path}: not a list of key, origin and reason: copy or prepare the split again")
    return rows


def describe(manifest: Manifest) -> dict[str, Any]:
    """All that manifest, index and skipped.csv say of a split, as JSON values. Raises InputError."""
    index = manifest.load_index()
    size = sum(shard.bytes for shard in manifest.shards)
    reencoded = manifest.image.get("reencoded")
    return {
        "url": shown(manifest.folder),
        "dataset": manifest.dataset,
        "split": manifest.split,
        "samples": manifest.count,
        "skipped": {"count": manifest.skipped, "reasons": _reasons(manifest)},
        "shards": {"count": len(manifest.shards), "bytes": size, "mean_bytes": round(size / len(manifest.shards))},
        "classes": {
            "count": len(manifest.classes),
            "names": list(manifest.classes),
            "sha256": classes_digest(manifest.classes),
        },
        "columns": {column: _column(manifest, index, column) for column in manifest.columns},
        "images": {
            **manifest.image,
            "kept": None if reencoded is None else manifest.count - reencoded,
            "bytes": int(index.size[:, 0].sum()),
        },
        "masks": {"ignore_index": manifest.ignore_index} if "mask" in manifest.members else None,
        "source": dict(manifest.source),
        "location": None if manifest.location is None else shown(manifest.location),
        "seed": manifest.seed,
        "digest": manifest.digest,
    }


def _reasons(manifest: Manifest) -> list[dict[str, Any]]:
    """Reasons why samples were skipped, most frequent first. Those that differ in their numbers only count as one."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in skipped_rows(manifest):
        groups.setdefault(re.sub(r"\d+", "N", row["reason"]), []).append(row)
    found = []
    for pattern, rows in groups.items():
        alike = len({row["reason"] for row in rows}) == 1
        reason = rows[0]["reason"] if alike else pattern
        found.append({"reason": reason, "count": len(rows), "first": rows[0]["origin"]})
    return sorted(found, key=lambda group: -group["count"])


def _column(manifest: Manifest, index: Index, column: str) -> dict[str, Any]:
    labels = index.labels[column]
    known = labels[labels >= 0]
    per_class = np.bincount(known, minlength=len(manifest.classes))
    present = per_class[per_class > 0]
    facts: dict[str, Any] = {
        "known": len(known),
        "classes_present": len(present),
        "per_class": {"min": int(present.min()), "median": float(np.median(present)), "max": int(present.max())}
        if len(present)
        else None,
        "counts": per_class.tolist(),
    }
    made = manifest.noise.get(column, {})
    against = CLEAN if CLEAN in index.labels else str(made.get("from"))
    if column != CLEAN and against in index.labels:
        facts["noise"] = {
            **{name: value for name, value in made.items() if name != "realised"},
            "against": against,
            **_noise(labels, index.labels[against], manifest.classes),
        }
    return facts


def _noise(labels: NDArray[np.int32], clean: NDArray[np.int32], classes: Sequence[str]) -> dict[str, Any]:
    """How often labels differ from the clean ones, over the samples where both are known, and how."""
    both = (labels >= 0) & (clean >= 0)
    wrong = both & (labels != clean)
    pairs = Counter(zip(clean[wrong].tolist(), labels[wrong].tolist(), strict=True))
    return {
        "known": int(both.sum()),
        "differ": int(wrong.sum()),
        "realised": float(wrong.sum() / both.sum()) if both.any() else None,
        "confusions": [
            {"clean": classes[pair[0]], "label": classes[pair[1]], "count": count}
            for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_CONFUSIONS]
        ],
    }


def printable(text: object) -> str:
    """Text without what would move a terminal's cursor: other people's names are in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def to_text(facts: Mapping[str, Any], all_classes: bool = False) -> str:
    """`describe`'s facts as aligned lines; every class with its counts if asked."""
    lines = [printable(facts["url"])]
    paragraphs = [(printable(name), values) for name, values in _paragraphs(facts)]
    width = max(_WIDTH, *(len(name) + 2 for name, _ in paragraphs))
    for name, values in paragraphs:
        for number, value in enumerate(values):
            lines.append(f"  {name if number == 0 else '':{width}}{printable(value)}".rstrip())
    if all_classes:
        lines += ["", *_class_table(facts)]
    return "\n".join(lines) + "\n"


def _paragraphs(facts: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    shards, classes, images = facts["shards"], facts["classes"], facts["images"]
    yield "data set", [f"{facts['dataset']}, split {facts['split']}"]
    yield "samples", [f"{facts['samples']:,}"]
    yield "skipped", [f"{facts['skipped']['count']:,}", *_reason_lines(facts["skipped"]["reasons"])]
    mean = f", {_size(shards['mean_bytes'])} on average" if shards["count"] > 1 else ""
    yield "shards", [f"{shards['count']:,}, {_size(shards['bytes'])}{mean}"]
    more = classes["count"] - _NAMES
    names = ", ".join(classes["names"][:_NAMES]) + (f", and {more:,} more (--classes lists them)" if more > 0 else "")
    yield "classes", [f"{classes['count']:,}: {names}", f"sha256 of their names {classes['sha256'][:12]}…"]
    for column, labels in facts["columns"].items():
        yield f"label {column}", _label_lines(labels, facts["samples"], classes["count"])
    yield "images", _image_lines(images, facts["samples"])
    if facts["masks"] is not None:
        yield "masks", [f"a class number per pixel, {facts['masks']['ignore_index']} where none is asked"]
    source = list(_flat(facts["source"]))
    width = max((len(name) for name, _ in source), default=0)
    yield "source", [f"{name:{width}}  {value}" for name, value in source] or ["not stated"]
    if facts["location"] is not None:
        yield "shards in", [facts["location"]]
    order = "the order in the shards is that of their maker" if facts["seed"] is None else "of the order in the shards"
    yield "seed", [f"{'none' if facts['seed'] is None else facts['seed']} ({order})"]
    yield "digest", [facts["digest"]]


def _reason_lines(reasons: Sequence[Mapping[str, Any]]) -> list[str]:
    shown_reasons = reasons[:_REASONS]
    width = max((len(f"{group['count']:,}") for group in shown_reasons), default=0)
    lines = [f"{group['count']:>{width},}  {group['reason']}: {group['first']}" for group in shown_reasons]
    rest = sum(group["count"] for group in reasons[_REASONS:])
    return [*lines, f"{rest:,} for {len(reasons) - _REASONS:,} other reasons: see {SKIPPED_NAME}"] if rest else lines


def _label_lines(labels: Mapping[str, Any], samples: int, classes: int) -> list[str]:
    known = "all known" if labels["known"] == samples else f"{labels['known']:,} of {samples:,} known"
    lines = [known if labels["per_class"] is None else f"{known}; {_spread(labels, classes)}"]
    noise = labels.get("noise")
    if noise is None:
        return lines
    if noise["realised"] is None:
        return [*lines, f"no sample whose {noise['against']} label is known too"]
    made = ", ".join(f"{name} {value}" for name, value in _flat(noise) if name not in _MEASURED)
    told = f"{100 * noise['realised']:.2f} % differ from {noise['against']} ({noise['differ']:,} of {noise['known']:,})"
    lines.append(told + (f"; made: {made}" if made else ""))
    if noise["confusions"]:
        pairs = (f"{c['clean']} called {c['label']} ({c['count']:,})" for c in noise["confusions"])
        lines.append(f"most often {', '.join(pairs)}")
    return lines


def _spread(labels: Mapping[str, Any], classes: int) -> str:
    """How the samples lie over the classes that occur."""
    least, median, most = (labels["per_class"][name] for name in ("min", "median", "max"))
    present = labels["classes_present"]
    of = f"all {classes:,} classes" if present == classes else f"{present:,} of {classes:,} classes"
    return f"{of}, {least:,} each" if least == most else f"{of}, {least:,} to {most:,} each, median {median:,g}"


def _image_lines(images: Mapping[str, Any], samples: int) -> list[str]:
    lines = [f"{_size(images['bytes'] / samples)} on average"]
    if images["kept"] is not None:
        lines[0] = f"{images['kept']:,} as they were, {images['reencoded']:,} encoded again; {lines[0]}"
    options = []
    if images.get("reencoded") and images.get("encoding"):
        quality = f" of quality {images.get('quality')}" if images["encoding"] == "jpeg" else ""
        options.append(f"encoded as {str(images['encoding']).upper()}{quality}")
    if "short_side" in images:
        side = images["short_side"]
        options.append(f"short side at most {side} px" if side else "sizes as they were")
    if "verified" in images:
        options.append("all decoded when written" if images["verified"] else "kept ones not decoded (--no-verify)")
    return [*lines, "; ".join(options)] if options else lines


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested fields as (dotted name, value), without those that say nothing."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            # Files stand there with their hashes, which --json tells.
            told = [item.get("file", item) if isinstance(item, Mapping) else item for item in value]
            yield f"{prefix}{name}", ", ".join(map(str, told)) or "none"
        elif value is not None:
            yield f"{prefix}{name}", str(value)


def _class_table(facts: Mapping[str, Any]) -> list[str]:
    columns = facts["columns"]
    names = [printable(name) for name in facts["classes"]["names"]]
    wide = max(len("class"), *(len(name) for name in names)) if names else len("class")
    widths = {column: max(len(column), 7) for column in columns}
    header = f"  {'':>5}  {'class':{wide}}" + "".join(f"  {column:>{widths[column]}}" for column in columns)
    rows = [
        f"  {number:>5}  {name:{wide}}"
        + "".join(f"  {facts['counts'][number]:>{widths[column]},}" for column, facts in columns.items())
        for number, name in enumerate(names)
    ]
    return [line.rstrip() for line in [header, *rows]]


def _size(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:,.0f} bytes"
