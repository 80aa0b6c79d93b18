"""`en-bench bench norms`: that it measures what it says, and says what it may. How fast anything is, is not tested."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from en_bench.benchmark.contenders import BATCH_NORM, CONTROL, OBVIOUS, comparisons, layer, put_into
from en_bench.benchmark.first_use import map_shapes
from en_bench.benchmark.networks import Task
from en_bench.benchmark.settings import NORMS
from en_bench.cli import main
from en_bench.norms import ExemplarNorm, SwitchNorm
from tests.norms.reference import assert_same_layers

QUICK = ("bench", "norms", "--quick", "--norms", "en,sn,ln", "--shapes", "3x8x4x5")


# ---- What would be paid otherwise


@pytest.mark.parametrize("channels", [8, 96])
def test_the_obvious_formulations_compute_what_our_layers_do(channels):
    shape = (4, channels, 5, 3)
    assert_same_layers(ExemplarNorm(channels), OBVIOUS["obvious ExemplarNorm"](channels), shape)
    assert_same_layers(SwitchNorm(channels, official=True), OBVIOUS["obvious SwitchNorm"](channels), shape)


@pytest.mark.parametrize("name", OBVIOUS)
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_obvious_formulations_keep_dtype_and_memory_format(name, form):
    torch.manual_seed(0)
    x = torch.randn(4, 8, 6, 6).contiguous(memory_format=form)
    ours = {"obvious ExemplarNorm": ExemplarNorm(8), "obvious SwitchNorm": SwitchNorm(8, official=True)}[name]
    obvious = OBVIOUS[name](8)
    obvious.load_state_dict(ours.state_dict())
    y = obvious(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert obvious(x).is_contiguous(memory_format=form)
    torch.testing.assert_close(y.float(), ours(x), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", ["SwitchNorm", *OBVIOUS])
def test_a_network_takes_any_contender(name):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)))
    put_into(network, name)
    expected = type(layer(name, 8, 4, 4))
    assert type(network[1]) is expected and type(network[2][1]) is expected
    assert network(torch.randn(2, 3, 6, 6)).shape == (2, 8, 4, 4)


def test_every_normaliser_is_measured_against_torch():
    pairs = comparisons(NORMS)
    assert {norm for norm, _ in pairs} == {CONTROL, *NORMS, *OBVIOUS}
    for norm, against in pairs:
        x = torch.randn(3, 6, 4, 5)
        for name in (norm, against):
            assert layer(name, 6, 4, 5)(x).shape == x.shape


@pytest.mark.parametrize(
    ("norm", "against"),
    [
        ("BatchNorm", BATCH_NORM),
        ("InstanceNorm", "nn.InstanceNorm2d"),
        ("LayerNorm", "nn.GroupNorm(1)"),
        ("GroupNorm", "nn.GroupNorm(32)"),
    ],
)
def test_a_single_normaliser_is_measured_against_the_layer_that_computes_the_same(norm, against):
    assert (norm, against) in comparisons(NORMS)
    assert_same_layers(layer(norm, 48, 3, 4), layer(against, 48, 3, 4), (4, 48, 3, 4), steps=1)


# ---- The command


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[dict[str, Any], str]:
    """Record and Markdown of one run."""
    folder = tmp_path_factory.mktemp("bench")
    files = ("--json", folder / "new" / "norms.json", "--markdown", folder / "norms.md")
    assert main([*map(str, (*QUICK, "--layers", "--steps", "--memory", "--repeats", 3, *files))]) == 0
    return json.loads((folder / "new" / "norms.json").read_text()), (folder / "norms.md").read_text()


def test_the_record_holds_all_that_was_measured_and_where(measured):
    record, _ = measured
    assert record["complete"] and record["quick"] and record["kind"] == "cpu"
    assert record["versions"]["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()
    assert set(record["commit"]) == {"sha", "dirty"}
    cases = record["sections"]["layers"]["cases"]
    places = [(case["dtype"], case["format"]) for case in cases]
    assert places == [(d, f) for d in ("float32", "bfloat16") for f in ("contiguous", "channels_last")]
    for case in cases:
        assert case["shape"] == [3, 8, 4, 5]
        for timing in case["timings"].values():
            assert timing["n"] == 3
            assert 0 < timing["lower"] <= timing["median"] <= timing["upper"]
    steps = record["sections"]["steps"]["cases"]
    assert [case["dtype"] for case in steps] == ["float32", "bfloat16"]
    obvious = {"obvious ExemplarNorm", "obvious SwitchNorm"}
    contenders = {BATCH_NORM, CONTROL, "ExemplarNorm", "SwitchNorm", "LayerNorm"} | obvious
    assert set(steps[0]["timings"]) == contenders
    assert set(cases[0]["timings"]) == contenders | {"nn.GroupNorm(1)", "nn.LayerNorm(C, H, W)"}
    assert all(row["verdict"] in ("", "none") for rows in record["summary"].values() for row in rows)


def test_memory_grows_with_what_the_obvious_formulations_keep(measured):
    for case in measured[0]["sections"]["memory"]["cases"]:
        torch_bytes = case["bytes"][BATCH_NORM]
        assert (
            case["bytes"]["ExemplarNorm"] < 1.1 * torch_bytes < 1.5 * torch_bytes < case["bytes"]["obvious SwitchNorm"]
        )
        assert case["bytes"]["obvious SwitchNorm"] < case["bytes"]["obvious ExemplarNorm"]


def test_obvious_formulations_can_be_left_out(tmp_path):
    out = tmp_path / "norms.json"
    flags = ("--layers", "--memory", "--no-obvious", "--dtypes", "float32", "--json", out)
    assert main([*map(str, (*QUICK, *flags))]) == 0
    sections = json.loads(out.read_text())["sections"]
    named = {*sections["layers"]["cases"][0]["timings"], *sections["memory"]["cases"][0]["bytes"]}
    assert "ExemplarNorm" in named and not named & set(OBVIOUS)


def test_tables_are_made_again_from_the_record_alone(measured, tmp_path, capsys):
    record, markdown = measured
    (tmp_path / "old.json").write_text(json.dumps(record))
    again = tmp_path / "again.md"
    assert main(["bench", "norms", "--from", str(tmp_path / "old.json"), "--markdown", str(again)]) == 0
    assert again.read_text() == markdown
    printed = capsys.readouterr().out
    for text in ("obvious ExemplarNorm", "Training steps", "kept for backward", "no verdicts", "--quick"):
        assert text in printed and text in markdown


def test_a_layer_that_fell_back_is_told(tmp_path, run_command):
    """Without a compiler, every figure is of plain PyTorch."""
    arguments = (*QUICK[:3], "--norms", "bn", "--shapes", "2x4x2x2", "--json", "norms.json")
    done = run_command(*arguments, cwd=tmp_path, CXX="no-such-compiler", EN_BENCH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "warning: normalisers run in plain PyTorch" in done.stdout
    assert "no C++ compiler found" in json.loads((tmp_path / "norms.json").read_text())["warnings"][0]


@pytest.mark.slow
def test_first_use_starts_with_nothing_and_then_with_what_the_first_process_left(tmp_path):
    out = tmp_path / "norms.json"
    assert main(["bench", "norms", "--quick", "--first-use", "--norms", "bn", "--json", str(out)]) == 0
    (case,) = json.loads(out.read_text())["sections"]["first_use"]["cases"]
    assert case["first"]["shapes"] == case["second"]["shapes"] == 3
    assert case["first"]["compiling"] > case["second"]["compiling"]


def test_the_maps_of_a_resnet_50():
    # 64, 128, 256 and 512 wide before, in and after the stride, four times as wide at the end, and the stem.
    expected = {(64, 112), (64, 56), (256, 56), (128, 56), (128, 28), (512, 28), (256, 28), (256, 14), (1024, 14)}
    expected |= {(512, 14), (512, 7), (2048, 7)}
    assert {(c, h) for _, c, h, _ in map_shapes(Task("timm/resnet50", 2, 224), "BatchNorm")} == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--norms", "em"], "unknown normaliser 'em': choose from"),
        (["--norms", ","], "names no normaliser"),
        (["--shapes", "32x64x56"], "--shapes 32x64x56: expected NxCxHxW"),
        (["--shapes", "2x4x1x1"], "more than one position"),
        (["--shapes", "0x4x2x2"], "--shapes 0x4x2x2"),
        (["--formats", "channel_last"], "did you mean channels_last?"),
        (["--dtypes", "int4x"], "--dtypes int4x: choose from float32, bfloat16"),
        (["--dtypes", " "], "--dtypes names nothing"),
        (["--repeats", "0"], "--repeats 0 is too small"),
        (["--threads", "0"], "--threads 0 is too few"),
        (["--peak-gbs", "-1"], "no bandwidth"),
        (["--device", "tpu"], "--device tpu: expected cpu, cuda or cuda:N"),
        (["--device", "cuda:64"], "--device cuda:64: there are"),
        (["--json", "."], "--json . is a folder"),
        (["--markdown", "pyproject.toml/x.md"], "cannot be written"),
        (["--from", "nowhere.json"], "--from nowhere.json: No such file"),
        (["--from", "pyproject.toml"], "not JSON"),
        (["--from", "tests/report/records/01d6ca485e3d110e.json"], "not what"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(options, words, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    assert main(["bench", "norms", "--quick", *options]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert words in line and line.startswith("en-bench: error: ")
    assert printed.out == ""


def test_help_names_the_sections(run_command, tmp_path):
    done: subprocess.CompletedProcess[str] = run_command("bench", "norms", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--layers", "--steps", "--memory", "--first-use", "--all", "--from"))
