"""What a run does, records and tells."""

import hashlib
import json
import signal
import sys
import time
from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.cell_run import needs_own_process
from en_bench.matrix.local.stopping import SAVED, UNSAVED
from en_bench.matrix.overlays import Config
from en_bench.matrix.plan import manifest_digests
from en_bench.matrix.process import Execute
from en_bench.matrix.results import Results
from en_bench.matrix.run import INTERRUPTED
from en_bench.resume.interrupt import Interrupt
from tests.matrix import fake_execute
from tests.matrix.running import RESULTS, run, runner, start, states, verbs


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


def test_validation_on_a_part_is_marked_on_the_terminal(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_PART", "digits/typeset/val")
    run(spec_file, only="BatchNorm/typeset/0")
    line = capsys.readouterr().out.splitlines()[1]
    assert line.count(" PART") == 1
    assert line.split("typeset ")[-1].split()[1] == "PART"


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
    assert out.splitlines()[-1] == SAVED
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


def fit_two_steps(interrupts: int) -> Execute:
    """A training that is interrupted in its first step, so often, and saves nothing."""

    def execute(argv: list[str]) -> None:
        with Interrupt() as interrupt:
            for _ in range(interrupts):
                signal.raise_signal(signal.SIGINT)
            interrupt.obey()

    return execute


def test_what_an_interrupt_has_cost_is_told(spec_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a training in this process that has ended its step, of one that a second Ctrl-C has cut short, and of a
    validation."""
    cell = "BatchNorm/typeset/0"
    assert runner(spec_file, fit_two_steps(1)).run(cell) == INTERRUPTED
    assert capfd.readouterr().out.splitlines()[1:] == [SAVED]
    assert runner(spec_file, fit_two_steps(2)).run(cell) == INTERRUPTED
    lost = f"{cell} ended unsaved: there is no checkpoint yet, its training begins anew"
    assert capfd.readouterr().out.splitlines()[1:] == [lost, UNSAVED]

    def interrupt_validation(argv: list[str]) -> None:
        fake_execute.execute(argv)
        if argv[0] == "validate":
            signal.raise_signal(signal.SIGINT)

    assert runner(spec_file, interrupt_validation).run(cell) == INTERRUPTED
    whole = f"{cell}: its training is whole, the validation under way begins anew"
    assert capfd.readouterr().out.splitlines()[-2:] == [whole, SAVED]


def test_a_training_that_fails_while_it_stops_has_saved_nothing(
    spec_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def execute(argv: list[str]) -> None:
        with Interrupt():
            signal.raise_signal(signal.SIGINT)
            raise RuntimeError("the step has failed")

    assert runner(spec_file, execute).run("BatchNorm/typeset/0") == INTERRUPTED
    assert Results(RESULTS).load() == ({}, [])
    assert capfd.readouterr().out.splitlines()[-1] == UNSAVED


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


def test_manifests_are_read_once_and_absent_sets_are_unknown(tmp_path: Path) -> None:
    manifest = tmp_path / "set" / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text("as prepared")
    digests = manifest_digests(tmp_path)
    prepared = hashlib.sha256(b"as prepared").hexdigest()
    assert [digests("set"), digests("none")] == [prepared, None]
    manifest.write_text("prepared again")
    assert digests("set") == prepared
    assert manifest_digests(tmp_path)("set") != prepared
