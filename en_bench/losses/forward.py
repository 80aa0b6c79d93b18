"""Forward correction: the network predicts clean classes, the loss sees them through the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from en_bench.errors import InputError
from en_bench.losses.base import BatchFacts, Loss, TrainingFacts
from en_bench.noise.transition import Matrix, TransitionFile, read_transition


class ForwardCorrection(Loss):
    """-log (sum_i p_i T[i, y]): cross entropy of the noisy label under p T.

    Source: Patrini et al., "Making Deep Neural Networks Robust to Label Noise", CVPR 2017, theorem 2. T is given,
    `en-bench noise matrix` counts it where clean labels exist, and `en-bench noise estimate` estimates it without them.

    Args:
        matrix: file of T, T[i, j] the probability that class i is labelled j: JSON with `classes` and `matrix`, or
            .npy. It is read when a training starts.

    Raises InputError in `check` and `prepare` for a matrix that cannot be read, that belongs to other classes, or under
    which some label cannot occur.
    """

    def __init__(self, matrix: str) -> None:
        super().__init__()
        self.matrix = matrix
        # No buffer: it would be part of the checkpoint, narrowed with the network, and sent to all ranks in each step.
        self._log_matrix: Tensor | None = None
        self._columns: Tensor | None = None  # (C, C), its transpose as the logits are
        self._sha256 = ""

    def check(self, classes: Sequence[str]) -> None:
        file = read_transition(self.matrix)
        self._take(file, file.for_classes(classes))

    def prepare(self, training: TrainingFacts) -> None:
        if self._log_matrix is None:
            file = read_transition(self.matrix)
            self._take(file, file.for_classes(file.classes or [str(i) for i in range(training.classes)]))
        assert self._log_matrix is not None
        if len(self._log_matrix) != training.classes:
            raise InputError(
                f"{self.matrix}: a matrix of {len(self._log_matrix)} classes for a network of {training.classes}: "
                "use one of these classes"
            )

    def facts(self) -> dict[str, Any]:
        """sha256 of the file."""
        return {"matrix_sha256": self._sha256}

    def _take(self, file: TransitionFile, matrix: Matrix) -> None:
        impossible = np.flatnonzero(matrix.sum(axis=0) == 0)
        if len(impossible):
            name = file.classes[impossible[0]] if file.classes is not None else impossible[0]
            raise InputError(
                f"{file.name}: nothing is ever labelled '{name}', so the loss of such a label would be infinite: "
                "give every column something above 0"
            )
        self._log_matrix, self._columns = torch.from_numpy(matrix).log(), None
        self._sha256 = file.sha256

    def mean(self, logits: Tensor, target: Tensor, batch: BatchFacts) -> Tensor:
        assert self._log_matrix is not None, "prepare() comes before training"
        if self._columns is None or self._columns.device != logits.device or self._columns.dtype != logits.dtype:
            self._columns = self._log_matrix.T.to(logits.device, logits.dtype).contiguous()
        seen = self._columns[target]  # (B, C), log T[i, y] of each i
        return -torch.logsumexp(logits.log_softmax(1) + seen, 1).mean()
