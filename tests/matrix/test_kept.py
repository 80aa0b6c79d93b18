"""What lies in a folder of results already: which of it is kept, and which is done again."""

from pathlib import Path

import pytest

from en_bench.matrix.commands import cell_commands
from en_bench.matrix.plan import plan_cells
from en_bench.matrix.results import Results
from en_bench.matrix.spec import load_spec
from en_bench.matrix.training import mark_started
from tests.matrix import fake_execute
from tests.matrix.running import RESULTS, nowhere, run, runner, states, verbs


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
