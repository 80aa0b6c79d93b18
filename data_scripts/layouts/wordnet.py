"""The 1,000 classes that ImageNet (ILSVRC 2012) and WebVision 1.0 share, by WordNet id."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from en_bench.data.tables import parse_csv, table_bytes
from en_bench.errors import InputError

_TABLE = Path(__file__).parents[1] / "classes" / "imagenet1k.csv"


@functools.lru_cache(maxsize=1)
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 WordNet ids, sorted. The position of an id is its label."""
    rows = parse_csv(table_bytes(str(_TABLE)), _TABLE.name, ["wnid", "name"])
    return tuple(row["wnid"] for row in rows)


def require_imagenet_classes(found: Iterable[str], where: str) -> None:
    """Raises InputError unless `found` is a bijection onto the 1,000 ids: each once, none else."""
    listed = list(found)
    wanted = set(imagenet_classes())
    if len(listed) == len(wanted) and set(listed) == wanted:
        return
    missing, strange = sorted(wanted - set(listed)), sorted(set(listed) - wanted)
    twice = sorted(name for name, count in Counter(listed).items() if count > 1)
    details = [
        f"{len(names)} {what}, first {names[0]}"
        for what, names in (("missing", missing), ("not of ImageNet", strange), ("listed twice", twice))
        if names
    ]
    raise InputError(
        f"{where}: its {len(listed):,} WordNet ids are not ImageNet's 1,000 ({'; '.join(details)}): "
        "name the files of ILSVRC 2012 or WebVision 1.0"
    )
