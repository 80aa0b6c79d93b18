import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from en_bench.matrix.local.columns import shortened
from en_bench.matrix.local.live import Row, Screen, View, is_terminal, now_and_then, plain, table
from en_bench.matrix.progress import Progress
from en_bench.resume.reached import Reached


def progress(**changes: object) -> Progress:
    values = {"command": "fit", "phase": "fit", "epoch": 3, "epochs": 10, "step": 42, "steps": 120}
    values |= {"images_per_second": 812.5, "scores": {"top1": 0.5125, "nll": 1.25}, "seconds_left": 33.0}
    return Progress(**{**values, "host": "h", "pid": 1, "time": time.time(), **changes})  # type: ignore[arg-type]


def view(rows: list[Row], **changes: object) -> View:
    values = {"name": "toy", "metric": "top1", "total": 40, "done": 3, "failed": 0, "waiting": 37 - len(rows)}
    return View(**{**values, "rows": rows, "seconds": 61.0, "seconds_left": 125.0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (None, ("starts", "-", "-", "-")),
        ({}, ("3/10", "812", "51.2", "33.0 s")),
        ({"phase": "validate"}, ("3/10 val", "812", "51.2", "33.0 s")),
        ({"epochs": None, "seconds_left": None}, ("3", "812", "51.2", "-")),
        ({"scores": {"top1": None}}, ("3/10", "812", "nan", "33.0 s")),
        ({"scores": {}, "images_per_second": None}, ("3/10", "-", "-", "33.0 s")),
        ({"command": "validate", "phase": "validate", "epoch": None}, ("validates", "812", "51.2", "33.0 s")),
        ({"command": "recalibrate", "phase": "recalibrate", "epoch": None}, ("recalibrates", "812", "51.2", "33.0 s")),
    ],
)
def test_a_row(changes: dict[str, object] | None, told: tuple[str, ...]) -> None:
    row = Row("BN/a/0", "1", 9.0, None if changes is None else progress(**changes))
    assert row.columns("top1") == ("BN/a/0", "1", *told, "9.0 s")


def test_a_row_between_two_commands() -> None:
    row = Row("BN/a/0", "1", 9.0, progress(), at_work=False)
    assert row.columns("top1") == ("BN/a/0", "1", "3/10 ...", "-", "51.2", "-", "9.0 s")


def test_a_training_that_goes_on_says_where_before_it_tells_anything() -> None:
    row = Row("BN/a/0", "1", 9.0, None, goes_on=Reached(12, 90, 700, 5400))
    assert row.columns("top1") == ("BN/a/0", "1", "goes on at epoch 12/90", "-", "-", "-", "9.0 s")


def test_a_command_that_says_nothing_for_long() -> None:
    row = Row("BN/a/0", "1", 9.0, progress(), silent=7200.5)
    assert row.columns("top1")[5] == "silent 2 h 00 min"


def test_the_metric_of_the_matrix_is_shown() -> None:
    assert Row("BN/a/0", "1", 9.0, progress()).columns("nll")[4] == "1.250"


@pytest.mark.parametrize("height", [1, 2, 3, 5, 12, 24, 60])
@pytest.mark.parametrize("width", [20, 60, 100])
@pytest.mark.parametrize("running", [0, 1, 8, 37])
def test_the_table_fits_the_terminal(height: int, width: int, running: int) -> None:
    rows = [Row(f"ExemplarNorm/imagenet/{seed}", f"GPU {seed}", 9.0, progress()) for seed in range(running)]
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(table(view(rows), height, width))
    lines = console.export_text().splitlines()
    # Under it is the line of the cursor.
    assert len(lines) <= max(height - 1, 1) and all(len(line) <= width - 2 for line in lines)
    assert lines[0].startswith("toy: done 3, running"[: 12 if width == 20 else None])
    if width == 100 and height == 60:
        assert (
            lines[0].rstrip()
            == f"toy: done 3, running {running}, waiting {37 - running} of 40   1 min 1 s so far, time left 2 min 5 s"
        )
        assert len(lines) == (1 if running == 0 else running + 2)
    if width == 100 and height == 12 and running == 37:
        assert lines[-1].strip() == "... and 29 more"


@pytest.mark.parametrize(
    ("width", "heads", "name"),
    [
        (120, "cell on epoch images/s top1 time left runs for", "ExemplarNorm/handwritten/0 "),
        (80, "cell on epoch images/s top1 time left", "ExemplarNorm/handwritten/0 "),
        (72, "cell on epoch top1 time left", "ExemplarNorm/handwritten/0 "),
        (60, "cell on epoch top1 time left", "Exemplar"),
    ],
)
def test_where_it_is_narrow_columns_go_and_names_lose_their_middle(width: int, heads: str, name: str) -> None:
    rows = [Row(f"ExemplarNorm/handwritten/{seed}", "1", 9.0, progress(phase="validate")) for seed in range(2)]
    elsewhere = [Row("SwitchNorm/typeset/1", "process 4242", None, progress())]
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(table(view(rows, elsewhere=elsewhere, failed=1), 24, width))
    lines = console.export_text().splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("cell "))
    assert " ".join(lines[head].split()) == heads and all(len(line) <= width - 2 for line in lines)
    assert "time left 2 min 5 s" in lines[head - 1], "the end of the counts"
    assert [line.split()[0][-2:] for line in lines[head + 1 :]] == ["/0", "/1", "/1"], "the seed"
    assert lines[head + 1].startswith(name)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_long_labels_leave_epoch_and_score(width: int) -> None:
    label = "a_training_set_whose_name_has_45_characters_x"
    rows = [Row(f"ExemplarNorm/{label}/{seed}", "node-0123.cluster", 9.0, progress()) for seed in range(12)]
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(table(view(rows), 24, width))
    lines = console.export_text().splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("cell "))
    assert {"epoch", "top1"} <= set(lines[head].split())
    assert [line.split()[0].rpartition("/")[2] for line in lines[head + 1 :]] == [str(seed) for seed in range(12)]
    assert all(" 3/10 " in line and " 51.2" in line for line in lines[head + 1 :])


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("ExemplarNorm/handwritten/0", 26, "ExemplarNorm/handwritten/0"),
        ("ExemplarNorm/handwritten/0", 16, "Exemplar…itten/0"),
        ("ExemplarNorm/handwritten/1000000", 10, "E…/1000000"),
        ("ExemplarNorm/handwritten/10", 3, "…10"),
        ("process 4242", 8, "proc…242"),
    ],
)
def test_a_name_without_its_middle(text: str, width: int, short: str) -> None:
    assert shortened(text, width) == short


def test_counts() -> None:
    elsewhere = [Row(f"BN/a/{seed}", "other", None, progress()) for seed in range(4)]
    assert view([], failed=2, elsewhere=elsewhere, left=1, seconds_left=None).counts() == (
        "toy: done 3, running 0, waiting 37, failed 2, elsewhere 4, without a record 1 of 40   1 min 1 s so far, "
        "time left unknown yet"
    )
    assert view([], stopping=True).counts().endswith("1 min 1 s so far, stopping")


def test_plain_lines() -> None:
    rows = [Row(f"BN/a/{seed}", str(seed), 9.0, progress() if seed else None) for seed in range(20)]
    lines = plain(view(rows))
    assert lines[1:3] == [
        "  0: BN/a/0 starts for 9.0 s",
        "  1: BN/a/1 epoch 3/10, 812 images/s, top1 51.2, time left 33.0 s",
    ]
    assert len(lines) == 18 and lines[-1] == "  ... and 4 more"


def test_what_runs_elsewhere_stands_below() -> None:
    elsewhere = [Row("BN/a/1", "nodeB", None, progress()), Row("BN/a/2", "nodeB", None, None)]
    shown = view([Row("BN/a/0", "1", 9.0, progress())], elsewhere=elsewhere)
    assert plain(shown)[1:] == [
        "  1: BN/a/0 epoch 3/10, 812 images/s, top1 51.2, time left 33.0 s",
        "  nodeB: BN/a/1 epoch 3/10, 812 images/s, top1 51.2, time left 33.0 s",
        "  nodeB: BN/a/2 starts",
    ]
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(table(shown, 24, 100))
    assert [line.split()[-1] for line in console.export_text().splitlines()[2:]] == ["s", "-", "-"]


def test_where_there_is_no_terminal_lines_come_seldom() -> None:
    stream = io.StringIO()
    with Screen(stream, minutes=60) as screen:
        screen.say("a line")
        screen.show(lambda: view([]))
    assert stream.getvalue() == "a line\n"
    with Screen(stream, minutes=0) as screen:
        screen.show(lambda: view([]))
    assert stream.getvalue().splitlines()[1:] == [view([]).counts()]


def test_a_process_that_works_itself_tells_beside_its_work(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = os.dup(1)
    with now_and_then(lambda: view([]), minutes=0.0005), (tmp_path / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)  # as while a command runs
        deadline = time.monotonic() + 20
        while not capfd.readouterr().out.startswith(view([]).counts()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.dup2(kept, 1)
    os.close(kept)
    assert (tmp_path / "log").read_bytes() == b""


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setenv("TERM", "xterm")
        assert is_terminal(stream)
        monkeypatch.setenv("TERM", "dumb")
        assert not is_terminal(stream)
        monkeypatch.delenv("TERM")
        assert not is_terminal(stream)
    os.close(master)
    assert not is_terminal(io.StringIO())
