import argparse
import shlex
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from en_bench.cli import main
from en_bench.data.manifest import save_manifest
from en_bench.errors import InputError
from en_bench.matrix.verbs import add_verbs
from tests.data.flaky_http import Fault, FlakyServer
from tests.matrix import fake_execute
from tests.matrix.test_plan import MANIFEST


def call(*argv: str) -> int:
    parser = argparse.ArgumentParser(prog="en-bench")
    add_verbs(parser.add_subparsers(required=True))
    args = parser.parse_args(argv)
    code = args.handler(args, fake_execute.execute)
    assert isinstance(code, int)
    return code


@pytest.fixture
def spec(spec_file: Path) -> str:
    return str(spec_file)


def test_dry_run_prints_exact_commands_and_writes_nothing(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("matrix", "run", spec, "--dry-run", "--only", "ExemplarNorm/handwritten/1") == 0
    state, fit, first, second = capsys.readouterr().out.splitlines()
    assert state == "# ExemplarNorm/handwritten/1: missing"
    cell = shlex.split(fit)[-3].rsplit("/", 1)[-1]
    assert fit == (
        "en-bench fit --config experiments/base.yaml --config experiments/recipe/digits.yaml "
        "--config experiments/data/handwritten.yaml --data.val_labels clean --config experiments/norm/en.yaml "
        f"--seed_everything 1 --trainer.default_root_dir results/digits/runs/{cell} --ckpt_path last"
    )
    run = f"results/digits/runs/{cell}"
    assert first == (
        f"en-bench validate --config {run}/config.yaml --ckpt_path {run}/checkpoints/last.ckpt "
        f"--data.val digits/handwritten/val --data.val_labels clean --result {run}/validate/handwritten.json"
    )
    assert second.endswith(
        f"--data.val digits/typeset/val --data.val_labels clean --result {run}/validate/typeset.json"
    )
    assert not Path("results").exists()


def test_data_root_is_passed_on_only_if_given(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    call("matrix", "run", spec, "--dry-run", "--data-root", "my shards")
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert len(lines) == 24
    assert all(line.endswith("--data.root 'my shards'") for line in lines)


def test_the_data_may_lie_at_a_url(
    spec: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands get it as it was given; a set that is not the one of a record is noticed."""
    served = tmp_path / "served"
    server = FlakyServer(served)
    call("matrix", "run", spec)
    for name in ("handwritten/train", "handwritten/val"):
        folder = served / "sets" / "digits" / name
        folder.mkdir(parents=True)
        save_manifest(replace(MANIFEST, folder=folder))
    server.start()
    url = f"{server.url}/sets"
    try:
        capsys.readouterr()
        call("matrix", "run", spec, "--dry-run", "--data-root", url)
        lines = capsys.readouterr().out.splitlines()
        states = [line.rpartition(" ")[2] for line in lines if line.startswith("#")]
        assert states == ["stale"] * 8
        assert all(line.endswith(f"--data.root {url}") for line in lines if not line.startswith("#"))
        assert server.requests["sets/digits/typeset/train/manifest.json"] == 1  # which is not there
        monkeypatch.setenv("EN_BENCH_SHARDS", url)
        call("matrix", "plan", spec, "--only", "BatchNorm/typeset/0")
        assert "done 0, missing 1, failed 0" in capsys.readouterr().out
        server.always = {"sets/digits/handwritten/train/manifest.json": Fault(status=403)}
        with pytest.raises(InputError, match=rf"{url}/digits/handwritten/train: .*give another --data-root"):
            call("matrix", "run", spec, "--dry-run")
        capsys.readouterr()
        for verb in ("status", "report"):  # what was measured can be read without the data
            call("matrix", verb, spec)
            told = capsys.readouterr()
            assert "done 8, missing 0, failed 0" in told.out
            assert told.err.count("give another --data-root; meanwhile results count as current") == 1
    finally:
        server.stop()


def test_dry_run_prints_the_commands_of_cells_that_are_done_too(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    call("matrix", "run", spec, "--dry-run")
    before = capsys.readouterr().out
    call("matrix", "run", spec, "--only", "BatchNorm/typeset/0")
    capsys.readouterr()
    call("matrix", "run", spec, "--dry-run")
    done = before.replace("# BatchNorm/typeset/0: missing", "# BatchNorm/typeset/0: done")
    assert capsys.readouterr().out == done != before


@pytest.mark.parametrize("verb", ["plan", "status", "run", "report"])
@pytest.mark.parametrize("place", ["out", "out/digits"])
def test_results_that_are_a_file_are_an_error_in_one_line(verb: str, place: str, spec: str) -> None:
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text("")
    with pytest.raises(InputError, match=rf"--results out: {place} is a file: give a folder"):
        call("matrix", verb, spec, "--results", "out")


@pytest.mark.parametrize(("verb", "name"), [("status", "records"), ("report", "tables"), ("run", "runs")])
def test_folders_of_results_that_are_files_are_an_error_in_one_line(verb: str, name: str, spec: str) -> None:
    Path("results/digits").mkdir(parents=True)
    Path("results/digits", name).write_text("")
    with pytest.raises(InputError, match=rf"--results results: results/digits/{name} is a file: give a folder, or rem"):
        call("matrix", verb, spec)


def test_plan_lists_cells_and_totals(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("matrix", "plan", spec) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[1:] == ["BatchNorm/handwritten/0", "missing", "unknown"]
    assert lines[8] == "2 normalisers x 2 training sets x 2 seeds = 8 trainings, each validated on 2 sets"
    assert lines[9:11] == ["the whole: 8 cells; 8 not counted", "the rest: 8 cells; 8 not counted"]
    assert lines[11].startswith("not counted: all 8 cells: samples of digits/handwritten/train, ")
    assert lines[-1] == "done 0, missing 8, failed 0"


def test_status_by_state(spec: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FAKE_FAIL", "ExemplarNorm")
    assert call("matrix", "run", spec, "--only", "*/typeset/*") == 1
    capsys.readouterr()
    assert call("matrix", "status", spec) == 0
    assert capsys.readouterr().out.splitlines() == [
        "done  BatchNorm/typeset/0,1",
        "missing  BatchNorm/handwritten/0,1 ExemplarNorm/handwritten/0,1",
        "failed  ExemplarNorm/typeset/0  RuntimeError: loss is not finite <b>at all</b>",
        "failed  ExemplarNorm/typeset/1  RuntimeError: loss is not finite <b>at all</b>",
        "done 2, missing 4, failed 2",
    ]


def test_run_ends_with_table_and_page(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("matrix", "run", spec) == 0
    out = capsys.readouterr().out
    assert "top-1 accuracy, %" in out
    assert out.splitlines()[-1] == "page: results/digits/report.html"
    text = Path("results/digits/tables/matrix.txt").read_text()
    assert "Transfer gap" in text and "Transfer gap" not in out, "the other tables are in the files"
    for_people = {f"{name}.tex" for name in ("matrix", "differences", "ranks", "gaps", "costs")}
    for_programs = {f"{name}.csv" for name in ("matrix", "differences", "ranks", "gaps", "costs", "cells")}
    found = {path.name for path in Path("results/digits/tables").iterdir()}
    assert found == {"matrix.txt", "matrix.md", "matrix.svg"} | for_people | for_programs


@pytest.mark.parametrize(("form", "name"), [("text", "matrix.txt"), ("markdown", "matrix.md"), ("csv", "matrix.csv")])
def test_report_prints_what_it_writes(form: str, name: str, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out/digits").mkdir(parents=True)
    assert call("matrix", "report", spec, "--format", form, "--results", "out") == 0
    assert capsys.readouterr().out == Path("out/digits/tables", name).read_text()


def test_report_as_parquet_and_latex(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables = Path("results/digits/tables")
    tables.mkdir(parents=True)
    assert call("matrix", "report", spec, "--format", "parquet", "--table", "cells") == 0
    assert capsys.readouterr().out == f"{tables}/cells.parquet\n"
    assert pyarrow.parquet.read_table(tables / "cells.parquet").num_rows == 16
    assert call("matrix", "report", spec, "--format", "latex", "--table", "costs") == 0
    assert capsys.readouterr().out == (tables / "costs.tex").read_text()
    assert not list(tables.glob("*.parquet")), "they could be older than what stands beside them"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "costz"], "text has no such table; it has matrix, accuracies"),
        (["--format", "csv", "--table", "wins"], "csv has no such table; it has matrix, accuracies"),
        (["--table", "reported"], "this matrix has nothing for it; it has matrix, differences"),
    ],
)
def test_a_table_that_is_not_there_is_told(arguments: list[str], said: str, spec: str) -> None:
    Path("results/digits").mkdir(parents=True)
    with pytest.raises(InputError, match=said):
        call("matrix", "report", spec, *arguments)


@pytest.mark.parametrize(
    "verb", [["matrix", "report"], ["report"], ["matrix", "status"], ["matrix", "diff", "results/digits"]]
)
def test_results_that_are_not_there_are_told_and_not_made(verb: list[str], spec: str) -> None:
    Path("results/digits/records").mkdir(parents=True)
    for given, cure in (("reslts", "the folder that holds it"), ("results/digits", "--results results")):
        told = rf"^--results {given}: there is no {given}/digits: give {cure}$"
        with pytest.raises(InputError, match=told):
            call(*verb, spec, "--results", given)
    assert not Path("reslts").exists() and not Path("results/digits/digits").exists()


def test_of_a_fresh_matrix_there_are_no_results_yet(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("plan", "status"):
        assert call("matrix", verb, spec) == 0
        assert capsys.readouterr().out.splitlines()[-2:] == [
            "no results at results/digits yet",
            "done 0, missing 8, failed 0",
        ]
    for verb in (["matrix", "report"], ["report"]):
        with pytest.raises(InputError, match=r"^no results at results/digits yet: en-bench matrix run makes them"):
            call(*verb, spec)
    assert call("matrix", "plan", spec, "--results", "elsewhere") == 0
    assert not Path("results").exists() and not Path("elsewhere").exists()


def test_several_patterns_add_up_and_each_has_to_match(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    patterns = ("--only", "BatchNorm/typeset/*", "--only", "*/typeset/1")
    assert call("matrix", "plan", spec, *patterns) == 0
    found = [line.split()[1] for line in capsys.readouterr().out.splitlines() if "/typeset/" in line.split()[1]]
    assert found == ["BatchNorm/typeset/0", "BatchNorm/typeset/1", "ExemplarNorm/typeset/1"]
    assert call("matrix", "run", spec, *patterns, "--slots", "1") == 0
    assert len(list(Path("results/digits/records").iterdir())) == 3
    for verb in ("plan", "run"):
        with pytest.raises(InputError, match=r"--only EN/\*: no cell"):
            call("matrix", verb, spec, *patterns, "--only", "EN/*")


def test_records_of_changed_settings_are_told(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    call("matrix", "run", spec, "--only", "BatchNorm/*", "--slots", "1")
    assert "no longer has" not in capsys.readouterr().err
    Path("experiments/norm/bn.yaml").write_text("model: {norm: BatchNorm, lr: 0.3}\n")
    told = (
        "en-bench: warning: results/digits/records: 4 records of cells that the specification no longer has "
        "(BatchNorm/handwritten/0, BatchNorm/handwritten/1, BatchNorm/typeset/0, ...): changed settings? "
        "They count nowhere\n"
    )
    for verb in (["matrix", "status"], ["matrix", "plan"], ["matrix", "report"], ["report"]):
        assert call(*verb, spec) == 0
        assert capsys.readouterr().err == told
    call("matrix", "status", spec)
    assert capsys.readouterr().out.splitlines()[-1] == "done 0, missing 8, failed 0"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "SPEC", "--slots", "0"], "run: error: argument --slots: '0' is no whole number of 1 or more"),
        (["plan", "SPEC", "--slots", "0"], "plan: error: argument --slots: '0' is no whole number of 1 or more"),
        (["plan", "SPEC", "--probe-steps", "x"], "plan: error: argument --probe-steps: 'x' is no whole number"),
        (["plan", "SPEC", "--device"], "plan: error: argument --device: expected one argument"),
        (["run", "SPEC", "--launcher", "slrum"], "(choose from 'local', 'slurm'); did you mean 'slurm'?"),
        (["statu", "SPEC"], "did you mean 'status'?"),
        (["report"], "report: error: the following arguments are required: SPEC"),
        (["report", "SPEC", "--format", "pdf"], "argument --format: invalid choice: 'pdf'"),
    ],
)
def test_wrong_usage_is_one_line_without_the_usage(
    arguments: list[str], told: str, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["matrix", *(spec if part == "SPEC" else part for part in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("en-bench matrix") and told in line and line.endswith("--help lists what there is")


@pytest.mark.parametrize("verb", [["plan"], ["run"], ["run", "--dry-run"], ["status"], ["report"]])
def test_a_folder_is_no_specification(verb: list[str], spec: str) -> None:
    Path("results/digits/records").mkdir(parents=True)
    with pytest.raises(InputError, match=r"^results: a folder, no specification: give the matrix's YAML file$"):
        call("matrix", *verb, "results")
    with pytest.raises(InputError, match=r"^results/digits: a matrix's results, .* with en-bench matrix diff$"):
        call("matrix", *verb, "results/digits")


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_folder_of_data_that_was_given_is_there(verb: str, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EN_BENCH_SHARDS", "elsewhere")
    with pytest.raises(InputError, match=r"^EN_BENCH_SHARDS elsewhere: there is no such folder"):
        call("matrix", verb, spec)
    with pytest.raises(InputError, match=r"^--data-root nowhere: there is no such folder"):
        call("matrix", verb, spec, "--data-root", "nowhere")
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--wait"], "--wait watches jobs of Slurm: add --launcher slurm"),
        (["--slurm", "partition=gpu"], "--slurm says what jobs need: add --launcher slurm"),
        (["--launcher", "slurm", "--slots", "2"], "--slots .*: give --slurm at_once=N"),
        (["--launcher", "slurm", "--gpus", "0,1"], "--gpus .*: give --slurm gpus_per_node=N"),
        (["--launcher", "slurm", "--threads", "4"], "--threads .*: give --slurm cpus_per_task=N"),
        (["--launcher", "slurm", "--isolate"], "--isolate .*: leave it out"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_options_that_the_launcher_has_no_use_for_are_refused(
    options: list[str], told: str, dry: list[str], spec: str
) -> None:
    with pytest.raises(InputError, match=f"^{told}"):
        call("matrix", "run", spec, *options, *dry)
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("accelerator", "flags", "warned"),
    [
        ("", [], True),
        (", accelerator: auto", [], True),
        (", accelerator: cpu", [], False),
        (", accelerator: gpu", [], False),
        ("", ["--slurm", "gpus_per_node=0"], False),
        ("", ["--slurm", "gpus_per_node=2"], False),
        ("", ["--slurm", "parameters={gres: 'gpu:1'}"], False),
    ],
)
def test_jobs_that_ask_for_no_gpu_are_warned_of(
    accelerator: str, flags: list[str], warned: bool, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("experiments/base.yaml").write_text(f"trainer: {{max_epochs: 2, devices: 1{accelerator}}}\n")
    assert call("matrix", "run", spec, "--launcher", "slurm", "--dry-run", *flags) == 0
    told = "en-bench: warning: the jobs of 8 cells ask for no GPU: give --slurm gpus_per_node=N (0 for none), or set "
    assert capsys.readouterr().err.startswith(told) is warned


def test_the_cpu_is_no_gpu(spec: str) -> None:
    with pytest.raises(InputError, match=r"^--gpus cpu: give --gpus none to train on the CPU$"):
        call("matrix", "run", spec, "--gpus", "cpu")


def test_page_before_anything_ran(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("results/digits").mkdir(parents=True)
    assert call("report", spec) == 0
    assert capsys.readouterr().out == "results/digits/report.html\n"
    assert "8 of 8 cells missing" in Path("results/digits/report.html").read_text()


def test_damaged_record_is_warned_of_once(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    call("matrix", "run", spec, "--only", "BatchNorm/typeset/0")
    path = next(Path("results/digits/records").iterdir())
    path.write_text("{")
    capsys.readouterr()
    assert call("matrix", "status", spec) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"en-bench: warning: {path}: ignored")
    assert captured.err.count("\n") == 1
    assert captured.out.splitlines()[-1] == "done 0, missing 8, failed 0"


def test_unknown_specification(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        call("matrix", "plan", str(tmp_path / "none.yaml"))
