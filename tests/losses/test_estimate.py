"""`en-bench noise estimate`: a run in, a transition matrix out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from en_bench import backbones
from en_bench.cli import main
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop, PadCropFlip
from en_bench.losses import ForwardCorrection
from en_bench.losses.estimate import anchor_transitions, default_percentile, doubtful
from en_bench.norms import BatchNorm, swap_norms
from tests.test_cli import fit_arguments, one_line


def released(eta: np.ndarray) -> np.ndarray:
    """As the authors' code finds it: the surest sample below the 97th percentile of each class."""
    matrix = np.empty((eta.shape[1], eta.shape[1]))
    for i in range(eta.shape[1]):
        threshold = np.percentile(eta[:, i], 97, method="higher")
        matrix[i] = eta[np.argmax(np.where(eta[:, i] >= threshold, 0.0, eta[:, i]))]
    return matrix


def test_anchors_are_those_of_the_released_code():
    for seed in range(5):
        eta = np.random.default_rng(seed).dirichlet([0.3] * 5, 137)
        np.testing.assert_allclose(anchor_transitions(eta, 97), released(eta))
        np.testing.assert_allclose(anchor_transitions(eta, 100), eta[eta.argmax(axis=0)])


def test_by_hand():
    eta = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.05, 0.95]])
    np.testing.assert_allclose(anchor_transitions(eta, 100), [[0.9, 0.1], [0.05, 0.95]])
    np.testing.assert_allclose(anchor_transitions(eta, 75), [[0.8, 0.2], [0.3, 0.7]])


def test_a_matrix_is_found_where_anchors_exist():
    """Posteriors of clean classes that some samples are sure of, seen through T."""
    matrix = np.array([[0.7, 0.3, 0.0], [0.1, 0.8, 0.1], [0.2, 0.0, 0.8]])
    clean = np.random.default_rng(0).dirichlet([0.05] * 3, 5000)
    np.testing.assert_allclose(anchor_transitions(clean @ matrix, 97), matrix, atol=0.01)


def test_of_equals_the_last_row_stands_for_the_class():
    eta = np.array([[0.8, 0.1, 0.1], [0.8, 0.2, 0.0], [0.0, 0.5, 0.5]])
    np.testing.assert_allclose(anchor_transitions(eta, 100)[0], [0.8, 0.2, 0.0])
    np.testing.assert_allclose(anchor_transitions(eta, 50)[0], [0.8, 0.1, 0.1])


def test_of_many_classes_the_surest_sample_stands_for_each():
    """100 classes, 60 % of whose labels are kept: at the 97th percentile stands a sample of another class."""
    rng = np.random.default_rng(0)
    classes, names = 100, [f"c{i}" for i in range(100)]
    matrix = np.full((classes, classes), 0.4 / 99)
    np.fill_diagonal(matrix, 0.6)
    labels = rng.permutation(np.repeat(np.arange(classes, dtype=np.int32), 20))
    eta = (0.98 * np.eye(classes)[labels] + 0.02 * rng.dirichlet([0.1] * classes, len(labels))) @ matrix
    found = anchor_transitions(eta, default_percentile(labels, classes))
    np.testing.assert_allclose(found, matrix, atol=0.02)
    assert doubtful(found, names) is None
    wrong = anchor_transitions(eta, 97)
    assert np.diag(wrong).max() < 0.05
    told = doubtful(wrong, names)
    assert told is not None and told.startswith("warning: 100 of 100 classes") and told.count("(") == 5


@pytest.mark.parametrize(
    ("counts", "percentile"),
    [([50, 50], 97), ([95, 5], 97), ([96, 4], 100), ([50, 50, 0], 100), ([1] * 20, 97), ([1] * 21, 100)],
)
def test_the_percentile_follows_from_the_rarest_label(counts, percentile):
    assert default_percentile(np.repeat(np.arange(len(counts)), counts).astype(np.int32), len(counts)) == percentile


def test_only_rows_whose_own_label_is_not_the_first_are_told():
    told = doubtful(np.array([[0.6, 0.4, 0], [0.5, 0.4, 0.1], [0, 0, 1]]), ["cat", "dog", "fox"])
    assert told is not None and "1 of 3 classes" in told and "dog (cat)" in told and "fox" not in told


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(fit_arguments(shards, run)) == 0
    return run


def test_a_run_in_a_matrix_out(trained, shards, tmp_path, capsys):
    """Every training image once, as validation sees images; the same whatever the batch."""
    files = []
    for size in (93, 40):
        files.append(tmp_path / f"{size}.json")
        options = ("--out", files[-1], "--percentile", 90, "--data.val_batch_size", size)
        assert main(["noise", "estimate", str(trained), *map(str, options)]) == 0
    out = capsys.readouterr().out
    found = [json.loads(path.read_text()) for path in files]
    assert "200 images of a/train, 0 unreadable" in out
    for name, row in zip(("dark  ", "grey  ", "bright"), found[0]["matrix"], strict=True):
        assert name + "".join(f"{100 * share:7.2f}" for share in row) + "\n" in out
    np.testing.assert_allclose(found[0]["matrix"], found[1]["matrix"], rtol=1e-4, atol=1e-6)
    assert found[0]["classes"] == ["dark", "grey", "bright"]
    assert found[0]["estimated"]["n"] == 200 and found[0]["estimated"]["percentile"] == 90

    network = backbones.build("cifar/resnet8", 3)
    swap_norms(network, BatchNorm)
    state = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    network.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})
    data = ShardDataModule("a/train", "a/train", PadCropFlip(32), CenterCrop(32), str(shards), val_batch_size=200)
    data.setup("validate")
    (batch,) = data.val_dataloader()
    with torch.no_grad():
        probability = network.eval()(data.on_after_batch_transfer(batch, 0).image).softmax(1).numpy()
    np.testing.assert_allclose(found[0]["matrix"], anchor_transitions(probability, 90), rtol=1e-3, atol=1e-5)
    ForwardCorrection(str(files[0])).check(["dark", "grey", "bright"])


def test_the_percentile_that_was_used_is_recorded(trained, tmp_path, capsys):
    out = tmp_path / "T.json"
    assert main(["noise", "estimate", str(trained), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["estimated"]["percentile"] == 97, "three classes, a third each"
    assert "the image at percentile 97 of p(label)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["RUN", "--out", "T.json", "--model.loss", "LabelSmoothing"], "this run trains with LabelSmoothing, after"),
        (["RUN", "--out", "T.json", "--model.mixup", "0.5"], "trains with CrossEntropy and --model.mixup 0.5, after"),
        (["RUN"], "estimate needs --out"),
        (["RUN", "--out", "T.json", "--percentile", "101"], "--percentile 101.0 is not within 0 .. 100"),
        (
            ["nowhere", "--out", "T.json"],
            "nowhere is no run: it has no config.yaml; give the folder that en-bench fit wrote",
        ),
        (["--out", "T.json"], "estimate needs the run's folder first: en-bench noise estimate RUN"),
        (["RUN", "--out", "T.json", "--ckpt_path", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["RUN", "--out", "T.json", "--data.train", "a/trian"], "a/trian: no such folder"),
        (["RUN", "--out", "T.json", "--percentage", "90"], "there is no option --percentage"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(trained, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    given = [str(trained) if option == "RUN" else option for option in options]
    assert main(["noise", "estimate", *given]) in (1, 2)
    assert words in one_line(capsys)
    assert not Path("T.json").exists()
