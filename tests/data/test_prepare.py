"""The options that all scripts share, as users get them wrong."""

import argparse

import pytest

from en_bench.data import prepare
from en_bench.data.prepare import Split, add_raw_options, image_encoder, make_parser, run_script, write_splits
from en_bench.data.sources import Source
from tests.images import coloured_png


def parser() -> argparse.ArgumentParser:
    options = make_parser("a script")
    add_raw_options(options)
    return options


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--raw", "", "--out", "x"), "argument --raw: is empty, as where a variable of the shell is not set"),
        (("--raw", "x", "--out", ""), "argument --out: is empty, as where a variable of the shell is not set"),
        (("--raw", "x", "--out", "x", "--limit", "1k"), "argument --limit: '1k' is not a positive number"),
        (("--raw", "x", "--out", "x", "--workers", "0"), "argument --workers: '0' is not a positive number"),
        (("--raw", "x", "--out", "x", "--seed", "-1"), "argument --seed: '-1' is not in 0 .. 2**63 - 1"),
    ],
)
def test_values_that_are_none_are_refused_before_any_work(capsys, arguments, told):
    with pytest.raises(SystemExit) as ended:
        run_script(parser(), lambda args: pytest.fail("it worked"), arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"{told}\n")


def write(args: argparse.Namespace) -> None:
    samples = [Source("a", {"given": 0}, lambda: coloured_png(0, 0), "raw/a")]
    write_splits(args, [Split("val", samples)], dataset="x", classes=["c"], source={}, encode=image_encoder(args))


def test_an_out_below_a_file_names_the_cure(tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    assert run_script(parser(), write, ["--raw", "x", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.endswith(f"error: {tmp_path}/file/val: Not a directory: choose another --out\n")
    assert (tmp_path / "file").read_text() == "precious"


def test_names_that_the_system_reads_otherwise_end_the_script(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepare.sys, "getfilesystemencoding", lambda: "ascii")
    assert run_script(parser(), write, ["--raw", "x", "--out", str(tmp_path / "out")]) == 1
    assert "names of files are read as ascii: set PYTHONUTF8=1" in capsys.readouterr().err
