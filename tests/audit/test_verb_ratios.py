"""The ratios that an audit compares: of the record, else of the checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from en_bench.cli import main
from tests.audit.conftest import audit, table


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


def test_without_recorded_ratios_the_pass_has_them(copied, capsys):
    shutil.rmtree(copied / "dynamics")
    assert main(audit(copied, "--bootstrap", 0)) == 0
    out = capsys.readouterr().out
    assert "of 21 comparisons (layers x normalisers) differ at p below 0.05, corrected for all 63: " in out
    assert "the largest within classes (clean label):\n" in out
    facts = json.loads((copied / "audit" / "audit.json").read_text())
    assert facts["ratios"]["source"] == "of the checkpoint, in evaluation" and facts["ratios"]["wrong"] == 45
    rows = table(copied / "audit" / "ratios.csv")
    assert len(rows) == 7 * 3 * 3 and all(row["low"] == "" and row["p"] for row in rows)
    for layer in {row["layer"] for row in rows}:
        means = [float(r["mean_right"]) for r in rows if (r["layer"], r["within"]) == (layer, "all")]
        assert sum(means) == pytest.approx(1, abs=1e-4)


def test_intervals_are_told_as_what_they_are(trained, tmp_path, capsys):
    assert main(audit(trained, "--out", tmp_path, "--bootstrap", 20)) == 0
    told = "(clean label), with 95 % intervals of each by itself, not corrected for their number:\n"
    assert f"the largest within classes {told}" in capsys.readouterr().out
    facts = json.loads((tmp_path / "audit.json").read_text())["ratios"]
    assert "intervals are of each by itself and not corrected" in facts["correction"]


def without_ratios(run: Path, layer: str) -> None:
    """Makes all ratios of the layers of a record whose name begins with `layer` NaN."""
    for path in (run / "dynamics").glob("epoch=*/*.parquet"):
        found = pq.read_table(path)
        for place, name in enumerate(found.column_names):
            if name.startswith(f"ratio:{layer}"):
                none = pa.array(np.full(len(found), np.nan), found.schema.field(name).type)
                found = found.set_column(place, found.schema.field(name), none)
        pq.write_table(found, path)


def test_a_record_without_a_finite_ratio_gives_way_to_the_pass(copied, capsys):
    without_ratios(copied, "")
    capsys.readouterr()
    assert main(audit(copied, "--bootstrap", 0)) == 0
    facts = json.loads((copied / "audit" / "audit.json").read_text())
    assert facts["ratios"]["source"] == "of the checkpoint, in evaluation" and facts["ratios"]["wrong"] == 45
    assert "note: the record's ratios are not finite: those of the checkpoint are compared" in capsys.readouterr().out


def test_a_layer_without_a_finite_ratio_is_left_out(copied, capsys):
    layers = {row["layer"] for row in ratios_of(copied)}
    last = sorted(layers)[-1]
    without_ratios(copied, last)
    capsys.readouterr()
    assert {row["layer"] for row in ratios_of(copied)} == layers - {last}
    facts = json.loads((copied / "audit" / "audit.json").read_text())
    assert facts["ratios"]["source"].startswith("in training") and facts["ratios"]["left_out"] == [last]
    assert facts["ratios"]["wrong"] + facts["ratios"]["right"] > 130
    assert f"note: no ratios of both wrong and right samples in {last}: left out" in capsys.readouterr().out


def ratios_of(run: Path) -> list[dict[str, str]]:
    assert main(audit(run, "--bootstrap", 0)) == 0
    return table(run / "audit" / "ratios.csv")
