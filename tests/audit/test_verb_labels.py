"""An audit of a run with a held-out part, and of one that made noise itself."""

import json

from en_bench.audit import cleanlab_scores
from en_bench.cli import main
from tests.audit.conftest import PASSED, audit, table
from tests.test_cli import fit_arguments


def test_held_out_samples_have_scores_of_the_pass_alone(root, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(fit_arguments(root, run, "--data.held_out", 0.3, "--dynamics.every_n_epochs", 1)) == 0
    assert main(audit(run, "--bootstrap", 0)) == 0
    facts = json.loads((run / "audit" / "audit.json").read_text())
    rows = [row for row in table(run / "audit" / "audit.csv") if row["part"] == "held_out"]
    assert 20 < facts["held_out"] == len(rows) < 70
    assert all(row["rank"] == row["aum"] == "" and row["self_confidence"] for row in rows)
    assert {m["score"] for m in facts["measures"] if m["part"] == "held_out"} == {*PASSED, *cleanlab_scores.NAMES}
    never = sum(row["part"] == "train" and row["rank"] == "" for row in table(run / "audit" / "audit.csv"))
    total, held_out = facts["labelled"], facts["held_out"]
    assert 0 < never < total - held_out, "the last batch of an epoch is not full"
    note = (
        f"aum ranks {total - held_out - never} of {total} samples; no rank have {held_out + never}: "
        f"{held_out} held out, which have no record, {never} in no epoch of the record"
    )
    out = capsys.readouterr().out
    assert note in facts["notes"] and f"note: {note}\n" in out
    assert "scores of different n are measured on different samples" in out


def test_noise_that_a_run_made_is_measured_by_the_labels_before_it(shards, tmp_path, capsys):
    run = tmp_path / "run"
    noise = ("--data.noise", "en_bench.noise.kinds.SymmetricNoise", "--data.noise.rate", 0.4)
    assert main(fit_arguments(shards, run, "--dynamics.every_n_epochs", 1, *noise)) == 0
    assert main(audit(run, "--bootstrap", 0)) == 0
    facts = json.loads((run / "audit" / "audit.json").read_text())
    assert facts["clean"] == "given" and 50 < facts["errors"] < 110
    assert facts["noise"]["made"] == {"kind": "symmetric", "rate": 0.4, "seed": 0}
    assert "a/train, labels given + symmetric 0.4 (seed 0): " in capsys.readouterr().out
