"""The verbs `en-bench noise ...`: their arguments, without numpy or torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from en_bench.data.manifest import load_manifest
from en_bench.data.places import place, shown
from en_bench.errors import InputError

if TYPE_CHECKING:
    from en_bench.matrix.process import Execute
    from en_bench.matrix.verbs import Subparsers
    from en_bench.noise.transition import Counts

_TABLE = 20  # classes of which the whole matrix is printed
_CONFUSIONS = 20  # most frequent ones that are printed of more
_NAME = 12  # characters of a class name in the table


def add_verbs(subparsers: Subparsers) -> None:
    """Add `noise` with its verbs; each sets `handler`, as those of the matrix do."""
    noise = subparsers.add_parser("noise", help="wrong labels: how they are wrong, and which")
    verbs = noise.add_subparsers(dest="noise_verb", metavar="VERB", required=True)
    _add_matrix(verbs)
    # Their options are those of a run: `main` hands them on before this parser sees them.
    verbs.add_parser("audit", help="rank a run's training samples by how likely their label is wrong", add_help=False)
    verbs.add_parser("estimate", help="the transition matrix of a run's labels, without clean ones", add_help=False)


def _add_matrix(verbs: Subparsers) -> None:
    meaning = "count how often a label column calls which clean class what: its empirical transition matrix"
    matrix = verbs.add_parser("matrix", help=meaning, description=meaning, allow_abbrev=False)
    matrix.add_argument("split", metavar="SPLIT", help="a prepared split with a column `clean`; a folder or a URL")
    matrix.add_argument("--labels", default="given", metavar="COLUMN", help="e.g. worst (default: given)")
    matrix.add_argument("--out", type=Path, metavar="JSON", help="write it there too, for MatrixNoise and losses")
    matrix.set_defaults(handler=_matrix)


def _matrix(args: argparse.Namespace, execute: Execute) -> int:
    from en_bench.noise.transition import transition_counts, write_transition

    manifest = load_manifest(place(args.split))
    where = shown(manifest.folder)
    for column in ("clean", args.labels):
        if column not in manifest.columns:
            there = ", ".join(manifest.columns) or "none"
            raise InputError(f"{where} has no label column {column!r} (it has {there}): name a set or column that has")
    labels = manifest.load_index().labels
    counts = transition_counts(labels["clean"], labels[args.labels], len(manifest.classes))
    if not counts.sum():
        raise InputError(f"{where}: no sample's labels clean and {args.labels} are both known: name another column")
    print(_to_text(counts, manifest.classes, f"{where}: from clean (rows) to {args.labels} (columns)"))
    if args.out is not None:
        about = {"set": f"{manifest.dataset}/{manifest.split}", "digest": manifest.digest, "labels": args.labels}
        write_transition(args.out, counts, manifest.classes, about)
        print(f"wrote {args.out}")
    return 0


def _to_text(counts: Counts, classes: Sequence[str], title: str) -> str:
    from en_bench.noise.transition import normalised

    n, wrong = int(counts.sum()), int(counts.sum() - counts.trace())
    matrix = normalised(counts)
    lines = [f"{title}, in percent of the row"]
    if len(classes) <= _TABLE:
        names = [_printable(name)[:_NAME] for name in classes]
        width = max(map(len, names))
        lines.append(" " * width + "".join(f"{name[:6]:>7}" for name in names))
        lines += [
            f"{name:<{width}}" + "".join(f"{100 * share:7.2f}" for share in row)
            for name, row in zip(names, matrix, strict=True)
        ]
    else:
        lines += _confusions(counts, matrix, classes)
    empty = [_printable(name) for name, total in zip(classes, counts.sum(axis=1), strict=True) if not total]
    if empty:
        named = ", ".join(empty[:8]) + (", …" if len(empty) > 8 else "")
        lines.append(f"{len(empty):,} classes without a sample keep their label: {named}")
    lines.append(f"{100 * wrong / n:.2f} % of {n:,} differ ({wrong:,})")
    return "\n".join(lines)


def _confusions(counts: Counts, matrix: Any, classes: Sequence[str]) -> list[str]:
    """The most frequent ones, of more classes than a table holds."""
    pairs = [(int(counts[i, j]), i, j) for i, j in zip(*counts.nonzero(), strict=True) if i != j]
    found = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:_CONFUSIONS]
    told = [
        f"  {_printable(classes[i])} called {_printable(classes[j])}: {100 * matrix[i, j]:.2f} ({count:,})"
        for count, i, j in found
    ]
    return [f"the {len(told)} most frequent of {len(pairs):,} confusions:", *told]


def _printable(text: str) -> str:
    from en_bench.data.info import printable

    return printable(text)
