"""`en-bench noise audit RUN` on a real training with a part of its labels flipped."""

import json

import numpy as np
import pytest
from PIL import Image

from en_bench.audit import cleanlab_scores, verb
from en_bench.audit.measures import auroc
from en_bench.audit.scores import RECORDED
from en_bench.cli import main
from en_bench.data.manifest import load_manifest
from tests.audit.conftest import CLASSES, COUNT, FLIPPED, PASSED, audit, table
from tests.test_cli import fit_arguments


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


def test_pictures_are_pictures(audited):
    for name in ("suspects", "ratios", "ratios_layers", "ratios_epochs"):
        with Image.open(audited / f"{name}.png") as image:
            image.load()
            assert min(image.size) > 200


def test_a_stopped_run_can_be_audited(copied):
    told = json.loads((copied / "fit.json").read_text())["noise"]
    (copied / "fit.json").unlink()
    for path in (copied / "dynamics").glob("epoch=00002/*"):
        path.unlink()
    assert main(audit(copied, "--bootstrap", 0)) == 0
    facts = json.loads((copied / "audit" / "audit.json").read_text())
    assert facts["epochs_recorded"] == [1, 2]
    assert facts["noise"] == told and told["wrong"]["count"] == 45


def test_without_clean_labels_there_is_a_ranking_and_no_figure(shards, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(fit_arguments(shards, run, "--trainer.max_steps", 2, norm="en")) == 0
    capsys.readouterr()
    assert main(audit(run)) == 0
    assert "no clean labels are known: the ranking cannot be measured" in capsys.readouterr().out
    facts = json.loads((run / "audit" / "audit.json").read_text())
    assert facts["errors"] is None and facts["measures"] == [] and facts["ratios"] is None
    assert "wrong" not in table(run / "audit" / "audit.csv")[0]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_kill_while_it_writes_leaves_no_half_of_a_file(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "suspects_png", interrupted)
    assert main(audit(plain, "--out", tmp_path)) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["audit.csv"]  # whole; audit.json would come last


def test_a_second_audit_leaves_nothing_of_the_first(trained, plain, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(audit(trained, "--out", tmp_path, "--bootstrap", 0)) == 0
    assert (tmp_path / "ratios_epochs.png").exists()
    assert main(audit(plain, "--out", tmp_path)) == 0
    names = {"audit.csv", "audit.json", "suspects.png"}
    assert {path.name for path in tmp_path.iterdir()} == {*names, "notes.txt"}
    removed = []
    unlink = verb.Path.unlink
    monkeypatch.setattr(verb.Path, "unlink", lambda path, **how: (removed.append(path.name), unlink(path, **how)))
    monkeypatch.setattr(verb, "suspects_png", interrupted)
    assert main(audit(plain, "--out", tmp_path)) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"audit.csv", "notes.txt"}
    assert next(name for name in removed if name in names) == "audit.json"
