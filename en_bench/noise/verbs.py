"""The verb `en-bench noise audit`: its place among the verbs, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from en_bench.matrix.verbs import Subparsers


def add_verbs(subparsers: Subparsers) -> None:
    """Add `noise` with its verbs."""
    noise = subparsers.add_parser("noise", help="labels: which are likely wrong")
    verbs = noise.add_subparsers(dest="noise_verb", metavar="VERB", required=True)
    # Its options are those of a run: `main` hands them on before this parser sees them.
    verbs.add_parser("audit", help="rank a run's training samples by how likely their label is wrong", add_help=False)
