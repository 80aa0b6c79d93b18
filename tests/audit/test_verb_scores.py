"""The scores that an audit writes, against the files and the checkpoint that they are made of."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from en_bench.audit import cleanlab_scores
from en_bench.audit.scores import RECORDED
from en_bench.cli import main
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop
from tests.audit.conftest import CLASSES, COUNT, audit, table
from tests.test_cli import one_line


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


def test_without_a_record_the_checkpoint_ranks(plain, capsys):
    capsys.readouterr()
    assert main(audit(plain, "--score", "self_confidence", "--result", plain / "facts.json")) == 0
    out = capsys.readouterr().out
    assert "note: no record of samples (train with --dynamics.every_n_epochs 1)" in out
    assert "samples; no rank" not in out and "scores of different n" not in out
    assert "self_confidence *" in out and "aum" not in out and "45" in out
    facts = json.loads((plain / "audit" / "audit.json").read_text())
    assert facts == json.loads((plain / "facts.json").read_text())
    assert facts["ranked_by"] == "self_confidence" and facts["ratios"] is None
    assert not (plain / "audit" / "ratios.csv").exists()
    rows = table(plain / "audit" / "audit.csv")
    assert len(rows) == COUNT and rows[0]["rank"] == "1"


def test_without_cleanlab_the_other_scores_come(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cleanlab_scores, "find_spec", lambda name: None)
    capsys.readouterr()
    assert main(audit(trained, "--out", tmp_path, "--bootstrap", 0)) == 0
    assert "note: cleanlab's scores need cleanlab: pip install 'en_bench[noise]'" in capsys.readouterr().out
    rows = table(tmp_path / "audit.csv")
    assert set(RECORDED) <= rows[0].keys() and not set(cleanlab_scores.NAMES) & rows[0].keys()
    assert main(audit(trained, "--out", tmp_path, "--score", "self_confidence")) == 1
    assert "--score self_confidence is not there: cleanlab's scores need cleanlab" in one_line(capsys)
