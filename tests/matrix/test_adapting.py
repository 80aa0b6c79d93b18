"""The second validation of a set, with running moments of its unlabelled images: when it runs, and when again."""

import json
from pathlib import Path

import pytest

from en_bench.cli import main
from en_bench.errors import InputError
from en_bench.matrix.commands import adapt_commands, cell_commands
from en_bench.matrix.plan import PlannedCell, State, plan, plan_cells
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.run import INTERRUPTED
from en_bench.matrix.spec import load_spec
from tests.matrix import fake_execute
from tests.matrix.fake_execute import digest
from tests.matrix.running import RESULTS, nowhere, run, runner, states, verbs
from tests.matrix.test_spec import edit

CELL = "BatchNorm/handwritten/0"


@pytest.fixture
def adapted(spec_file: Path) -> Path:
    return edit(spec_file, "seeds:", "adapted: {typeset: digits/typeset/unlabelled}\nseeds:")


def planned(spec_file: Path, digests=nowhere) -> PlannedCell:
    return plan(load_spec(spec_file), Results(RESULTS).load()[0], digests)[0]


def checkpoints() -> list[Path]:
    return list(RESULTS.glob("runs/*/adapted/*.ckpt"))


def test_runs_after_the_validations_and_is_kept_in_the_record(adapted: Path, trace: Path) -> None:
    assert run(adapted, only=CELL) == 0
    assert verbs(trace) == ["fit", "validate", "validate", "norms", "validate"]
    item = planned(adapted)
    assert item.state is State.DONE and item.record is not None
    result = item.adapted("typeset")
    assert result is not None
    assert result == json.loads((RESULTS / "runs" / item.cell.id / "validate/typeset.adapted.json").read_text())
    assert result["set"] == "digits/typeset/val" and result["recalibrated"]["set"] == "digits/typeset/unlabelled"
    assert result["metrics"] != item.record.validate["typeset"]["metrics"]
    assert item.adapted("handwritten") is None and not item.has_no_moments("typeset")
    assert Record.from_json(item.record.to_json()) == item.record
    assert checkpoints() == []
    assert run(adapted, only=CELL) == 0 and verbs(trace) == []


def test_added_later_it_costs_no_training(spec_file: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(spec_file, only=CELL)
    verbs(trace)
    edit(spec_file, "seeds:", "adapted: [typeset]\nseeds:")
    assert planned(spec_file).state is State.MISSING
    capsys.readouterr()
    assert main(["matrix", "report", str(spec_file), "--table", "matrix"]) == 0
    first = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("handwritten"))
    assert first.split()[-1] == "MISSING", "not the sign of a network that has nothing to adapt"
    for verb in ("plan", "status"):
        assert main(["matrix", verb, str(spec_file)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "done 0, missing 8, failed 0"
    assert run(spec_file, only=CELL) == 0
    assert verbs(trace) == ["norms", "validate"]
    assert planned(spec_file).state is State.DONE


def test_other_unlabelled_images_are_another_result(adapted: Path, trace: Path) -> None:
    run(adapted, only=CELL)
    verbs(trace)
    edit(adapted, "unlabelled", "train")
    assert planned(adapted).state is State.STALE
    assert run(adapted, only=CELL) == 0
    assert verbs(trace) == ["norms", "validate"]
    result = planned(adapted).adapted("typeset")
    assert result is not None and result["recalibrated"]["set"] == "digits/typeset/train"


def changed(*names: str):
    return lambda name: "sha256:new" if name in names else digest(name)


def test_it_is_stale_when_the_unlabelled_images_change(adapted: Path, trace: Path, monkeypatch) -> None:
    run(adapted, only=CELL, digests=changed())
    verbs(trace)
    item = planned(adapted, changed("digits/typeset/unlabelled"))
    assert item.state is State.STALE and item.adapted("typeset") is None
    assert item.result("typeset") is not None, "the plain result still holds"
    assert planned(adapted, changed()).state is State.DONE
    # With the images the digest changes for good.
    monkeypatch.setattr(fake_execute, "digest", changed("digits/typeset/unlabelled"))
    assert run(adapted, only=CELL, digests=changed("digits/typeset/unlabelled")) == 0
    assert verbs(trace) == ["norms", "validate"]
    assert planned(adapted, changed("digits/typeset/unlabelled")).state is State.DONE


def test_a_changed_validation_set_takes_both_results_with_it(adapted: Path, trace: Path, monkeypatch) -> None:
    run(adapted, only=CELL, digests=changed())
    verbs(trace)
    of_val = changed("digits/typeset/val")
    item = planned(adapted, of_val)
    assert item.state is State.STALE and item.result("typeset") is None and item.adapted("typeset") is None
    monkeypatch.setattr(fake_execute, "digest", of_val)
    assert run(adapted, only=CELL, digests=of_val) == 0
    assert verbs(trace) == ["validate", "norms", "validate"]


def test_a_network_without_running_moments_is_told_so_and_done(
    adapted: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_NO_MOMENTS", "1")
    assert run(adapted, only=CELL) == 0
    assert verbs(trace) == ["fit", "validate", "validate", "norms"]
    item = planned(adapted)
    assert item.state is State.DONE and item.adapted("typeset") is None and item.has_no_moments("typeset")
    told = f"{CELL}: no normaliser has running moments: nothing to adapt to typeset"
    assert told in capsys.readouterr().out
    assert "nothing to adapt to typeset" in (RESULTS / "runs" / item.cell.id / "log.txt").read_text()
    assert run(adapted, only=CELL) == 0 and verbs(trace) == []


def test_a_failure_keeps_the_other_results(adapted: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL_ADAPT", "unlabelled")
    assert run(adapted, only=CELL) == 1
    item = planned(adapted)
    assert item.state is State.FAILED and item.record is not None
    assert item.record.reason == "RuntimeError: cannot recalibrate on digits/typeset/unlabelled"
    assert item.result("handwritten") is not None and item.result("typeset") is not None
    verbs(trace)
    monkeypatch.delenv("FAKE_FAIL_ADAPT")
    assert run(adapted, only=CELL) == 0
    assert verbs(trace) == ["norms", "validate"]


def test_interrupted_between_recalibration_and_validation(adapted: Path, trace: Path) -> None:
    """What is left is not believed, in nobody's way, and made again."""

    def execute(argv: list[str]) -> None:
        if "adapted" in argv[argv.index("--ckpt_path") + 1]:
            raise KeyboardInterrupt
        fake_execute.execute(argv)

    assert runner(adapted, execute).run(CELL) == INTERRUPTED
    assert verbs(trace) == ["fit", "validate", "validate", "norms"]
    assert len(checkpoints()) == 1
    assert run(adapted, only=CELL) == 0
    assert verbs(trace) == ["norms", "validate"]
    assert checkpoints() == [] and planned(adapted).state is State.DONE


def test_the_commands_are_part_of_the_cell(adapted: Path) -> None:
    spec = load_spec(adapted)
    cell = plan_cells(spec)[0]
    recalibrate, validate = adapt_commands(spec, "typeset", Path("run"), Path("sets"))
    assert cell_commands(spec, cell, Path("run"), Path("sets"))[-2:] == [recalibrate, validate]
    assert " ".join(recalibrate) == (
        "norms recalibrate --config run/config.yaml --ckpt_path run/checkpoints/last.ckpt "
        "--out run/adapted/typeset.ckpt --split val --data.val digits/typeset/unlabelled "
        "--if_none skip --result run/adapted/typeset.json --data.root sets"
    )
    assert " ".join(validate) == (
        "validate --config run/config.yaml --ckpt_path run/adapted/typeset.ckpt --data.val digits/typeset/val "
        "--data.val_labels clean --result run/validate/typeset.adapted.json --data.root sets"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recalibrated": {}}, "'set' is missing"),
        ({"recalibrated": 3}, "'recalibrated' is of the wrong type"),
        ({"metrics": {"top1": "high"}}, "the metric 'top1' is 'high'"),
    ],
)
def test_damaged_records_are_refused(adapted: Path, change, words: str) -> None:
    run(adapted, only=CELL)
    (record,) = Results(RESULTS).load()[0].values()
    raw = json.loads(json.dumps(record.to_json()))
    raw["adapted"]["typeset"].update(change)
    with pytest.raises(InputError) as error:
        Record.from_json(raw)
    assert words in str(error.value)


def test_records_of_former_versions_have_none(spec_file: Path) -> None:
    run(spec_file, only=CELL)
    (record,) = Results(RESULTS).load()[0].values()
    raw = {key: value for key, value in record.to_json().items() if key != "adapted"}
    assert Record.from_json(raw) == record
    assert states(spec_file)[0] == "done"
