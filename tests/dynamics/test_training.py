"""Real trainings: what is recorded and counted is what happened, and to look changes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Callback

from en_bench.data.manifest import load_manifest
from en_bench.dynamics import DynamicsRecorder, Memorisation, dynamics_facts, ratio_columns, read_dynamics
from en_bench.matrix.plan import without_places
from en_bench.norms import ExemplarNorm, GroupNorm
from en_bench.tasks.classification import ClassificationTask
from tests.dynamics.runs import SAMPLES, make_noisy_root, shares_by_hand
from tests.tasks.test_classification import data, trainer
from tests.test_unreadable import spoil


class Witness(Callback):
    """Computes the logits and the ratios of every batch itself, before the step."""

    def __init__(self) -> None:
        self.losses: dict[tuple[int, int], float] = {}
        self.margins: dict[tuple[int, int], float] = {}
        self.ratios: dict[tuple[int, int], dict[str, list[float]]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        found: dict[str, torch.Tensor] = {}
        state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        hooks = [
            layer.register_forward_pre_hook(lambda layer, x, name=name: found.update({name: layer.ratios(x[0])}))
            for name, layer in pl_module.network.named_modules()
            if isinstance(layer, ExemplarNorm)
        ]
        with torch.no_grad():
            logits = pl_module(batch.image[batch.valid]).double()
        for hook in hooks:
            hook.remove()
        pl_module.load_state_dict(state)  # running moments have moved
        target = batch.target[batch.valid]
        for i, row in enumerate(batch.row[batch.valid].tolist()):
            at = trainer.current_epoch, row
            others = torch.cat([logits[i, : target[i]], logits[i, target[i] + 1 :]])
            self.losses[at] = float(F.cross_entropy(logits[i], target[i]))
            self.margins[at] = float(logits[i, target[i]] - others.max())
            self.ratios[at] = {name: ratios[i].tolist() for name, ratios in found.items()}


def train(root: Path, folder: Path, callbacks: Sequence[Callback], norm: Any = ExemplarNorm, **options: Any) -> Any:
    torch.manual_seed(0)
    task = ClassificationTask(backbone="cifar/resnet8", norm=norm, lr=0.05)
    run = trainer(folder, callbacks=list(callbacks), **{"max_epochs": 2, "limit_val_batches": 0, **options})
    run.fit(task, data(root, batch_size=32))
    return run


def test_every_sample_is_recorded_as_it_was_trained_on(noisy, tmp_path):
    witness = Witness()
    train(noisy, tmp_path, [witness, DynamicsRecorder(1)])
    rows = read_dynamics(tmp_path).to_pylist()
    manifest = load_manifest(noisy / "a" / "train")
    labels = manifest.load_index().labels["given"]
    assert [(row["epoch"], row["row"]) for row in rows] == sorted(witness.losses), "each once, sorted"
    assert len(rows) == 2 * 6 * 32
    assert sorted({row["step"] for row in rows}) == list(range(12))
    layers = ratio_columns(rows[0])
    assert list(layers["layer2.0.bn1"]) == ["in", "ln", "bn"] and len(layers) == 7
    for row in rows:
        at = row["epoch"], row["row"]
        assert row["target"] == labels[row["row"]]
        assert row["loss"] == pytest.approx(witness.losses[at], abs=1e-4)
        assert row["margin"] == pytest.approx(witness.margins[at], abs=1e-4)
        assert (row["predicted"] == row["target"]) == (row["margin"] > 0)
        for name, columns in layers.items():
            got = [row[column] for column in columns.values()]
            assert got == pytest.approx(witness.ratios[at][name], abs=2e-5)
    assert len({row["ratio:layer3.0.bn2:bn"] for row in rows}) > 20
    assert dynamics_facts(tmp_path) == {
        **{"set": "a/train", "manifest": manifest.digest, "labels": "given", "noise": None, "held_out": 0.0},
        **{"classes": ["dark", "grey", "bright"], "seed": 0},
    }


def test_looking_changes_no_bit(noisy, tmp_path):
    states = []
    for name, callbacks in (
        ("neither", []),
        ("both", [Memorisation(), DynamicsRecorder(1)]),
    ):
        states.append(train(noisy, tmp_path / name, callbacks, max_epochs=1, limit_train_batches=3))
    one, other = (run.lightning_module.state_dict() for run in states)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_memorisation_is_what_a_count_of_the_record_gives(noisy, undisturbed):
    clean = load_manifest(noisy / "a" / "train").load_index().labels["clean"].tolist()
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    logged = [{k: v for k, v in line.items() if k.startswith("memory/")} for line in lines if "memory/n_wrong" in line]
    table = read_dynamics(undisturbed, ["row", "target", "predicted"]).to_pylist()
    assert len(logged) == 2
    for epoch, found in enumerate(logged):
        assert found == shares_by_hand([row for row in table if row["epoch"] == epoch], clean)
        assert found["memory/n_wrong"] + found["memory/n_right"] + found["memory/n_unknown"] == 192
        assert found["memory/n_unknown"] > 10
    fit = json.loads((undisturbed / "fit.json").read_text())["metrics"]
    assert {name: value for name, value in fit.items() if name.startswith("memory/")} == logged[-1]


def test_a_line_for_people(noisy, tmp_path, capsys):
    train(noisy, tmp_path, [Memorisation()], max_epochs=1)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "memory" in line]
    assert line.startswith("epoch 1  memory a/train (labels given)  wrong: as given 0.")
    assert "  right: learnt 0." in line and "  unknown " in line


def test_memorisation_keeps_quiet_where_all_labels_are_the_clean_ones(shards, noisy, tmp_path, capsys):
    short = {"callbacks": [Memorisation()], "max_epochs": 1, "limit_val_batches": 0, "limit_train_batches": 1}
    without = trainer(tmp_path / "no clean column", **short)
    without.fit(ClassificationTask(backbone="cifar/resnet8"), data(shards))
    clean = trainer(tmp_path / "clean", **short)
    clean.fit(ClassificationTask(backbone="cifar/resnet8"), data(noisy, labels="clean"))
    assert not any(name.startswith("memory/") for run in (without, clean) for name in run.callback_metrics)
    assert "memory" not in capsys.readouterr().out


def test_every_second_epoch_and_no_ratios(noisy, tmp_path):
    train(noisy, tmp_path, [DynamicsRecorder(2, ratios=False)], max_epochs=4, limit_train_batches=2)
    table = read_dynamics(tmp_path)
    assert set(table["epoch"].to_pylist()) == {1, 3}
    assert table.column_names == ["epoch", "row", "step", "target", "predicted", "loss", "margin"]


def test_what_is_recorded_makes_no_other_experiment():
    assert without_places({"dynamics": {"every_n_epochs": 1, "ratios": False}, "model": {"lr": 1}}) == {
        "model": {"lr": 1}
    }


def test_nothing_is_recorded_unless_asked_for(noisy, tmp_path):
    train(noisy, tmp_path, [DynamicsRecorder()], max_epochs=1)
    assert not (tmp_path / "dynamics").exists()


def test_networks_without_ratios_of_samples_and_accumulated_gradients(noisy, tmp_path):
    run = train(noisy, tmp_path, [DynamicsRecorder(1)], norm=GroupNorm, max_epochs=1, accumulate_grad_batches=3)
    table = read_dynamics(tmp_path)
    assert ratio_columns(table.column_names) == {}
    assert run.global_step == 2 and sorted(set(table["step"].to_pylist())) == list(range(6))


def test_samples_that_cannot_be_decoded_are_in_no_count_and_no_row(tmp_path):
    root = make_noisy_root(tmp_path / "root")
    index = load_manifest(root / "a" / "train").load_index()
    module = data(root, batch_size=40, on_error="skip")
    module.setup("fit")
    bad = module.shuffle.order(0)[30:90].tolist()  # the whole of the second batch
    spoil(root / "a" / "train", bad)
    module = data(root, batch_size=40, on_error="skip")
    run = trainer(tmp_path / "run", callbacks=[Memorisation(), DynamicsRecorder(1)], max_epochs=1, limit_val_batches=0)
    run.fit(ClassificationTask(backbone="cifar/resnet8", norm=ExemplarNorm), module)
    rows = read_dynamics(tmp_path / "run", ["row"])["row"].to_pylist()
    assert sorted(rows) == sorted(set(range(SAMPLES)) - set(bad))
    known = np.setdiff1d(np.flatnonzero(index.labels["clean"] >= 0), bad)
    wrong = int((index.labels["clean"] != index.labels["given"])[known].sum())
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    assert (metrics["memory/n_wrong"], metrics["memory/n_right"]) == (wrong, len(known) - wrong)


def test_columns_of_layers_the_forward_leaves_out_are_not_numbers(noisy, tmp_path):
    class Skips(ClassificationTask):
        def configure_model(self) -> None:
            super().configure_model()
            self.network.unused = ExemplarNorm(4)

    run = trainer(tmp_path, callbacks=[DynamicsRecorder(1)], max_epochs=1, limit_val_batches=0, limit_train_batches=2)
    run.fit(Skips(backbone="cifar/resnet8", norm=ExemplarNorm), data(noisy))
    table = read_dynamics(tmp_path)
    assert np.isnan(table["ratio:unused:in"].to_numpy()).all() and not np.isnan(table["ratio:bn1:in"].to_numpy()).any()


def test_a_diverged_network_is_recorded_as_such(noisy, tmp_path):
    class Breaks(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(torch.nan)

    run = train(noisy, tmp_path, [Breaks(), Memorisation(), DynamicsRecorder(1)], max_epochs=1)
    assert set(read_dynamics(tmp_path)["predicted"].to_pylist()) == {-1}
    assert float(run.callback_metrics["memory/wrong_as_neither"]) == 1.0
    assert float(run.callback_metrics["memory/right_learnt"]) == 0.0
