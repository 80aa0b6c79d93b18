"""Noise in real trainings: what it changes, what is recorded, what it refuses, and what it cannot reach."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from en_bench.cli import main
from en_bench.data.loader import make_loader
from en_bench.data.manifest import load_manifest, save_manifest
from en_bench.data.module import ShardDataModule
from en_bench.data.samplers import TrainSampler
from en_bench.data.transforms import CenterCrop
from en_bench.errors import InputError
from en_bench.noise.conditional import MatrixNoise, PairNoise, SymmetricNoise
from en_bench.noise.instance import InstanceNoise
from en_bench.noise.reading_images import read_small_images
from en_bench.noise.training_labels import TrainingLabels
from tests.noise.made import CLASSES, garble, labelled_sets, labelled_split, relabel
from tests.resume.runs import arguments, assert_same, what_is_left
from tests.resume.test_kills import run as run_in_a_process
from tests.resume.watch import Killed

SYMMETRIC = ["--data.noise", "SymmetricNoise", "--data.noise.rate", "0.4"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return labelled_sets(tmp_path_factory.mktemp("labelled"))


def module(sets: Path, **options) -> ShardDataModule:
    data = ShardDataModule("a/train", "a/val", CenterCrop(32), CenterCrop(32), root=str(sets), batch_size=8, **options)
    data.setup("fit")
    return data


def fit(sets: Path, run: Path, *more: object) -> dict:
    assert main(arguments(sets, run, "--trainer.max_epochs", "1", *more)) == 0
    return json.loads((run / "fit.json").read_text())


def test_a_training_tells_and_records_its_noise(sets, tmp_path, capsys):
    facts = fit(sets, tmp_path / "run", *SYMMETRIC)["noise"]
    index = load_manifest(sets / "a" / "train").load_index()
    made = SymmetricNoise(0.4).apply(index.labels["given"], index.keys, ("dark", "grey", "bright"))
    pairs = Counter(zip(index.labels["given"].tolist(), made.tolist(), strict=True))
    count = sum(number for (a, b), number in pairs.items() if a != b)
    assert 50 < count < 110
    matrix = [[pairs[a, b] for b in range(3)] for a in range(3)]
    counted = {"n": 200, "count": count, "rate": count / 200, "matrix": matrix}
    assert facts == {
        "labels": "given",
        "made": {"kind": "symmetric", "rate": 0.4, "seed": 0},
        "stored": None,
        "measured_by": "clean",
        "changed": counted,
        "wrong": counted,
        "held_out": None,
    }
    told = f"labels: given + symmetric 0.4 (seed 0): {count / 2:.2f} % of 200 changed"
    assert told in capsys.readouterr().out.splitlines()


def test_real_noise_is_measured_too_and_noise_on_top_of_it(sets, tmp_path, capsys):
    facts = fit(sets, tmp_path / "run", "--data.labels", "human")["noise"]
    # of 200 every tenth is unknown; of the other 180 those at a multiple of 4 are wrong: 50, none of which ends in 9
    wrong = [i for i in range(200) if i % 4 == 0]
    assert facts["made"] is None and facts["changed"] is None and facts["stored"]["source"] == "us"
    assert {k: facts["wrong"][k] for k in ("n", "count", "rate")} == {"n": 180, "count": 50, "rate": 50 / 180}
    moved = [facts["wrong"]["matrix"][a][(a + 1) % 3] for a in range(3)]
    assert moved == [sum(i % 3 == a for i in wrong) for a in range(3)]
    assert "labels: human: 27.78 % of 180 are not the clean ones" in capsys.readouterr().out.splitlines()
    data = module(sets, labels="human", noise=SymmetricNoise(0.4))
    both = data.training_labels.facts()
    assert data.train_count == both["changed"]["n"] == both["wrong"]["n"] == 180
    assert 40 < both["changed"]["count"] < 104 and both["wrong"]["count"] > 50
    changed, wrong_now = (f"{100 * both[what]['rate']:.2f} %" for what in ("changed", "wrong"))
    told = f"{changed} of 180 changed, {wrong_now} of 180 are not the clean ones"
    assert data.training_labels.line() == f"labels: human + symmetric 0.4 (seed 0): {told}"
    data.teardown("fit")


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A split whose labels were made wrong when it was prepared, as by `digits.py --noise 0.4`; `human` from these."""
    root = tmp_path_factory.mktemp("stored")
    for name, count in (("train", 600), ("val", 30)):
        labelled_split(root / "a" / name, count)
    train = root / "a" / "train"
    clean = load_manifest(train).load_index()
    given = SymmetricNoise(0.4).apply(clean.labels["clean"], clean.keys, CLASSES)
    again = SymmetricNoise(0.2, seed=1).apply(given, clean.keys, CLASSES)
    relabel(train, given=given, human=again)
    noise = {
        "given": {
            **SymmetricNoise(0.4).describe(),
            "from": "clean",
            "realised": float((given != clean.labels["clean"]).mean()),
        }
    }
    noise["human"] = {
        **SymmetricNoise(0.2, seed=1).describe(),
        "from": "given",
        "realised": float((again != given).mean()),
    }
    save_manifest(dataclasses.replace(load_manifest(train), noise=noise))
    return root


@pytest.mark.parametrize("noise", [SymmetricNoise(0.4), PairNoise(0.2), InstanceNoise(0.4)], ids=str)
def test_noise_of_the_seed_that_made_the_labels_is_refused(stored, noise):
    with pytest.raises(InputError) as told:
        module(stored, noise=noise)
    assert str(told.value) == (
        "--data.noise on labels 'given' of toy/train: symmetric 0.4 (seed 0) made these labels, and noise of the same "
        "seed would hit the same samples again: use --data.noise.seed 1, or start from --data.labels clean"
    )


def test_so_is_the_seed_of_any_column_that_it_goes_back_to(stored):
    for seed, made in ((0, "symmetric 0.4 (seed 0)"), (1, "symmetric 0.2 (seed 1)")):
        with pytest.raises(InputError) as told:
            module(stored, labels="human", noise=SymmetricNoise(0.4, seed=seed))
        assert f"{made} made these labels" in str(told.value)
        assert str(told.value).endswith("use --data.noise.seed 2, or start from --data.labels clean")
    module(stored, labels="human", noise=SymmetricNoise(0.4, seed=2)).teardown("fit")


def test_another_seed_adds_what_its_rate_says_and_both_are_told(stored):
    """Of three classes 0.4 on top of 0.4: 0.6 * 0.4 + 0.4 * (0.6 + 0.4 / 2) are wrong."""
    data = module(stored, noise=SymmetricNoise(0.4, seed=1))
    facts = data.training_labels.facts()
    assert facts["wrong"]["rate"] == pytest.approx(0.56, abs=4 * (0.56 * 0.44 / 600) ** 0.5)
    changed, wrong = (f"{100 * facts[what]['rate']:.2f} % of 600" for what in ("changed", "wrong"))
    line = f"labels: given + symmetric 0.4 (seed 1): {changed} changed, {wrong} are not the clean ones"
    assert data.training_labels.line() == line
    data.teardown("fit")


def test_both_are_told_though_they_are_equally_many():
    clean, stored, targets = (np.array(labels, np.int32) for labels in ([0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]))
    none = np.zeros(4, np.bool_)
    arguments = ("given", SymmetricNoise(0.25, seed=1), stored, targets, ("clean", clean), CLASSES, None, none)
    told = "25.00 % of 4 changed, 50.00 % of 4 are not the clean ones"
    assert TrainingLabels(*arguments).line() == f"labels: given + symmetric 0.25 (seed 1): {told}"
    targets[:] = [0, 0, 1, 0]
    told = "50.00 % of 4 changed, 25.00 % of 4 are not the clean ones"
    assert TrainingLabels(*arguments).line().endswith(told)
    targets[:] = [0, 0, 0, 2]
    told = "25.00 % of 4 changed, 25.00 % of 4 are not the clean ones"
    assert TrainingLabels(*arguments).line().endswith(told)


def test_without_noise_nothing_is_said(sets):
    data = module(sets, labels="clean")
    none = dict.fromkeys(("made", "stored", "measured_by", "changed", "wrong", "held_out"))
    assert data.training_labels.facts() == {"labels": "clean", **none}
    assert data.training_labels.line() is None
    data.teardown("fit")


def test_what_trains_and_what_is_held_out_are_counted_apart(sets):
    data = module(sets, labels="human", noise=SymmetricNoise(0.4), held_out=0.3)
    index = load_manifest(sets / "a" / "train").load_index()
    facts = data.training_labels.facts()
    for found, targets in ((facts, data.trained_labels), (facts["held_out"], data.held_out_labels)):
        pairs = [
            (a, b, c)
            for a, b, c in zip(*map(list, (index.labels["human"], targets, index.labels["clean"])), strict=True)
            if b >= 0
        ]
        for name, before in (("changed", 0), ("wrong", 2)):
            count = sum(pair[before] != pair[1] for pair in pairs)
            assert (found[name]["n"], found[name]["count"]) == (len(pairs), count) and 0 < count < len(pairs)
            assert found[name]["rate"] == count / len(pairs)
            assert sum(map(sum, found[name]["matrix"])) == len(pairs)
    assert facts["changed"]["n"] == data.train_count and facts["held_out"]["wrong"]["n"] == data.held_out_count
    assert data.train_count + data.held_out_count == 180
    assert f"of {data.train_count} changed" in data.training_labels.line()
    data.teardown("fit")


@pytest.mark.parametrize("noise", [SymmetricNoise(0.4, seed=2), PairNoise(0.6), InstanceNoise(0.5)], ids=str)
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 2)])
def test_batches_hold_the_same_labels_on_every_rank_and_worker(sets, noise, ranks, workers):
    data = module(sets, noise=noise)
    index = load_manifest(sets / "a" / "train").load_index()
    images = read_small_images(data.train_manifest, index, data.cache, np.arange(200))
    wanted = noise.apply(index.labels["given"], index.keys, data.classes, lambda rows: images[rows])
    seen = {}
    for rank in range(ranks):
        sampler = TrainSampler(data.shuffle, 8 // ranks, rank, ranks, 1)
        for batch in make_loader(data._train_set, sampler, workers, pin_memory=False):
            seen |= dict(zip(batch.row.tolist(), batch.target.tolist(), strict=True))
    assert seen == dict(enumerate(wanted.tolist())) and (wanted != index.labels["given"]).any()
    data.teardown("fit")


def test_validation_is_scored_against_labels_without_noise(sets):
    data = module(sets, noise=SymmetricNoise(1.0))
    index = load_manifest(sets / "a" / "val").load_index()
    assert np.array_equal(data._val_set.targets, index.labels["clean"])
    data.teardown("fit")


def test_a_checkpoint_of_other_noise_is_refused(sets, tmp_path, capsys):
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(sets, run, *SYMMETRIC, kill="batch 0 4", by="raise"))
    capsys.readouterr()
    for changes in ([], [*SYMMETRIC[:3], "0.2"]):
        assert main(arguments(sets, run, *changes)) == 1
        (told,) = capsys.readouterr().err.splitlines()
        assert "instead of label noise symmetric 0.4 (seed 0): give the --data.noise it was trained with" in told


def test_a_file_of_noise_may_be_renamed(sets, tmp_path):
    found = []
    for name, kept in (("a", 0.5), ("b", 0.5), ("other", 0.8)):
        (tmp_path / f"{name}.json").write_text(
            json.dumps((np.full((3, 3), (1 - kept) / 2) + np.eye(3) * (3 * kept - 1) / 2).tolist())
        )
        data = module(sets, noise=MatrixNoise(str(tmp_path / f"{name}.json")))
        found.append(data.stream_state())
        assert data.training_labels.facts()["made"]["matrix"]["file"] == f"{name}.json"
        data.teardown("fit")
    a, b, other = found
    assert b.differences(a.to_fields()) == [] and len(other.differences(a.to_fields())) == 1


def test_noise_that_cannot_be_made_is_one_line(sets, tmp_path, capsys):
    for options, message in (
        (
            ["PairNoise", "--data.noise.rate", "0.4", "--data.noise.mapping", "cifar10"],
            "'truck' of its mapping is none",
        ),
        (["SymmetricNoise", "--data.noise.rate", "4"], "4.0 is not a rate: use 0 to 1"),
        (["MatrixNoise", "--data.noise.matrix", "none.json"], "none.json: No such file"),
        (["Gauss", "--data.noise.rate", "0.4"], "no class Gauss: use one of "),
        (["SymetricNoise", "--data.noise.rate", "0.4"], "no class SymetricNoise: did you mean SymmetricNoise"),
        (["null", "--data.noise.rate", "0.4"], "--data.noise.rate is an option of a class: give --data.noise too"),
    ):
        assert main(arguments(sets, tmp_path / "run", "--data.noise", *options)) in (1, 2)
        (told,) = capsys.readouterr().err.splitlines()
        assert message in told and "Traceback" not in told


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize(
    "noise", [pytest.param([], id="stored"), pytest.param(SYMMETRIC, id="symmetric", marks=pytest.mark.slow)]
)
def test_what_trains_reaches_no_other_label_column(sets, tmp_path, noise):
    """With every other column garbled, in training and validation, weights and losses are the same to the bit."""
    other = tmp_path / "garbled"
    shutil.copytree(sets, other)
    garble(other / "a" / "train", "clean", "human")
    garble(other / "a" / "val", "clean", "given", "human")
    named = ["--data.labels", "given", "--data.val_labels", "clean", *noise]
    right, wrong = fit(sets, tmp_path / "right", *named), fit(other, tmp_path / "wrong", *named)
    a, b = what_is_left(tmp_path / "right"), what_is_left(tmp_path / "wrong")
    assert a.weights.keys() == b.weights.keys()
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    assert a.batches() == b.batches()
    assert losses(tmp_path / "right") == losses(tmp_path / "wrong") and len(losses(tmp_path / "right")) == 6
    assert right["noise"]["changed"] == wrong["noise"]["changed"]
    assert right["noise"]["wrong"] != wrong["noise"]["wrong"], "what measures does see the difference"
    assert right["metrics"]["val/nll"] != wrong["metrics"]["val/nll"]
    garble(other / "a" / "train", "given")
    fit(other, tmp_path / "named", *named)
    assert losses(tmp_path / "named") != losses(tmp_path / "right"), "the column that is named does train"


def test_no_data_set_holds_a_label_column(sets):
    data = module(sets, noise=SymmetricNoise(0.4))
    for dataset in (data._train_set, data._val_set):
        assert dict(dataset.reader.index.labels) == {}
    data.teardown("fit")


@pytest.mark.slow
def test_a_training_with_40_percent_noise_that_was_killed_ends_the_same(sets, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    workers = ["--data.workers", "1"]
    assert run_in_a_process(arguments(sets, undisturbed, *SYMMETRIC, *workers), tmp_path) == 0
    assert run_in_a_process(arguments(sets, killed, *SYMMETRIC, *workers, kill="batch 1 3"), tmp_path) != 0
    assert Path(f"{killed}.killed").exists() and not (killed / "fit.json").exists()
    assert run_in_a_process(arguments(sets, killed, *SYMMETRIC, *workers, kill="batch 1 3"), tmp_path) == 0
    assert_same(what_is_left(killed), what_is_left(undisturbed))
    assert what_is_left(killed).fit["noise"] == what_is_left(undisturbed).fit["noise"]
    assert what_is_left(killed).fit["noise"]["changed"]["count"] > 50
