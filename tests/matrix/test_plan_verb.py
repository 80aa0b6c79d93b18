"""`en-bench matrix plan` as users call it: what it says of cost, time and disk, and what it refuses."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from en_bench.data.fetch import Patience
from en_bench.errors import InputError
from en_bench.matrix.lease import Leases
from en_bench.matrix.plan import manifest_digests, plan_cells
from en_bench.matrix.progress import Progress, write_progress
from en_bench.matrix.results import Results
from en_bench.matrix.slurm.leases import submitting_holder
from en_bench.matrix.spec import load_spec
from en_bench.matrix.training import mark_started
from en_bench.resume.reached import Pace, Reached, add_reached
from tests.conftest import REPO
from tests.data.flaky_http import FlakyServer
from tests.matrix.cost.test_amount import save_manifests
from tests.matrix.cost.test_known import costed
from tests.matrix.test_verbs import call


@pytest.fixture
def sets(spec_file: Path) -> dict[str, str]:
    return save_manifests()


def planned(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    assert call("matrix", "plan", "experiments/digits.yaml", *options) == 0
    return capsys.readouterr().out.splitlines()


def test_given_seconds_of_all_cells_and_of_some(sets: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """14 and 6 steps; 1,100 and 900 validated images at a third of a training image's time."""
    lines = planned(capsys, "--seconds-per-step", "3.84", "--seconds-per-step", "ExemplarNorm=38.4", "--slots", "2")
    assert [line.split(maxsplit=3)[3] for line in lines[:8:2]] == [
        "1 min 5 s",  # 53.76 + 11
        "10 min 48 s",
        "32.0 s",  # 23.04 + 9
        "5 min 20 s",
    ]
    assert "  cifar/resnet20 ExemplarNorm, 1 x 128, 32-true      38.4 s  x 6 to 14 steps  (given)" in lines
    # 2 x (64.76 + 647.6 + 32.04 + 320.4)
    assert "the whole: 8 cells, 35 min 30 s, of it 7 min 20 s validating" in lines
    assert "time with 2 slots: 17 min 45 s" in lines
    assert any(line.startswith("checkpoints: size unknown; ") for line in lines)


def test_the_key_of_a_specification_changes_no_cell_and_flags_come_before_it(
    sets: dict[str, str], spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [cell.id for cell in plan_cells(load_spec(spec_file))]
    with spec_file.open("a") as stream:
        stream.write("seconds_per_step: {BatchNorm: 1.0, ExemplarNorm: 2}\n")
    assert [cell.id for cell in plan_cells(load_spec(spec_file))] == before
    steps = [re.findall(r"([\d.]+) s  x", line) for line in planned(capsys, "--seconds-per-step", "BatchNorm=0.5")]
    assert [found[0] for found in steps if found] == ["0.5", "2"]


def test_records_tell_the_rest_and_the_whole_and_the_file_for_scripts(
    sets: dict[str, str], spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, results = load_spec(spec_file), Results(Path("results/digits"))
    cells = plan_cells(spec)
    for cell in (cells[0], cells[2]):
        record = costed(spec, cell, 1280.0, cost={"validation_images_per_second": 100.0, "parameters": 10**6})
        fit = {**record.fit}
        for part in ("train", "val"):
            fit[part] = {**fit[part], "digest": sets[fit[part]["set"]]}
        validate = {label: {**r, "digest": sets[r["set"]]} for label, r in record.validate.items()}
        results.save(replace(record, fit=fit, validate=validate))
    lines = planned(capsys, "--json", "plan.json")
    # 14 steps of 0.1 s and 11 s of validating for handwritten, 6 steps and 9 s for typeset: 4 cells each
    assert "the whole: 8 cells, 1 min 28 s, of it 1 min 20 s validating" in lines
    assert "the rest: 6 cells, 1 min 3 s, of it 58.0 s validating" in lines
    assert "2 records" not in "".join(lines) and "(1 record, H100)" in "".join(lines)
    assert any(
        line.startswith("checkpoints: 64.0 MB, 56.0 MB to come (from the number of parameters)") for line in lines
    )  # 8 bytes for each parameter, and one more while it is replaced
    assert lines[-1] == "done 2, missing 6, failed 0"
    found = json.loads(Path("plan.json").read_text())
    assert found["states"] == {"done": 2, "missing": 6} and len(found["cells"]) == 8
    assert found["whole_seconds"] == pytest.approx(4 * (1.4 + 11) + 4 * (0.6 + 9))
    assert found["rest_seconds"] == found["wall_seconds"] == pytest.approx(2 * (1.4 + 11) + 4 * (0.6 + 9))
    assert [cell["rest_seconds"] == 0 for cell in found["cells"][:4]] == [True, False, True, False]
    only = planned(capsys, "--only", "Exemplar*/typeset/*")
    assert len([line for line in only if "ExemplarNorm/typeset/" in line]) == 2
    assert "the whole: 2 cells, 19.2 s, of it 18.0 s validating" in only


def test_a_training_that_was_cut_off_counts_from_its_checkpoint(
    sets: dict[str, str], spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = plan_cells(load_spec(spec_file))[0]
    results = Results(Path("results/digits"))
    run = results.run(cell.id)
    save_at(run / "checkpoints" / "last.ckpt", Reached(1, 2, 7, 14))
    # Without a mark of whose training it is, the next run begins anew.
    assert planned(capsys, "--seconds-per-step", "3.84")[0].endswith("  1 min 5 s")
    mark_started(run, cell, manifest_digests(Path("data")))
    # 14 steps and 600 images while training, of which half is left, then 500 images
    half = "  1 min 5 s, 34.9 s left  (at epoch 1/2)"
    assert planned(capsys, "--seconds-per-step", "3.84")[0].endswith(half)
    assert call("matrix", "status", str(spec_file)) == 0
    assert "stopped  BatchNorm/handwritten/0  goes on at epoch 1/2" in capsys.readouterr().out.splitlines()
    # What it told is of steps that a kill has lost, unless it is at work.
    write_progress(run, Progress("fit", "fit", 2, 2, 14, 14, None, {}, None, "host", 1, 0.0))
    assert planned(capsys, "--seconds-per-step", "3.84")[0].endswith(half)
    lease = Leases(results.leases).take(cell.id)
    assert lease is not None
    assert planned(capsys, "--seconds-per-step", "3.84")[0].endswith("running  1 min 5 s, 5.0 s left  (at epoch 2/2)")
    assert call("matrix", "status", str(spec_file)) == 0
    assert "stopped" not in capsys.readouterr().out
    lease.give_back()
    # A checkpoint that says nothing, put in its place: nothing of the former one is believed.
    (run / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    assert planned(capsys, "--seconds-per-step", "3.84")[0].endswith("  1 min 5 s")


def test_an_unfinished_training_tells_its_pace(
    sets: dict[str, str], spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the cells of its shape, also where it is not chosen itself."""
    cell = plan_cells(load_spec(spec_file))[0]
    run = Results(Path("results/digits")).run(cell.id)
    save_at(run / "checkpoints" / "last.ckpt", Reached(1, 2, 7, 14, Pace(3.84, None, "H100", 1)))
    mark_started(run, cell, manifest_digests(Path("data")))
    source = "3.84 s  x 6 to 14 steps  (1 unfinished training, H100)"
    lines = planned(capsys)
    assert lines[0].endswith("  1 min 5 s, 34.9 s left  (at epoch 1/2)")
    assert sum(line.endswith(source) for line in lines) == 1
    assert any(line.startswith("not counted: 4 of 8 cells (ExemplarNorm/*): ") for line in lines)
    assert any("(1 unfinished training, H100)" in line for line in planned(capsys, "--only", "BatchNorm/typeset/1"))
    told = "not counted: all 8 cells: nothing measured on a device like --device '*A100*': "
    assert any(line.startswith(told) for line in planned(capsys, "--device", "*A100*"))


def save_at(checkpoint: Path, reached: Reached) -> None:
    checkpoint.parent.mkdir(parents=True)
    with checkpoint.open("w+b") as file:
        torch.save({"state_dict": {}}, file)
        add_reached(file, reached)


def test_data_that_are_not_here_come_before_what_could_be_measured(
    spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = planned(capsys)
    sets = "digits/handwritten/train, digits/handwritten/val, digits/typeset/val, digits/typeset/train"
    (why,) = [line for line in lines if line.startswith("not counted: ")]
    assert why.startswith(f"not counted: all 8 cells: samples of {sets} unknown: no manifest here")
    assert "prepare the data" in why and "--data-root" in why
    assert not any("--probe" in line or "--seconds-per-step" in line for line in lines)
    # To measure is no cure, and whoever asks for it is told why not.
    assert call("matrix", "plan", str(spec_file), "--probe") == 1
    assert "probe: BatchNorm/handwritten/0: FAILED: samples of digits/handwritten/train" in capsys.readouterr().err


def test_a_device_that_nothing_was_measured_on_is_told(
    sets: dict[str, str], spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = load_spec(spec_file)
    results = Results(Path("results/digits"))
    results.save(costed(spec, plan_cells(spec)[0], 1280.0))
    unknown = "not counted: 4 of 8 cells (ExemplarNorm/*): seconds per step unknown: give "
    assert any(line.startswith(unknown) for line in planned(capsys))
    why = "nothing measured on a device like --device '*A100*': correct or leave it out; there is H100"
    assert f"not counted: all 8 cells: {why}" in planned(capsys, "--device", "*A100*")


def test_running_and_queued_cells_are_told(
    sets: dict[str, str], spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = plan_cells(load_spec(spec_file))[:3]
    leases = Leases(Results(Path("results/digits")).leases)
    # There is no squeue here that knows of the job: it is taken for queued, never for lost.
    submitted = submitting_holder("name", 0, "cluster")
    held, queued = leases.take(first.id), leases.take(second.id, holder=submitted)
    given_back = leases.take(third.id)
    assert held is not None and queued is not None and given_back is not None
    given_back.give_back()
    lines = planned(capsys)
    assert [line.split()[2] for line in lines[:3]] == ["running", "queued", "missing"]
    assert lines[-2:] == ["of those that are not done: running 1, queued 1", "done 0, missing 8, failed 0"]


def test_checkpoints_that_do_not_fit_are_warned_of(
    sets: dict[str, str], spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = load_spec(spec_file)
    cell = plan_cells(spec)[0]
    Results(Path("results/digits")).save(costed(spec, cell, 1280.0, cost={"parameters": 10**15}))
    (warning,) = [line for line in planned(capsys) if line.startswith("WARNING: ")]
    assert re.fullmatch(
        r"WARNING: checkpoints to come take .* TB, and results/digits has .* free: make room, .*", warning
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seconds-per-step", "fast"], "--seconds-per-step fast.*: expected seconds above 0"),
        (["--seconds-per-step", "0"], "expected seconds above 0"),
        (["--seconds-per-step", "nan"], "expected seconds above 0"),
        (["--seconds-per-step", "BatchNrom=1"], "--seconds-per-step: 'BatchNrom': .* mean 'BatchNorm'"),
        (["--only", "nothing"], "--only nothing: no cell .*; a cell is named"),
        (["--only", "BatchNorm/handwriten/0"], r"; did you mean 'BatchNorm/handwritten/0'\?$"),
        (["--only", "batchnorm/*"], r"; did you mean 'BatchNorm/\*'\?$"),
        (["--only", "BatchNorm"], r"; did you mean 'BatchNorm/\*'\?$"),
        (["--only", "BatchNorm/*/7"], "; a cell is named"),
        (["--data-root", "nowhere"], "^--data-root nowhere: there is no such folder: give"),
    ],
)
def test_what_is_wrong_is_told(spec_file: Path, options: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call("matrix", "plan", str(spec_file), *options)


@pytest.mark.parametrize(("file", "words"), [("none/plan.json", "there is no folder none"), (".", "it is a folder")])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_printed(
    spec_file: Path, capsys: pytest.CaptureFixture[str], file: str, words: str
) -> None:
    with pytest.raises(InputError, match=f"--json .*{words}"):
        call("matrix", "plan", str(spec_file), "--json", file)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["{BatchNorm: fast}", "-1", "{BatchNorm: true}", "[1]", "{'B*x': 1}"])
def test_a_wrong_key_of_a_specification_is_told(spec_file: Path, value: str) -> None:
    with spec_file.open("a") as stream:
        stream.write(f"seconds_per_step: {value}\n")
    with pytest.raises(InputError, match=r"^experiments/digits.yaml: seconds_per_step"):
        call("matrix", "plan", str(spec_file))


def test_a_url_out_of_reach_ends_the_plan_at_its_first_manifest(
    spec_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has not the sets says so of each: they are not there."""
    monkeypatch.setattr(Patience, "wait_s", lambda self, failures: 0.0)
    (tmp_path / "served").mkdir()
    server = FlakyServer(tmp_path / "served")
    server.start()
    try:
        lines = planned(capsys, "--data-root", server.url)
    finally:
        server.stop()
    assert any("samples of digits/handwritten/train, " in line and "no manifest here" in line for line in lines)
    told = f"^{server.url}/digits/[a-z/]*/manifest.json: .*: check the server, the network and your access"
    with pytest.raises(InputError, match=told):
        call("matrix", "plan", str(spec_file), "--data-root", server.url)
    assert [line.partition(": try ")[2][:6] for line in capsys.readouterr().err.splitlines()] == ["2 of 3", "3 of 3"]


@pytest.mark.slow
def test_a_probe_measures_real_steps_and_leaves_only_its_file(shards: Path, tmp_path: Path) -> None:
    experiments = REPO / "experiments"
    spec = tmp_path / "toy.yaml"
    spec.write_text(
        f"""
name: toy
base: [{experiments}/base.yaml, {experiments}/recipe/digits.yaml,
  {{data: {{batch_size: 16, val_batch_size: 16}}, trainer: {{max_epochs: 2, accelerator: cpu}}}}]
norms: {{BatchNorm: {experiments}/norm/bn.yaml, wrong: {{model: {{norm: NoSuchNorm}}}}}}
train: {{a: {{data: {{train: a/train, val: a/val}}}}, b: {{data: {{train: b/train, val: b/val}}}}}}
seeds: [0]
"""
    )

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "en_bench", "matrix", *arguments, "--data-root", str(shards)]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)

    def cells() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads((tmp_path / "plan.json").read_text())["cells"]
        return found

    done = command("plan", str(spec), "--probe", "--probe-steps", "15", "--json", "plan.json")
    assert done.returncode == 1, done.stderr  # of one shape
    assert "probe: wrong/a/0: FAILED: exit code 2: " in done.stderr and "NoSuchNorm" in done.stderr
    assert {path.name for path in (tmp_path / "results" / "toy").iterdir()} == {"probe.json"}
    (probe,) = json.loads((tmp_path / "results" / "toy" / "probe.json").read_text())["probes"]
    assert probe["conditions"]["steps"] >= 15 and probe["conditions"]["validation_images"] > 0
    assert probe["checkpoint"] > 4 * probe["parameters"] and probe["validation"] < probe["step"]
    assert [cell["whole_seconds"] is None for cell in cells()] == [False, True, False, True]
    again = command("plan", str(spec), "--only", "BatchNorm/*", "--probe", "--json", "plan.json")
    assert again.returncode == 0 and "probe:" not in again.stderr and "(1 probe, " in again.stdout

    # The steps that were counted are those that the training takes, and its record then tells more than the probe.
    steps = {cell["id"]: cell["steps"] for cell in cells()}
    run = command("run", str(spec), "--only", "BatchNorm/a/0")
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = (tmp_path / "results" / "toy" / "records").iterdir()
    record = json.loads(path.read_text())
    assert record["fit"]["steps"] == steps[record["id"]] == 24
    assert record["fit"]["cost"]["validation_images_per_second"] > 0
    assert record["validate"]["b"]["cost"]["images_per_second"] > 0
    after = command("plan", str(spec), "--only", "BatchNorm/*")
    assert "(1 record, " in after.stdout and after.stdout.splitlines()[-1] == "done 1, missing 1, failed 0"
