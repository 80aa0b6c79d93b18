"""`matrix run` where data are missing: told before anything runs, of the cells that are chosen and not done."""

import shutil
from pathlib import Path

import pytest

from en_bench.data.fetch import Patience
from en_bench.errors import InputError
from en_bench.matrix.data_here import data_here
from en_bench.matrix.opened import OpenedMatrix
from en_bench.matrix.plan import manifest_digests
from en_bench.matrix.results import Results
from en_bench.matrix.spec import load_spec
from tests.data.flaky_http import FlakyServer
from tests.matrix.running import RESULTS, start, verbs
from tests.matrix.test_spec import edit
from tests.matrix.test_verbs import call

SETS = Path("data/digits")
CURE = r"prepare the data \(data_scripts; README, Data sets\), or say where they lie \(--data-root\)"


def records() -> list[str]:
    return sorted(f"{record.norm}/{record.train}/{record.seed}" for record in Results(RESULTS).load()[0].values())


@pytest.mark.parametrize("options", [[], ["--isolate"], ["--slots", "2"], ["--data-root", "elsewhere"]])
def test_without_any_data_a_run_ends_at_once(spec_file: Path, trace: Path, options: list[str]) -> None:
    shutil.rmtree("data")
    Path("elsewhere").mkdir()
    names = "digits/handwritten/train, digits/handwritten/val, digits/typeset/val, digits/typeset/train"
    where = options[-1] if "--data-root" in options else "data"
    with pytest.raises(InputError, match=f"^no cell can run: no manifest of {names} in {where}: {CURE}$"):
        call("matrix", "run", str(spec_file), *options)
    assert not Path("results").exists() and verbs(trace) == []


TOLD = "no manifest of digits/typeset/train in data: of 8 cells to run 4 are left out: prepare the data"


def test_cells_that_can_begin_run_and_the_others_stay_missing(
    spec_file: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(SETS / "typeset/train")
    assert call("matrix", "run", str(spec_file)) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"en-bench: warning: {TOLD}") and err.count("\n") == 1
    assert "digits: 4 cells, 0 of them done" in out and "4 cells left out for want of data" in out.splitlines()
    assert "cells: done 4, missing 4, failed 0" in out, "those that were left out are no failures"
    assert records() == [f"{norm}/handwritten/{seed}" for norm in ("BatchNorm", "ExemplarNorm") for seed in (0, 1)]
    assert len(verbs(trace)) == 12
    with pytest.raises(InputError, match=r"^no cell can run: "):
        call("matrix", "run", str(spec_file))
    assert verbs(trace) == []


@pytest.mark.slow
def test_in_slots_too_they_stay_missing(spec_file: Path) -> None:
    shutil.rmtree(SETS / "typeset/train")
    child = start(spec_file, "--slots", "2")
    out, err = child.communicate(timeout=120)
    assert child.returncode == 1 and TOLD in err
    assert "4 cells left out for want of data" in out.splitlines() and "cells: done 4, missing 4, failed 0" in out
    assert len(records()) == 4


def test_a_training_does_not_wait_for_a_later_validation_set(
    spec_file: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which may be prepared meanwhile."""
    shutil.rmtree(SETS / "typeset")
    call("matrix", "run", str(spec_file))
    told = (
        "en-bench: warning: no manifest of digits/typeset/val, digits/typeset/train in data: of 8 cells to run 4 are "
        "left out, 4 run until they need it, and are then FAILED: prepare the data"
    )
    assert capsys.readouterr().err.startswith(told)
    assert verbs(trace) == ["fit", "validate", "validate"] * 4


def test_only_chosen_cells_count(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(SETS / "typeset/train")
    with pytest.raises(InputError, match=r"^no cell can run: no manifest of digits/typeset/train in data: "):
        call("matrix", "run", str(spec_file), "--only", "BatchNorm/typeset/*")
    assert call("matrix", "run", str(spec_file), "--only", "*/handwritten/0") == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("gone", [[], ["--data-root", "gone"]])
def test_what_is_done_needs_no_data(
    spec_file: Path, trace: Path, gone: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call("matrix", "run", str(spec_file), "--only", "BatchNorm/*")
    shutil.rmtree("data")
    verbs(trace)
    capsys.readouterr()
    assert call("matrix", "run", str(spec_file), "--only", "BatchNorm/*", *gone) == 0
    assert verbs(trace) == []
    told = "en-bench: warning: --data-root gone: there is no such folder: "
    assert capsys.readouterr().err.startswith(told if gone else "")
    with pytest.raises(InputError, match="^--data-root gone: there" if gone else "^no cell can run: "):
        call("matrix", "run", str(spec_file), *gone)
    assert len(records()) == 4


def test_what_is_trained_needs_only_the_sets_that_it_has_yet_to_be_validated_on(spec_file: Path, trace: Path) -> None:
    call("matrix", "run", str(spec_file), "--only", "*/handwritten/0")
    for path in [*RESULTS.glob("records/*"), *RESULTS.glob("runs/*/validate/typeset.json")]:
        path.unlink()
    shutil.rmtree(SETS / "handwritten")
    shutil.rmtree(SETS / "typeset/train")
    verbs(trace)
    assert call("matrix", "run", str(spec_file), "--only", "*/handwritten/0") == 0
    assert verbs(trace) == ["validate", "validate"] and len(records()) == 2


def test_unlabelled_images_to_adapt_to_are_data_too(spec_file: Path) -> None:
    edit(spec_file, "seeds:", "adapted: {typeset: digits/typeset/unlabelled}\nseeds:")
    matrix = OpenedMatrix(load_spec(spec_file), Results(RESULTS), manifest_digests(Path("data")), Path("data"))
    here = data_here(matrix, matrix.planned())
    assert (here.waiting, here.left_out, len(here.later)) == (8, (), 8)
    assert here.lacking == ("digits/typeset/unlabelled",)


def test_data_behind_a_url(spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "wait_s", lambda self, failures: 0.0)
    shutil.move("data", "served")
    server = FlakyServer(Path("served").absolute())
    server.start()
    try:
        assert call("matrix", "run", str(spec_file), "--data-root", server.url, "--only", "*/*/0") == 0
        shutil.rmtree("served/digits")
        told = f"no manifest of digits/handwritten/train, .* in {server.url}/: {CURE}$"
        with pytest.raises(InputError, match=told):
            call("matrix", "run", str(spec_file), "--data-root", server.url, "--only", "*/*/1")
    finally:
        server.stop()
    assert len(records()) == 4


@pytest.mark.parametrize("options", [[], ["--data-root", "on_nodes"]])
def test_jobs_may_have_data_that_are_not_here(
    spec_file: Path, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are submitted, which nobody here answers."""
    monkeypatch.setenv("PATH", "")
    shutil.rmtree("data")
    with pytest.raises(InputError, match="nothing was submitted"):
        call("matrix", "run", str(spec_file), "--launcher", "slurm", "--slurm", "gpus_per_node=0", *options)
    told = (
        "--data-root on_nodes: there is no such folder" if options else "on this machine: 8 cells will be FAILED unless"
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("en-bench: warning: ") and told in line
