"""All kinds of made noise, by the names they have in records and options."""

from __future__ import annotations

from en_bench.noise.base import Noise
from en_bench.noise.conditional import MatrixNoise, PairNoise, SymmetricNoise
from en_bench.noise.instance import InstanceNoise

__all__ = ["KINDS", "Noise"]

KINDS: dict[str, type[Noise]] = {kind.kind: kind for kind in (SymmetricNoise, PairNoise, MatrixNoise, InstanceNoise)}
