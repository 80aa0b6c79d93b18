"""What a plan says of a matrix as it lies there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from en_bench.files import write_json
from en_bench.matrix.lease import Leases
from en_bench.matrix.plan import Cell, manifest_digests, plan_cells
from en_bench.matrix.progress import Progress, write_progress
from en_bench.matrix.results import Results
from en_bench.matrix.spec import load_spec
from en_bench.matrix.training import claim_training, mark_started
from en_bench.resume.reached import Reached
from tests.matrix.cost.test_amount import save_manifests
from tests.matrix.cost.test_known import costed
from tests.matrix.test_plan_verb import save_at
from tests.matrix.test_verbs import call

BYTES = 50_000


@pytest.fixture(autouse=True)
def sets(spec_file: Path) -> None:
    save_manifests()


def trained(spec_file: Path, cell: Cell, digest: str | None = None) -> None:
    """The record and the folder of a training, on the sets that are here or on others."""
    here, results = manifest_digests(Path("data")), Results(Path("results/digits"))
    record = costed(load_spec(spec_file), cell, 64.0)
    parts = {part: {**record.fit[part], "digest": digest or here(record.fit[part]["set"])} for part in ("train", "val")}
    validate = {label: {**found, "digest": here(found["set"])} for label, found in record.validate.items()}
    record = replace(record, fit={**record.fit, **parts}, validate=validate)
    results.save(record)
    run = results.run(cell.id)
    write_json(run / "fit.json", record.fit)
    claim_training(run, cell, record.targets)
    checkpoint_of(run)


def checkpoint_of(run: Path) -> None:
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(b"x" * BYTES)


def checkpoints(*options: str) -> dict[str, Any]:
    assert call("matrix", "plan", "experiments/digits.yaml", "--json", "plan.json", *options) == 0
    found: dict[str, Any] = json.loads(Path("plan.json").read_text())
    return {"states": found["states"], **{name: found["checkpoints"][name] for name in ("whole_bytes", "rest_bytes")}}


@pytest.mark.parametrize(
    ("digest", "state", "rest"),
    [(None, "done", 0), ("of other data", "stale", 2 * BYTES)],  # set aside and kept; one more while it is replaced
)
def test_a_training_that_no_longer_holds_is_kept_beside_the_new_one(
    spec_file: Path, digest: str | None, state: str, rest: int
) -> None:
    cell = plan_cells(load_spec(spec_file))[0]
    trained(spec_file, cell, digest)
    found = checkpoints("--only", str(cell))
    assert found == {"states": {state: 1}, "whole_bytes": BYTES, "rest_bytes": rest}


def test_a_training_that_was_cut_off_replaces_its_own_checkpoint(spec_file: Path) -> None:
    known, cell = plan_cells(load_spec(spec_file))[:2]
    trained(spec_file, known)
    only = ("--only", str(cell))
    assert checkpoints(*only)["rest_bytes"] == 2 * BYTES
    run = Results(Path("results/digits")).run(cell.id)
    checkpoint_of(run)
    assert checkpoints(*only)["rest_bytes"] == 2 * BYTES  # of an unknown hand: set aside
    mark_started(run, cell, manifest_digests(Path("data")))
    assert checkpoints(*only)["rest_bytes"] == BYTES  # goes on
    mark_started(run, cell, lambda name: "of other data")
    assert checkpoints(*only)["rest_bytes"] == BYTES  # goes, before the new one begins


def test_what_a_validation_tells_is_not_how_far_the_training_is(spec_file: Path) -> None:
    cell = plan_cells(load_spec(spec_file))[0]
    results = Results(Path("results/digits"))
    run = results.run(cell.id)
    save_at(run / "checkpoints" / "last.ckpt", Reached(1, 2, 7, 14))
    mark_started(run, cell, manifest_digests(Path("data")))
    assert Leases(results.leases).take(cell.id) is not None

    def share_left(command: str, epoch: int | None, epochs: int | None) -> float:
        write_progress(run, Progress(command, command, epoch, epochs, 12, 14, None, {}, None, "host", 1, 0.0))
        options = ("--seconds-per-step", "7", "--only", str(cell), "--json", "plan.json")
        assert call("matrix", "plan", str(spec_file), *options) == 0
        (found,) = json.loads(Path("plan.json").read_text())["cells"]
        validating = 500 / 128 * 7 / 3  # of both sets, which comes once the training is over: a third of a training's
        whole, rest = (found[f"{name}_seconds"] - validating for name in ("whole", "rest"))
        return float(rest / whole)

    assert share_left("fit", 2, 2) == pytest.approx(2 / 14)
    assert share_left("validate", None, None) == pytest.approx(7 / 14)  # as the checkpoint says


def test_a_cell_that_adapts_lays_a_copy_beside_its_checkpoint(spec_file: Path) -> None:
    cell = plan_cells(load_spec(spec_file))[0]
    trained(spec_file, cell)
    with spec_file.open("a") as stream:
        stream.write("adapted: [typeset]\n")
    found = checkpoints("--only", str(cell))
    assert found == {"states": {"missing": 1}, "whole_bytes": BYTES, "rest_bytes": BYTES}


def test_epochs_of_one_step_cannot_be_probed(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = spec_file.parent / "base.yaml"
    overlay.write_text(overlay.read_text().replace("data: {", "data: {batch_size: 500, "))
    only = ("--only", "BatchNorm/typeset/0")
    assert call("matrix", "plan", str(spec_file), "--probe", *only) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        "probe: BatchNorm/typeset/0: FAILED: its epochs have one step, and the first of an epoch cannot be measured: "
        "give --seconds-per-step"
    )
    assert not Path("results/digits/probe.json").exists()
    assert call("matrix", "plan", str(spec_file), "--seconds-per-step", "2", *only) == 0
