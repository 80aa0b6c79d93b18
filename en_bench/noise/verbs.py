"""The verbs `en-bench noise ...`: their arguments, without numpy or torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from en_bench.data.manifest import load_manifest
from en_bench.data.places import place, shown
from en_bench.errors import InputError

if TYPE_CHECKING:
    from en_bench.matrix.process import Execute
    from en_bench.matrix.verbs import Subparsers
    from en_bench.noise.transition import Counts


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
    from en_bench.noise.matrix_text import matrix_lines, named
    from en_bench.noise.transition import normalised

    n, wrong = int(counts.sum()), int(counts.sum() - counts.trace())
    lines = [f"{title}, in percent of the row", *matrix_lines(normalised(counts), classes, counts)]
    if empty := [name for name, total in zip(classes, counts.sum(axis=1), strict=True) if not total]:
        lines.append(f"{len(empty):,} classes without a sample keep their label: {named(empty)}")
    lines.append(f"{100 * wrong / n:.2f} % of {n:,} differ ({wrong:,})")
    return "\n".join(lines)
