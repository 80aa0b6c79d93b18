"""A run's metrics in a local file, one JSON object a line: what every table and picture is made of."""

from __future__ import annotations

import json
import math
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from en_bench.aside import number_for_aside
from en_bench.files import write_bytes
from en_bench.lease_guard import require_lease

NAME = "metrics.jsonl"
_MARK_BYTES = 4096  # of the file's end that a mark remembers


class MetricsFile(Logger):
    """Appends `{"step": ..., "epoch": ..., "<name>": value, ...}` to `<folder>/metrics.jsonl`, on rank 0.

    A line is written and flushed at once, so that a killed run keeps what it has measured, and a resumed one appends.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self._folder = Path(folder)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    @property
    def experiment(self) -> Path:
        """The file."""
        return self._folder / NAME

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        epoch = values.pop("epoch", None)
        line = {"step": step, "epoch": None if epoch is None else int(epoch), **values}
        require_lease()
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.experiment.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def mark(self) -> dict[str, Any]:
        """How far the file has been written: for `cut`."""
        try:
            with self.experiment.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _MARK_BYTES))
                return {"bytes": size, "ends": file.read().decode(errors="replace")}
        except FileNotFoundError:
            return {"bytes": 0, "ends": ""}

    def cut(self, mark: Mapping[str, Any]) -> None:
        """Drops what was written after `mark`: a training that goes on from there measures it again.

        A file in which those bytes are not, of another run, is set aside.
        """
        try:
            content = self.experiment.read_bytes()
        except FileNotFoundError:
            return
        size, ends = int(mark["bytes"]), str(mark["ends"])
        kept = content[:size]
        if size == 0 or len(content) < size or kept[-_MARK_BYTES:].decode(errors="replace") != ends:
            set_aside(self._folder)
        elif len(content) > size:
            write_bytes(self.experiment, kept)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration lies beside this file, whole, as config.yaml."""


def set_aside(folder: Path) -> int:
    """Renames the metrics that a run cut off earlier left in `folder`, so that a new one does not mix with them.

    Returns the number that they got, or would have got.
    """
    path = folder / NAME
    number = number_for_aside(folder)
    if path.exists():
        path.rename(folder / f"metrics.{number}.jsonl")
    return number
