"""Losses and mixup in trainings, by the commands as users type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from en_bench.cli import main
from en_bench.losses import Loss
from tests.conftest import REPO
from tests.resume.runs import arguments, assert_same, what_is_left
from tests.resume.test_kills import killed_and_continued, processes, run
from tests.resume.watch import Killed
from tests.test_cli import fit_arguments, one_line

LOSSES = REPO / "experiments" / "loss"
ELR = ("--config", LOSSES / "elr.yaml")
MIXUP = ("--config", LOSSES / "mixup.yaml")
FEW = ("--trainer.max_steps", 2, "--trainer.limit_val_batches", 1)
IDENTITY = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_every_loss_of_the_package_has_an_overlay():
    files = sorted(LOSSES.glob("*.yaml"))
    settings = [yaml.safe_load(path.read_text())["model"] for path in files]
    named = {setting["loss"]["class_path"] for setting in settings if "loss" in setting}
    assert named == {f"en_bench.losses.{cls.__name__}" for cls in Loss.__subclasses__()}
    assert {path.stem for path in files} >= {"ce", "ls", "gce", "sce", "bootstrap_soft", "bootstrap_hard", "forward"}


@pytest.mark.parametrize("overlay", sorted(LOSSES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_overlay_trains(overlay, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("transitions.json").write_text(
        json.dumps({"classes": ["dark", "grey", "bright"], "matrix": [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0, 0, 1]]})
    )
    assert main(fit_arguments(shards, tmp_path / "run", "--config", overlay, *FEW)) == 0
    outcome = json.loads((tmp_path / "run" / "fit.json").read_text())
    wanted = yaml.safe_load(overlay.read_text())["model"]
    if "loss" in wanted:
        assert outcome["loss"]["class"] == wanted["loss"]["class_path"].rpartition(".")[2]
        given = outcome["config"]["model"]["loss"].get("init_args", {})
        assert given.items() >= wanted["loss"].get("init_args", {}).items()
        assert ("matrix_sha256" in outcome["loss"]) == (overlay.stem == "forward")
    assert outcome["steps"] == 2 and all(value is not None for value in outcome["metrics"].values())


def test_without_a_loss_it_is_cross_entropy_to_the_bit(shards, tmp_path):
    (tmp_path / "I.json").write_text(json.dumps({"matrix": IDENTITY}))
    kinds = {
        "none": (),
        "ce": ("--model.loss", "CrossEntropy"),
        "smoothed": ("--model.loss", "LabelSmoothing", "--model.loss.smoothing", 0.0),
        "forward": ("--model.loss", "ForwardCorrection", "--model.loss.matrix", tmp_path / "I.json"),
        "gce": ("--model.loss", "GeneralizedCrossEntropy", "--model.loss.q", 0.5),
    }
    found = {}
    for name, options in kinds.items():
        assert main(fit_arguments(shards, tmp_path / name, *options, *FEW)) == 0
        found[name] = weights(tmp_path / name)
    first = found["none"]
    assert all(torch.equal(first[key], found["ce"][key]) for key in first)
    for name in ("smoothed", "forward"):
        for key in first:
            torch.testing.assert_close(found[name][key], first[key], rtol=1e-4, atol=1e-5)
    assert not torch.equal(found["gce"]["network.conv1.weight"], first["network.conv1.weight"])


def test_a_run_with_a_loss_validates_with_plain_scores_and_without_its_matrix(shards, tmp_path, capsys):
    matrix = tmp_path / "T.json"
    matrix.write_text(json.dumps({"matrix": [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]}))
    run_folder = tmp_path / "run"
    forward = ("--model.loss", "ForwardCorrection", "--model.loss.matrix", matrix)
    assert main(fit_arguments(shards, run_folder, *forward, "--trainer.max_steps", 2)) == 0
    matrix.unlink()
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    validate = ["validate", "--config", str(run_folder / "config.yaml"), "--ckpt_path", str(checkpoint)]
    for loss in ((), ("--model.loss", "null")):
        assert main([*validate, *loss, "--result", str(tmp_path / f"{len(loss)}.json")]) == 0
    scores = [json.loads((tmp_path / f"{n}.json").read_text())["metrics"] for n in (0, 2)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model.loss", "GeneralizedCrossEntropy", "--model.loss.q", 2), "q 2.0 is not above 0 and at most 1"),
        (("--model.loss", "GCE"), "there is no class GCE: did you mean GeneralizedCrossEntropy?"),
        (
            ("--model.loss", '{"class_path": "en_bench.losses.GCEE"}'),
            "there is no class en_bench.losses.GCEE: did you mean GeneralizedCrossEntropy?",
        ),
        (("--model.loss", "Focal"), "there is no class Focal: use one of Bootstrapping, CrossEntropy, LabelSmoothing"),
        (("--model.norm", "XYZ"), "there is no class XYZ: use one of Batch"),
        (("--model.loss", "GeneralisedCrossEntropy"), "did you mean GeneralizedCrossEntropy"),
        (("--model.loss.q", 0.5), "--model.loss.q is an option of a class: give --model.loss too, such as Generalized"),
        (("--model.loss.qq", 0.5), "SymmetricCrossEntropy has that option"),
        (("--model.loss", "Bootstrapping", "--model.loss.hart", "true"), "Bootstrapping has no option hart"),
        ((*ELR, *MIXUP), "EarlyLearningRegularization cannot train on mixed images: leave --model.mixup out"),
        (("--model.mixup", -1), "--model.mixup -1.0 is no alpha"),
        (("--model.loss", "ForwardCorrection", "--model.loss.matrix", "nowhere.json"), "nowhere.json: No such file"),
        (("--model.loss", "ForwardCorrection"), "--model.loss: ForwardCorrection needs matrix"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(shards, tmp_path, capsys, options, words):
    assert main(fit_arguments(shards, tmp_path / "run", *options)) in (1, 2)
    assert words in one_line(capsys)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_skipped_samples_are_in_no_loss(shards, tmp_path):
    """The valid part of a batch alone is trained on, mixed among itself, and remembered."""
    from en_bench.data.dataset import Batch
    from en_bench.losses import EarlyLearningRegularization
    from en_bench.tasks.classification import ClassificationTask
    from tests.tasks.test_classification import data, trainer

    seen = []

    class Skipping(ClassificationTask):
        def training_step(self, batch: Batch, batch_idx: int):
            valid = batch.valid.clone()
            valid[:: 2 if batch_idx else 1] = False  # the first batch has nothing left
            seen.extend(batch.row[valid].tolist())
            return super().training_step(batch._replace(valid=valid), batch_idx)

    task = Skipping("cifar/resnet8", loss=EarlyLearningRegularization())
    trainer(tmp_path, max_steps=3).fit(task, data(shards, on_error="skip"))
    written = task.sample_tables["early_learning"].written
    assert sorted(seen) == (written >= 0).nonzero().flatten().tolist() and len(seen) == 20


@pytest.mark.parametrize("options", [ELR, MIXUP], ids=["elr", "mixup"])
def test_cut_off_and_continued_it_ends_as_if_it_had_not_been(shards, tmp_path, options):
    more = (*options, "--trainer.accumulate_grad_batches", 2, "--checkpoint.every_n_steps", 1)
    assert main(arguments(shards, tmp_path / "undisturbed", *more)) == 0
    with pytest.raises(Killed):
        main(arguments(shards, tmp_path / "run", *more, kill="batch 1 2", by="raise"))
    assert main(arguments(shards, tmp_path / "run", *more, kill="batch 1 2", by="raise")) == 0
    assert_same(what_is_left(tmp_path / "run"), what_is_left(tmp_path / "undisturbed"))


@pytest.mark.slow
def test_early_learning_killed_and_continued(shards, tmp_path):
    options = [*map(str, ELR)]
    assert run(arguments(shards, tmp_path / "undisturbed", *options), tmp_path) == 0
    target = killed_and_continued(shards, tmp_path, "batch 1 3", options, options)
    assert_same(what_is_left(target), what_is_left(tmp_path / "undisturbed"))
    table = what_is_left(target).others["tables"]["early_learning"]
    assert (table["written"] >= 0).sum() >= 192 and table["values"].sum(1).max() <= 1 + 1e-6


@pytest.mark.slow
def test_early_learning_on_two_ranks_is_that_of_one_process(shards, tmp_path):
    """At an equal global batch, without batch moments. At a rate that does not multiply the rounding of float32."""
    saved = []
    for count in (1, 2):
        options = (*ELR, *processes(count), "--trainer.max_epochs", 2, "--model.lr", 1e-4)
        target = tmp_path / str(count)
        assert run(fit_arguments(shards, target, *options, norm="gn"), tmp_path) == 0
        saved.append(torch.load(target / "checkpoints" / "last.ckpt", weights_only=True))
    alone, together = (s["en_bench_sample_tables"]["early_learning"] for s in saved)
    assert torch.equal(alone["written"], together["written"]) and (alone["written"] >= 6).any()
    torch.testing.assert_close(together["values"], alone["values"], rtol=0, atol=1e-6)
    for key, value in saved[0]["state_dict"].items():
        torch.testing.assert_close(saved[1]["state_dict"][key], value, rtol=0, atol=1e-6)
