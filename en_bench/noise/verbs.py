"""The verbs `en-bench noise ...`: their arguments, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from en_bench.matrix.verbs import Subparsers


def add_verbs(subparsers: Subparsers) -> None:
    """Adds `noise` with its verbs; each sets `handler`, as those of the matrix do."""
    noise = subparsers.add_parser("noise", help="wrong labels: how they are wrong")
    verbs = noise.add_subparsers(dest="noise_verb", metavar="VERB", required=True)
    # Its options are those of a run: `main` hands them on before this parser sees them.
    verbs.add_parser("estimate", help="the transition matrix of a run's labels, without clean ones", add_help=False)
