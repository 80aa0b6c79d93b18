"""The matrix of the forward correction: which files are taken, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from en_bench.errors import InputError
from en_bench.losses import BatchFacts, ForwardCorrection, TrainingFacts

CLASSES = ["dark", "grey", "bright"]
T = [[0.8, 0.1, 0.1], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]]


def written(folder: Path, fields: object) -> str:
    path = folder / "T.json"
    path.write_text(json.dumps(fields))
    return str(path)


def test_json_and_npy_are_the_same(tmp_path):
    np.save(tmp_path / "T.npy", np.array(T))
    values = []
    for path in (written(tmp_path, {"classes": CLASSES, "matrix": T}), str(tmp_path / "T.npy")):
        loss = ForwardCorrection(path)
        loss.check(CLASSES)
        assert loss.facts()["matrix_sha256"]
        assert not loss.state_dict()
        values.append(loss._log_matrix)
    assert torch.equal(values[0], values[1])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"classes": ["dark", "bright", "grey"], "matrix": T}, "classes are not the 3 of the set"),
        ({"classes": ["a", "b"], "matrix": [[1, 0], [0, 1]]}, "2 classes are not the 3"),
        ({"matrix": [[1, 0], [0, 1]]}, "the matrix is of 2 classes"),
        ({"matrix": [[1, 0, 0], [0, 1, 0]]}, "not square"),
        ({"matrix": [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.4]]}, "row 2 is no distribution"),
        ({"matrix": [[1.5, -0.5, 0], [0, 1, 0], [0, 0, 1]]}, "row 0 is no distribution"),
        ({"matrix": [[1, 0, 0], [0, 1, 0], [0, 1, 0]]}, "nothing is ever labelled"),
        ({"classes": CLASSES}, "no transition matrix"),
    ],
)
def test_matrices_that_do_not_fit(tmp_path, fields, words):
    with pytest.raises(InputError, match=words):
        ForwardCorrection(written(tmp_path, fields)).check(CLASSES)


def test_the_matrix_is_moved_once_and_again_for_another_precision(tmp_path):
    """It keeps its digits: a loss in float64 after one in float32 is that of a fresh loss."""
    path = written(tmp_path, {"matrix": T})
    batch = BatchFacts(torch.arange(4), 0, 0)
    logits, target = torch.randn(4, 3, dtype=torch.float64, generator=torch.manual_seed(0)), torch.tensor([0, 1, 2, 0])
    used, fresh = ForwardCorrection(path), ForwardCorrection(path)
    for loss in (used, fresh):
        loss.check(CLASSES)
    used(logits.float(), target, batch)
    moved = used._columns
    used(logits.float(), target, batch)
    assert used._columns is moved and moved is not None
    assert used(logits, target, batch) == fresh(logits, target, batch)


def test_no_pickle(tmp_path):
    np.save(tmp_path / "T.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="no transition matrix"):
        ForwardCorrection(str(tmp_path / "T.npy")).check(CLASSES)


def test_a_network_of_other_classes(tmp_path):
    loss = ForwardCorrection(written(tmp_path, {"matrix": T}))
    with pytest.raises(InputError, match="4"):
        loss.prepare(TrainingFacts(4, None, torch.device("cpu"), {}))
