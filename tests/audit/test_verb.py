"""`en-bench noise audit RUN` on a real training with a part of its labels flipped."""

import csv
import dataclasses
import json
import shutil
from inspect import signature
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from en_bench.audit import cleanlab_scores, verb
from en_bench.audit.measures import auroc
from en_bench.cli import main
from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import load_manifest, save_manifest
from en_bench.data.module import ShardDataModule
from en_bench.data.sources import Source
from en_bench.data.transforms import CenterCrop
from en_bench.data.writer import write_split
from tests.conftest import coloured_png, make_split
from tests.test_cli import fit_arguments, one_line

CLASSES = ("dark", "grey", "bright")
COUNT = 150
FLIPPED = frozenset(np.random.default_rng(0).permutation(COUNT)[:45].tolist())  # 30 % of the samples
RECORDED = ("aum", "loss", "margin", "loss_last")
PASSED = ("pass_margin", "pass_loss")


def make_flipped(folder: Path) -> None:
    """A split whose samples show their class by their brightness, with given labels that are wrong for FLIPPED."""
    samples = [
        Source(
            key=f"toy-{i:04d}",
            labels={"given": (i + (i in FLIPPED)) % 3, "clean": i % 3},
            load=lambda i=i: coloured_png(i % 3, i),
            origin=f"toy {i}",
        )
        for i in range(COUNT)
    ]
    encoder = ImageEncoder(encoding="png")
    facts = {"dataset": "toy", "split": folder.name, "classes": CLASSES, "image": encoder.describe()}
    write_split(folder, samples, encode=encoder, source={"made": "toy"}, shards=4, **facts)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("flipped")
    make_flipped(root / "a" / "train")
    make_split(root / "a" / "val", 30, seed=2)
    return root


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> Path:
    """A run with a record of three epochs, with ExemplarNorm."""
    run = tmp_path_factory.mktemp("trained") / "run"
    options = ("--trainer.max_epochs", 3, "--dynamics.every_n_epochs", 1, "--data.batch_size", 16)
    assert main(fit_arguments(root, run, *options, norm="en")) == 0
    return run


@pytest.fixture(scope="module")
def plain(root, tmp_path_factory) -> Path:
    """A run without a record, with BatchNorm."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert main(fit_arguments(root, run)) == 0
    return run


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def audited(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("audited")
    assert main(audit(trained, "--out", out, "--top", 12, "--bootstrap", 50)) == 0
    return out


def audit(run: Path, *more: object) -> list[str]:
    return ["noise", "audit", str(run), *map(str, more)]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_ranks_every_sample_with_its_names(audited, root):
    rows = table(audited / "audit.csv")
    manifest = load_manifest(root / "a" / "train")
    index = manifest.load_index()
    ranked = [row for row in rows if row["rank"]]
    assert [int(row["rank"]) for row in ranked] == list(range(1, len(ranked) + 1))
    assert sorted(int(row["row"]) for row in rows) == list(range(COUNT))
    aums = [float(row["aum"]) for row in ranked]
    assert aums == sorted(aums)
    for row in rows:
        number = int(row["key"].removeprefix("toy-"))
        assert index.key(int(row["row"])) == row["key"]
        assert row["shard"] == manifest.shards[int(index.shard[int(row["row"])])].name
        assert (row["given"], row["clean"]) == (CLASSES[(number + (number in FLIPPED)) % 3], CLASSES[number % 3])
        assert row["wrong"] == str(number in FLIPPED).lower() and row["part"] == "train"


def test_scores_of_the_record_are_those_of_its_files(audited, trained):
    margins: dict[int, list[float]] = {}
    losses: dict[int, list[float]] = {}
    for path in sorted((trained / "dynamics").glob("epoch=*/*.parquet")):
        for record in pq.read_table(path).to_pylist():
            margins.setdefault(record["row"], []).append(record["margin"])
            losses.setdefault(record["row"], []).append(record["loss"])
    for row in table(audited / "audit.csv"):
        own = margins.get(int(row["row"]))
        assert (own is None) == (row["rank"] == "")
        if own is not None:
            found = [float(row[name]) for name in RECORDED]
            loss = losses[int(row["row"])]
            assert found == pytest.approx([np.mean(own), np.mean(loss), own[-1], loss[-1]], rel=1e-4, abs=1e-4)


def test_scores_of_the_pass_are_those_of_the_checkpoint(audited, trained, root):
    from en_bench.norms import ExemplarNorm
    from en_bench.tasks.classification import ClassificationTask

    task = ClassificationTask(backbone="cifar/resnet8", norm=ExemplarNorm, num_classes=3)
    task.configure_model()
    saved = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    task.load_state_dict(saved["state_dict"])
    task.eval()
    data = ShardDataModule("a/train", "a/train", CenterCrop(32), CenterCrop(32), str(root), val_labels="given", seed=0)
    data.setup("validate")
    with torch.no_grad():
        for batch in data.val_dataloader():
            logits = task(data.on_after_batch_transfer(batch, 0).image).double()
            loss = torch.nn.functional.cross_entropy(logits, batch.target, reduction="none")
            expected = {
                int(row): (float(x), int(p)) for row, x, p in zip(batch.row, loss, logits.argmax(1), strict=True)
            }
            for row in table(audited / "audit.csv"):
                if int(row["row"]) in expected:
                    value, predicted = expected.pop(int(row["row"]))
                    assert float(row["pass_loss"]) == pytest.approx(value, rel=1e-3, abs=1e-4)
                    assert float(row["self_confidence"]) == pytest.approx(np.exp(-value), rel=1e-3, abs=1e-4)
                    assert row["predicted_by_checkpoint"] == CLASSES[predicted]


def test_the_figures_are_those_of_the_table(audited):
    facts = json.loads((audited / "audit.json").read_text())
    rows = table(audited / "audit.csv")
    assert (facts["n"], facts["known"], facts["errors"], facts["held_out"]) == (COUNT, COUNT, 45, 0)
    assert facts["ranked_by"] == "aum" and facts["epochs_recorded"] == [1, 2, 3]
    assert {m["score"] for m in facts["measures"]} == {*RECORDED, *PASSED, *cleanlab_scores.NAMES}
    for measure in facts["measures"]:
        scored = [row for row in rows if row[measure["score"]]]
        high = facts["scores"][measure["score"]]["suspect"] == "high"
        suspicion = np.array([float(row[measure["score"]]) for row in scored]) * (1 if high else -1)
        wrong = np.array([row["wrong"] == "true" for row in scored])
        assert (measure["n"], measure["errors"]) == (len(scored), wrong.sum())
        assert measure["auroc"] == pytest.approx(auroc(suspicion, wrong).value, abs=2e-3)
        assert measure["precision_at"]["1000"] is None
        worst = wrong[np.argsort(-suspicion, kind="stable")]
        assert measure["precision_at_errors"] == pytest.approx(worst[: wrong.sum()].mean(), abs=0.05)
    issues, flagged = facts["cleanlab_issues"][0], [row for row in rows if row["cleanlab_issue"] == "true"]
    assert issues["flagged"] == len(flagged)
    if flagged:
        assert issues["precision"] == pytest.approx(np.mean([row["wrong"] == "true" for row in flagged]))
    assert facts["versions"].keys() >= {"cleanlab", "pyarrow", "numpy", "torch"} and len(facts["digest"]) == 64
    assert set(facts["files"]) < {path.name for path in audited.iterdir()}
    assert "out-of-sample" in facts["probabilities"]


def test_a_network_that_learnt_finds_the_wrong_labels(audited):
    """Brightness tells the class, so that after three epochs the scores must be better than chance by far."""
    facts = json.loads((audited / "audit.json").read_text())
    area = {measure["score"]: measure["auroc"] for measure in facts["measures"]}
    assert area["margin"] > 0.8 and area["loss_last"] > 0.8


def test_ratios_come_from_the_record(audited, trained):
    rows = table(audited / "ratios.csv")
    assert {row["within"] for row in rows} == {"all", "clean", "given"}
    layers = {row["layer"] for row in rows}
    assert len(layers) == 7 and len(rows) == 7 * 3 * (3 + 3)  # normalisers x (comparisons over all, epochs)
    facts = json.loads((audited / "audit.json").read_text())["ratios"]
    assert facts["source"] == "in training, mean of 3 epochs" and facts["comparisons"] == 7 * 3 * 3
    values: dict[int, list[float]] = {}
    layer = min(layers)
    for path in sorted((trained / "dynamics").glob("epoch=*/*.parquet")):
        for record in pq.read_table(path).to_pylist():
            values.setdefault(record["row"], []).append(record[f"ratio:{layer}:bn"])
    wrong = {int(row["row"]) for row in table(audited / "audit.csv") if row["wrong"] == "true"}
    mean = np.mean([np.mean(found) for row, found in values.items() if row in wrong])
    told = next(row for row in rows if (row["layer"], row["normaliser"], row["within"]) == (layer, "bn", "all"))
    assert float(told["mean_wrong"]) == pytest.approx(mean, rel=1e-4)
    assert float(told["low"]) <= float(told["cliffs_delta"]) <= float(told["high"])


def test_pictures_are_pictures(audited):
    for name in ("suspects", "ratios", "ratios_layers", "ratios_epochs"):
        with Image.open(audited / f"{name}.png") as image:
            image.load()
            assert min(image.size) > 200


def test_without_a_record_the_checkpoint_ranks(plain, capsys):
    capsys.readouterr()
    assert main(audit(plain, "--score", "self_confidence", "--result", plain / "facts.json")) == 0
    out = capsys.readouterr().out
    assert "note: no record of samples (train with --dynamics.every_n_epochs 1)" in out
    assert "self_confidence *" in out and "aum" not in out and "45" in out
    facts = json.loads((plain / "audit" / "audit.json").read_text())
    assert facts == json.loads((plain / "facts.json").read_text())
    assert facts["ranked_by"] == "self_confidence" and facts["ratios"] is None
    assert not (plain / "audit" / "ratios.csv").exists()
    rows = table(plain / "audit" / "audit.csv")
    assert len(rows) == COUNT and rows[0]["rank"] == "1"


def test_without_recorded_ratios_the_pass_has_them(copied, capsys):
    shutil.rmtree(copied / "dynamics")
    assert main(audit(copied, "--bootstrap", 0)) == 0
    facts = json.loads((copied / "audit" / "audit.json").read_text())
    assert facts["ratios"]["source"] == "of the checkpoint, in evaluation" and facts["ratios"]["wrong"] == 45
    rows = table(copied / "audit" / "ratios.csv")
    assert len(rows) == 7 * 3 * 3 and all(row["low"] == "" and row["p"] for row in rows)
    for layer in {row["layer"] for row in rows}:
        means = [float(r["mean_right"]) for r in rows if (r["layer"], r["within"]) == (layer, "all")]
        assert sum(means) == pytest.approx(1, abs=1e-4)


def test_a_stopped_run_can_be_audited(copied):
    (copied / "fit.json").unlink()
    for path in (copied / "dynamics").glob("epoch=00002/*"):
        path.unlink()
    assert main(audit(copied, "--bootstrap", 0)) == 0
    assert json.loads((copied / "audit" / "audit.json").read_text())["epochs_recorded"] == [1, 2]


def test_without_clean_labels_there_is_a_ranking_and_no_figure(shards, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(fit_arguments(shards, run, "--trainer.max_steps", 2, norm="en")) == 0
    capsys.readouterr()
    assert main(audit(run)) == 0
    assert "no clean labels are known: the ranking cannot be measured" in capsys.readouterr().out
    facts = json.loads((run / "audit" / "audit.json").read_text())
    assert facts["errors"] is None and facts["measures"] == [] and facts["ratios"] is None
    assert "wrong" not in table(run / "audit" / "audit.csv")[0]


def test_without_cleanlab_the_other_scores_come(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cleanlab_scores, "find_spec", lambda name: None)
    capsys.readouterr()
    assert main(audit(trained, "--out", tmp_path, "--bootstrap", 0)) == 0
    assert "note: cleanlab's scores need cleanlab: pip install 'en_bench[noise]'" in capsys.readouterr().out
    rows = table(tmp_path / "audit.csv")
    assert set(RECORDED) <= rows[0].keys() and not set(cleanlab_scores.NAMES) & rows[0].keys()
    assert main(audit(trained, "--out", tmp_path, "--score", "self_confidence")) == 1
    assert "--score self_confidence is not there: cleanlab's scores need cleanlab" in one_line(capsys)


def test_a_cut_file_of_the_record_is_told(copied, capsys):
    path = sorted((copied / "dynamics").glob("epoch=*/*.parquet"))[1]
    path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    assert main(audit(copied)) == 1
    assert f"{path} cannot be read" in one_line(capsys)
    assert not (copied / "audit").exists()


def test_a_set_that_has_changed_is_refused(plain, copied, root, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(root, other)
    manifest = load_manifest(other / "a" / "train")
    save_manifest(dataclasses.replace(manifest, source={"made": "again"}))
    capsys.readouterr()
    assert main(audit(copied, "--data.root", other)) == 1
    assert "is of a set with manifest" in one_line(capsys)
    assert main(audit(plain, "--data.root", other)) == 1
    assert "the checkpoint was trained on a set with manifest" in one_line(capsys)


def test_other_labels_are_refused(plain, trained, capsys):
    capsys.readouterr()
    assert main(audit(plain, "--data.labels", "clean")) == 1
    assert "the checkpoint was trained on labels 'given', not on 'clean'" in one_line(capsys)
    assert main(audit(trained, "--data.labels", "clean")) == 1
    assert "records are of other labels than a/train has now" in one_line(capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--top", "0"], "--top 0: a contact sheet shows 1 to 1,000 samples"),
        (["--bootstrap", "-1"], "--bootstrap -1 is too small"),
        (["--score", "luck"], "unknown score 'luck': choose one of aum, loss"),
        (["--score", "aum"], "--score aum is not there: the run has no record of samples"),
        (["--ckpt_path", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["--data.train", "a/trian"], "a/trian: no such folder"),
        (["--out", __file__], "is a file: give a folder"),
        (["--model.norm", "en_bench.norms.ExemplarNorm"], "the checkpoint belongs to another model"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(plain, capsys, options, words):
    capsys.readouterr()
    assert main(audit(plain, *options)) == 1
    assert words in one_line(capsys)


def test_what_is_no_run_is_told(plain, tmp_path, capsys):
    assert main(["noise", "audit"]) == 1
    assert "audit needs the run's folder first: en-bench noise audit RUN" in one_line(capsys)
    assert main(audit(tmp_path / "nothing")) == 1
    assert "is no run: it has no config.yaml" in one_line(capsys)
    shutil.copy(plain / "config.yaml", tmp_path)
    assert main(audit(tmp_path)) == 1
    assert "there is no checkpoint" in one_line(capsys)
    assert main(["noise", "audit", "--help"]) == 0
    assert "--top" in capsys.readouterr().out


def test_a_kill_while_it_writes_leaves_no_half_of_a_file(plain, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "suspects_png", interrupted)
    assert main(audit(plain, "--out", tmp_path)) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["audit.csv"]  # whole; audit.json would come last


@pytest.mark.skipif("held_out" not in signature(ShardDataModule).parameters, reason="no held-out part")
def test_held_out_samples_have_scores_of_the_pass_alone(root, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(fit_arguments(root, run, "--data.held_out", 0.3, "--dynamics.every_n_epochs", 1)) == 0
    assert main(audit(run, "--bootstrap", 0)) == 0
    facts = json.loads((run / "audit" / "audit.json").read_text())
    rows = [row for row in table(run / "audit" / "audit.csv") if row["part"] == "held_out"]
    assert 20 < facts["held_out"] == len(rows) < 70
    assert all(row["rank"] == row["aum"] == "" and row["self_confidence"] for row in rows)
    assert {m["score"] for m in facts["measures"] if m["part"] == "held_out"} == {*PASSED, *cleanlab_scores.NAMES}


@pytest.mark.skipif("noise" not in signature(ShardDataModule).parameters, reason="no made noise")
def test_noise_that_a_run_made_is_measured_by_the_labels_before_it(shards, tmp_path):
    run = tmp_path / "run"
    noise = ("--data.noise", "en_bench.noise.kinds.SymmetricNoise", "--data.noise.rate", 0.4)
    assert main(fit_arguments(shards, run, "--dynamics.every_n_epochs", 1, *noise)) == 0
    assert main(audit(run, "--bootstrap", 0)) == 0
    facts = json.loads((run / "audit" / "audit.json").read_text())
    assert facts["clean"] == "given" and 50 < facts["errors"] < 110 and facts["noise"] is not None
