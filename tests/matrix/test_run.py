import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.cell_run import CellRun, needs_own_process
from en_bench.matrix.commands import cell_commands
from en_bench.matrix.lease import Leases
from en_bench.matrix.overlays import Config
from en_bench.matrix.plan import Digests, manifest_digests, plan, plan_cells
from en_bench.matrix.process import Execute
from en_bench.matrix.results import Results
from en_bench.matrix.run import INTERRUPTED, Runner
from en_bench.matrix.spec import load_spec
from en_bench.matrix.training import mark_started
from tests.matrix import fake_execute

RESULTS = Path("results/digits")


def nowhere(name: str) -> str | None:
    return None


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAKE_TRACE", str(tmp_path / "trace"))
    return tmp_path / "trace"


def runner(
    spec_file: Path, execute: Execute = fake_execute.execute, digests: Digests = nowhere, isolate: bool = False
) -> Runner:
    results = Results(RESULTS)
    return Runner(CellRun(load_spec(spec_file), execute, results, digests, isolate=isolate), Leases(results.leases))


def run(spec_file: Path, digests: Digests = nowhere, only: str = "*", isolate: bool = False) -> int:
    return runner(spec_file, fake_execute.execute, digests, isolate).run(only)


def verbs(trace: Path) -> list[str]:
    """The verbs of all commands since the last call."""
    found = [json.loads(line)[0] for line in trace.read_text().splitlines()] if trace.exists() else []
    trace.unlink(missing_ok=True)
    return found


def states(spec_file: Path, digests: Digests = nowhere) -> list[str]:
    return [item.state.value for item in plan(load_spec(spec_file), Results(RESULTS).load()[0], digests)]


def start(spec_file: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, fake_execute.__file__, "matrix", "run", str(spec_file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_runs_everything_once(spec_file: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(spec_file) == 0
    assert verbs(trace) == ["fit", "validate", "validate"] * 8
    assert states(spec_file) == ["done"] * 8
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits: 8 cells, 0 of them done"
    assert lines[1].startswith("[1/8] BatchNorm     handwritten  seed 0   handwritten ")
    assert lines[8].startswith("[8/8] ExemplarNorm  typeset      seed 1   handwritten ")
    assert lines[8].endswith("time left 0.0 s")
    assert run(spec_file) == 0
    assert verbs(trace) == []


def test_record_holds_what_the_commands_wrote(spec_file: Path, trace: Path) -> None:
    run(spec_file, only="ExemplarNorm/typeset/1")
    (record,) = Results(RESULTS).load()[0].values()
    written = RESULTS / "runs" / record.id
    assert (record.norm, record.train, record.seed, record.status) == ("ExemplarNorm", "typeset", 1, "done")
    assert record.fit == json.loads((written / "fit.json").read_text())
    assert record.validate["handwritten"] == json.loads((written / "validate/handwritten.json").read_text())
    assert record.overlays["data"]["train"] == "digits/typeset/train"
    assert record.log == f"runs/{record.id}/log.txt"


def test_failing_training_is_recorded_and_the_next_one_starts(
    spec_file: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "ExemplarNorm")
    assert run(spec_file, only="*/handwritten/*") == 1
    assert states(spec_file) == ["done", "done", "failed", "failed"] + ["missing"] * 4
    line = capsys.readouterr().out.splitlines()[3]
    assert "FAILED: RuntimeError: loss is not finite <b>at all</b> (log: results/digits/runs/" in line
    log = next(record.log for record in Results(RESULTS).load()[0].values() if record.reason)
    assert "Traceback" in (RESULTS / log).read_text()
    verbs(trace)
    monkeypatch.delenv("FAKE_FAIL")
    assert run(spec_file, only="*/handwritten/*") == 0
    assert verbs(trace) == ["fit", "validate", "validate"] * 2


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("input", "90 training samples cannot fill 2 ranks x batch 64"),
        ("nothing", "fit ended well but left no usable fit.json: the file is missing"),
    ],
)
def test_reason_of_a_failure_in_one_line(
    how: str, reason: str, spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "BatchNorm")
    monkeypatch.setenv("FAKE_HOW", how)
    assert run(spec_file, only="BatchNorm/typeset/0") == 1
    assert [record.reason for record in Results(RESULTS).load()[0].values()] == [reason]


@pytest.mark.parametrize("options", [(), ("--isolate",)])
def test_exit_of_the_parser_takes_its_error_from_the_log(options: tuple[str, ...], spec_file: Path) -> None:
    # With --isolate the real command line answers (there is no such option), without it the stand-in.
    done = start(spec_file, "--only", "BatchNorm/typeset/0", *options, FAKE_FAIL="BatchNorm", FAKE_HOW="exit")
    assert done.wait(60) == 1
    (record,) = Results(RESULTS).load()[0].values()
    assert record.reason is not None
    assert "exit code" in record.reason
    if not options:
        assert record.reason == "exit code 2: en-bench fit: error: no such option"


def test_failing_validation_keeps_the_training(spec_file: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL_VALIDATE", "typeset")
    assert run(spec_file, only="BatchNorm/typeset/0") == 1
    (record,) = Results(RESULTS).load()[0].values()
    assert record.reason == "RuntimeError: cannot validate on digits/typeset/val"
    assert list(record.validate) == ["handwritten"]
    verbs(trace)
    monkeypatch.delenv("FAKE_FAIL_VALIDATE")
    assert run(spec_file, only="BatchNorm/typeset/0") == 0
    assert verbs(trace) == ["validate"]


def test_added_validation_set_costs_only_its_validation(spec_file: Path, trace: Path) -> None:
    run(spec_file, only="BatchNorm/*/0")
    verbs(trace)
    with spec_file.open("a") as stream:
        stream.write("validate: {typeset: data/typeset.yaml, other: {data: {val: other/val, val_labels: clean}}}\n")
    assert run(spec_file, only="BatchNorm/*/0") == 0
    assert verbs(trace) == ["validate"] * 2
    for record in Results(RESULTS).load()[0].values():
        assert set(record.validate) == {"handwritten", "typeset", "other"}


def test_another_set_under_an_old_label_is_validated_again(spec_file: Path, trace: Path) -> None:
    run(spec_file, only="BatchNorm/typeset/0")
    verbs(trace)
    with spec_file.open("a") as stream:
        stream.write("validate: {typeset: {data: {val: other/val, val_labels: clean}}}\n")
    run(spec_file, only="BatchNorm/typeset/0")
    assert verbs(trace) == ["validate"]
    (record,) = Results(RESULTS).load()[0].values()
    assert record.validate["typeset"]["set"] == "other/val"


def test_changed_data_run_again(spec_file: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(spec_file, fake_execute.digest)
    verbs(trace)
    monkeypatch.setattr(fake_execute, "digest", lambda name: f"new {name}" if "typeset/val" in name else DIGEST(name))
    assert states(spec_file, lambda name: fake_execute.digest(name)) == ["stale"] * 8
    assert run(spec_file, lambda name: fake_execute.digest(name)) == 0
    # Trainings on the typeset digits validate on that set as they go; the others only need its validation again.
    assert verbs(trace) == ["validate"] * 4 + ["fit", "validate", "validate"] * 4
    assert states(spec_file, lambda name: fake_execute.digest(name)) == ["done"] * 8


DIGEST = fake_execute.digest


def test_training_without_its_checkpoint_is_done_again(
    spec_file: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL_VALIDATE", "typeset")
    run(spec_file, only="BatchNorm/typeset/0")
    next(RESULTS.glob("runs/*/checkpoints/last.ckpt")).unlink()
    monkeypatch.delenv("FAKE_FAIL_VALIDATE")
    verbs(trace)
    run(spec_file, only="BatchNorm/typeset/0")
    assert verbs(trace) == ["fit", "validate", "validate"]


def test_training_of_another_seed_is_not_taken(spec_file: Path, trace: Path) -> None:
    run(spec_file, only="BatchNorm/typeset/0")
    next(RESULTS.glob("records/*.json")).unlink()
    fit = next(RESULTS.glob("runs/*/fit.json"))
    fit.write_text(fit.read_text().replace('"seed": 0', '"seed": 5'))
    verbs(trace)
    run(spec_file, only="BatchNorm/typeset/0")
    assert verbs(trace) == ["fit", "validate", "validate"]


def commands(spec_file: Path, name: str) -> list[list[str]]:
    spec = load_spec(spec_file)
    cell = next(cell for cell in plan_cells(spec) if str(cell) == name)
    return cell_commands(spec, cell, Results(RESULTS).run(cell.id), None)


def test_training_typed_by_hand_is_taken(spec_file: Path, trace: Path) -> None:
    fit = commands(spec_file, "BatchNorm/typeset/1")[0]
    fake_execute.execute(fit)
    written = (Path(fit[-3]) / "fit.json").read_text()
    verbs(trace)
    assert run(spec_file, only="BatchNorm/typeset/1") == 0
    assert verbs(trace) == ["validate", "validate"]
    assert (Path(fit[-3]) / "fit.json").read_text() == written


def test_training_typed_by_hand_with_other_settings_moves_aside(
    spec_file: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = commands(spec_file, "BatchNorm/typeset/1")[0]
    (other := Path("other.yaml")).write_text("model: {lr: 0.2}\n")
    run_folder = Path(fit[-3])
    for number in (1, 2):
        fake_execute.execute([*fit, "--config", str(other)])
        written = (run_folder / "fit.json").read_text()
        (run_folder / "cell.json").unlink(missing_ok=True)
        capsys.readouterr()
        verbs(trace)
        assert run(spec_file, only="BatchNorm/typeset/1") == 0
        assert verbs(trace) == ["fit", "validate", "validate"]
        aside = run_folder.with_name(f"{run_folder.name}.set-aside-{number}")
        assert (aside / "fit.json").read_text() == written
        assert (aside / "checkpoints/last.ckpt").exists()
        first = (run_folder / "log.txt").read_text().splitlines()[0]
        assert first.startswith("# ") and first.endswith(f"moved to {aside.name}")
        assert f"moved to {aside.name}" in capsys.readouterr().out
        next(RESULTS.glob("records/*.json")).unlink()
        run_folder.rename(f"kept-{number}")


def test_what_a_killed_runner_left_goes_and_what_a_hand_left_stays(spec_file: Path) -> None:
    run_folder = Path(commands(spec_file, "BatchNorm/typeset/0")[0][-3])
    for left_by_hand in (False, True):
        (run_folder / "checkpoints").mkdir(parents=True)
        (run_folder / "checkpoints/last.ckpt").write_text("half way")
        if not left_by_hand:
            (run_folder / "log.txt").write_text("$ en-bench fit\n")
        assert run(spec_file, only="BatchNorm/typeset/0") == 0
        assert run_folder.with_name(f"{run_folder.name}.set-aside-1").exists() is left_by_hand
        next(RESULTS.glob("records/*.json")).unlink()
        run_folder.rename(f"kept-{left_by_hand}")


@pytest.mark.parametrize("other_sets", [False, True])
def test_a_training_that_was_cut_off_goes_on_unless_its_sets_are_others(spec_file: Path, other_sets: bool) -> None:
    run_folder = Path(commands(spec_file, "BatchNorm/typeset/0")[0][-3])
    (run_folder / "checkpoints").mkdir(parents=True)
    (run_folder / "checkpoints/last.ckpt").write_text("half way")
    (run_folder / "log.txt").write_text("$ en-bench fit\n")
    cell = next(cell for cell in plan_cells(load_spec(spec_file)) if str(cell) == "BatchNorm/typeset/0")
    mark_started(run_folder, cell, (lambda name: "before") if other_sets else nowhere)
    assert run(spec_file, only="BatchNorm/typeset/0") == 0
    log = (run_folder / "log.txt").read_text()
    assert ("goes on where it was cut off" in log) is not other_sets
    assert (log.splitlines()[0] == "$ en-bench fit") is not other_sets
    assert not run_folder.with_name(f"{run_folder.name}.set-aside-1").exists()


def test_a_training_goes_on_after_a_failure_and_begins_anew_after_two(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = Path(commands(spec_file, "BatchNorm/typeset/0")[0][-3])

    def attempt(fails: bool) -> tuple[int, int]:
        monkeypatch.setenv("FAKE_FAIL", "typeset" if fails else "nothing at all")
        code = run(spec_file, only="BatchNorm/typeset/0")
        (run_folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run_folder / "checkpoints/last.ckpt").write_text("half way")
        return (run_folder / "log.txt").read_text().count("goes on where it was cut off"), code

    assert attempt(fails=True) == (0, 1)
    assert attempt(fails=True) == (1, 1)  # a full disk, say; but the checkpoint itself might be to blame
    assert attempt(fails=False) == (0, 0)


def test_overlay_edited_before_a_training_starts_fails_its_cells(spec_file: Path, trace: Path) -> None:
    planned = runner(spec_file)
    (spec_file.parent / "norm/en.yaml").write_text("norm: {class_path: en_bench.norms.GroupNorm}\n")
    assert planned.run("*/typeset/0") == 1
    assert verbs(trace) == ["fit", "validate", "validate"]
    record = next(r for r in Results(RESULTS).load()[0].values() if r.norm == "ExemplarNorm")
    assert record.reason == "experiments/norm/en.yaml changed since this run was planned: start it again"
    assert record.status == "failed" and not record.fit
    assert record.reason in (RESULTS / record.log).read_text()
    assert states(spec_file)[6] == "missing"


def test_overlay_edited_while_a_training_starts_is_not_recorded_under_the_old_identity(
    spec_file: Path, trace: Path
) -> None:
    overlay = spec_file.parent / "norm/en.yaml"
    planned = overlay.read_text()

    def edit_and_execute(argv: list[str]) -> None:
        overlay.write_text("norm: {class_path: en_bench.norms.GroupNorm}\n")
        fake_execute.execute(argv)

    assert runner(spec_file, edit_and_execute).run("ExemplarNorm/typeset/0") == 1
    assert verbs(trace) == ["fit"]
    (record,) = Results(RESULTS).load()[0].values()
    assert record.reason == "experiments/norm/en.yaml changed since this run was planned: start it again"
    assert not record.fit and not record.validate
    # Nor does that training pass for the cell's own once the overlay is what it was.
    overlay.write_text(planned)
    assert run(spec_file, only="ExemplarNorm/typeset/0") == 0
    assert verbs(trace) == ["fit", "validate", "validate"]


def test_overlay_edited_where_it_makes_no_other_experiment_goes_on(spec_file: Path) -> None:
    planned = runner(spec_file)
    base = spec_file.parent / "base.yaml"
    base.write_text(base.read_text().replace("workers: 2", "workers: 3"))
    assert planned.run("BatchNorm/typeset/0") == 0


def test_removed_overlay_fails_its_cells(spec_file: Path) -> None:
    planned = runner(spec_file)
    (spec_file.parent / "norm/en.yaml").unlink()
    assert planned.run("ExemplarNorm/typeset/0") == 1
    (record,) = Results(RESULTS).load()[0].values()
    assert record.reason == "experiments/norm/en.yaml: no such file"


def test_validation_on_a_part_is_marked_on_the_terminal(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_PART", "digits/typeset/val")
    run(spec_file, only="BatchNorm/typeset/0")
    line = capsys.readouterr().out.splitlines()[1]
    assert line.count(" PART") == 1
    assert line.split("typeset ")[-1].split()[1] == "PART"


def test_failed_validation_of_another_set_leaves_no_old_result(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(spec_file, only="BatchNorm/typeset/0")
    with spec_file.open("a") as stream:
        stream.write("validate: {typeset: {data: {val: other/val, val_labels: clean}}}\n")
    monkeypatch.setenv("FAKE_FAIL_VALIDATE", "other")
    assert run(spec_file, only="BatchNorm/typeset/0") == 1
    (record,) = Results(RESULTS).load()[0].values()
    assert list(record.validate) == ["handwritten"]


def test_damaged_record_is_made_again_from_what_is_there(spec_file: Path, trace: Path) -> None:
    run(spec_file, only="BatchNorm/typeset/*")
    damaged = sorted(RESULTS.glob("records/*.json"))[0]
    whole = damaged.read_text()
    damaged.write_text(whole[:100])
    verbs(trace)
    assert run(spec_file, only="BatchNorm/typeset/*") == 0
    assert verbs(trace) == []
    (record,) = RESULTS.glob(f"records/{damaged.stem}*.json")
    assert record.name == f"{damaged.stem}.2.json" and not damaged.exists()
    assert record.read_text() == whole.replace('"generation": 1', '"generation": 2')


def test_killed_half_way_and_started_again(spec_file: Path, trace: Path) -> None:
    first = start(spec_file, FAKE_SECONDS="0.15")
    deadline = time.monotonic() + 60
    while len(list(RESULTS.glob("records/*.json"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.kill()
    first.communicate()
    records, warnings = Results(RESULTS).load()
    assert 3 <= len(records) < 8
    assert not warnings
    before = {path: path.stat().st_mtime_ns for path in RESULTS.glob("r*s/**/*.json") if path.parent.name == "records"}
    second = start(spec_file)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert f"8 cells, {len(records)} of them done" in out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert states(spec_file) == ["done"] * 8
    assert not list(RESULTS.rglob("*.tmp"))


def test_interrupt_stops_cleanly(spec_file: Path) -> None:
    child = start(spec_file, FAKE_SECONDS="0.3")
    deadline = time.monotonic() + 60
    while not list(RESULTS.glob("records/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == INTERRUPTED
    assert out.splitlines()[-1] == "interrupted: finished cells are kept, the same command continues"
    assert "Traceback" not in out + err


def test_interrupt_that_a_command_turns_into_an_exit_is_still_one(spec_file: Path) -> None:
    def as_lightning_does(argv: list[str]) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.exit(1)

    before = signal.getsignal(signal.SIGINT)
    assert runner(spec_file, as_lightning_does).run() == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is before
    assert Results(RESULTS).load() == ({}, [])


def test_output_goes_to_the_log_and_only_lines_to_the_terminal(spec_file: Path) -> None:
    child = start(spec_file, "--only", "BatchNorm/typeset/0")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert err == ""
    assert "a line of" not in out
    log = next(RESULTS.glob("runs/*/log.txt")).read_text()
    assert log.count("a line of a logging handler") == log.count("a line of a library") == 3
    assert log.startswith("$ en-bench fit --config experiments/base.yaml --config experiments/recipe/digits.yaml ")


def test_pattern_that_matches_nothing(spec_file: Path) -> None:
    with pytest.raises(InputError, match=r"--only EN/\*: no cell .* such as BatchNorm/handwritten/0"):
        run(spec_file, only="EN/*")


@pytest.mark.parametrize(
    ("trainer", "own"),
    [
        ({}, True),
        ({"devices": "auto", "strategy": "auto"}, True),
        ({"devices": -1}, True),
        ({"devices": 1}, False),
        ({"devices": "1"}, False),
        ({"devices": [0], "strategy": "auto"}, False),
        ({"devices": 2}, True),
        ({"devices": [0, 1]}, True),
        ({"devices": 1, "num_nodes": 2}, True),
        ({"devices": 1, "strategy": "ddp_find_unused_parameters_true"}, True),
        ({"devices": 1, "strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy"}}, True),
    ],
)
def test_all_but_a_single_device_asks_for_a_process_of_its_own(trainer: Config, own: bool) -> None:
    assert needs_own_process({"trainer": trainer}) is own
    assert needs_own_process({})


def test_manifests_are_read_once_and_absent_sets_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = pytest.importorskip("en_bench.data.manifest")
    asked: list[Path] = []
    monkeypatch.setattr(manifest, "manifest_digest", lambda folder: asked.append(folder) or "d")
    (tmp_path / "set").mkdir()
    digests = manifest_digests(tmp_path)
    assert [digests("set"), digests("set"), digests("none")] == ["d", "d", None]
    assert asked == [tmp_path / "set"]
