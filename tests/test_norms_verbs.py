"""`en-bench norms table` as users type it, and its table over numbers made by hand."""

import json
import subprocess
import sys

import pytest
import torch

from en_bench import norms_table
from en_bench.cli import main
from en_bench.norms_table import Row, Setting, Table
from tests.test_cli import one_line

QUICK = ["--image-size", "32", "--batch-size", "2", "--no-time"]


def test_help_imports_no_torch():
    for arguments in (["norms", "--help"], ["norms", "table", "--help"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "en_bench", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert "norm" in done.stdout
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
        assert not imported & {"torch", "lightning", "numpy"}


def test_the_table_of_a_small_network(tmp_path, capsys):
    file = tmp_path / "table.json"
    assert main(["norms", "table", "cifar/resnet8", *QUICK, "--norms", "bn,ExemplarNorm", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "cifar/resnet8, 2 images of 32x32, float32, channels_last"
    assert f"{torch.get_num_threads()} threads" in lines[1] and f"torch {torch.__version__}" in lines[1]
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "normaliser",
        "as built (BatchNorm2d)",
        "BatchNorm",
        "ExemplarNorm",
    ]
    assert "step ms" not in out and out.endswith(f"wrote {file}\n")

    told = json.loads(file.read_text())
    assert (told["model"], told["batch"], told["size"], told["dtype"]) == ("cifar/resnet8", 2, 32, "float32")
    built, batch, exemplar = told["rows"]
    channels = [16, 16, 16, 32, 32, 64, 64]
    assert built["layers"] == batch["layers"] == exemplar["layers"] == 7
    assert built["norm_parameters"] == batch["norm_parameters"] == 2 * sum(channels)
    # Three affine maps; a gate that reduces to C // 32 or 1, and two linear layers of 9 -> 150 -> 3.
    gate = sum(c + max(1, c // 32) for c in channels) + 7 * (9 * 150 + 150 + 150 * 3 + 3)
    assert exemplar["norm_parameters"] == 6 * sum(channels) + gate
    assert exemplar["parameters"] - built["parameters"] == exemplar["norm_parameters"] - built["norm_parameters"]

    sizes = [32] * 3 + [16] * 2 + [8] * 2
    values = sum(c * size**2 for c, size in zip(channels, sizes, strict=True))
    assert built["norm_flops"] is None
    assert 7 * values < batch["norm_flops"] < 7.1 * values
    pairs = [(3, 16, 32), (16, 16, 32), (16, 16, 32), (16, 32, 16), (32, 32, 16), (32, 64, 8), (64, 64, 8)]
    products = 2 * sum(9 * i * o * size**2 for i, o, size in pairs) + 2 * 64 * 1000
    assert batch["flops"] - batch["norm_flops"] == products
    assert built["memory_ratio"] == 1 and built["step_ratio"] is None and built["seconds"] == []
    assert built["bytes_kept"] > 4 * 2 * 2 * values  # what convolutions and normalisers take, fp32


def test_times_are_taken_in_turns(capsys):
    arguments = ["norms", "table", "cifar/resnet8", "--batch-size", "2", "--repeats", "2", "--norms", "in"]
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert "step ms" in told.out and "median of 2" in told.out
    assert "times of 2 networks, 2 steps each" in told.err


def test_narrow_dtypes_are_autocast(capsys):
    assert main(["norms", "table", "cifar/resnet8", *QUICK, "--norms", "bn", "--dtype", "bfloat16"]) == 0
    assert "bfloat16 autocast" in capsys.readouterr().out


def test_a_network_with_other_normalisers_says_which(capsys):
    assert main(["norms", "table", "timm/resnet18d", *QUICK, "--image-size", "64", "--norms", "gn"]) == 0
    assert "as built (BatchNorm2d)" in capsys.readouterr().out
    assert main(["norms", "table", "timm/resnet50_gn", *QUICK, "--image-size", "64", "--norms", "bn"]) == 0
    assert "as built (GroupNorm)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["timm/resnet5"], 1, "unknown model 'resnet5' of timm: did you mean resnet"),
        (["resnet50"], 1, "write <source>/<model>"),
        (["torchvision/vgg11", "--norms", "bn"], 1, "torchvision/vgg11 has no normaliser to swap"),
        (["cifar/resnet8", "--norms", "bn,xn"], 1, "unknown normaliser 'xn': choose from"),
        (["cifar/resnet8", "--norms", ","], 1, "--norms names no normaliser"),
        (["cifar/resnet8", "--batch-size", "0"], 1, "--batch-size 0 is too small"),
        (["cifar/resnet8", "--image-size", "0"], 1, "--image-size 0 is too small"),
        (["cifar/resnet8", "--repeats", "0"], 1, "--repeats 0 is too small"),
        (["cifar/resnet8", "--device", "gpux"], 1, "--device gpux cannot be used here"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(capsys, arguments, code, words):
    assert main(["norms", "table", *arguments]) == code
    assert words in one_line(capsys)


def test_images_that_a_network_cannot_take(capsys):
    arguments = ["timm/resnet18", "--image-size", "32", "--batch-size", "1", "--norms", "bn", "--no-time"]
    assert main(["norms", "table", *arguments]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "timm/resnet18 cannot be measured on 1 images of 32 px in float32: Expected more than 1 value" in last


def made(label: str, kept: int, seconds: tuple[float, ...]) -> Row:
    return Row(label, 3, 1_000, 20_000, None if label == "built" else 1.5e6, 2e6, kept, seconds)


def test_ratios_are_taken_turn_by_turn():
    """A machine twice as slow in one turn is so for all networks, and must not show."""
    setting = Setting("timm/x", 4, 224, torch.float32, torch.device("cpu"), repeats=3)
    rows = (made("built", 2_000_000, (0.1, 0.2, 0.1)), made("Other", 3_000_000, (0.15, 0.3, 0.12)))
    text = norms_table.to_text(Table(setting, rows))
    (line,) = (line for line in text.splitlines() if line.startswith("Other"))
    assert line.split() == [
        *("Other", "3", "1,000", "20,000", "1.50", "2.0", "3.0", "1.500"),
        *("150.0", "1.50", "(1.20", "-", "1.50)"),
    ]
    plain = norms_table.to_json(Table(setting, rows))["rows"][1]
    assert plain["step_ratio"] == pytest.approx(1.5) and plain["memory_ratio"] == 1.5


def test_names_of_normalisers():
    every = norms_table.chosen("all")
    assert norms_table.chosen("bn, EN") == norms_table.chosen("BatchNorm,exemplarnorm,bn")
    assert len(set(every)) == len(every) == len(norms_table.norm_classes())


def test_the_list_documents_every_class(capsys):
    assert main(["norms", "list"]) == 0
    text = capsys.readouterr().out
    for short, cls in norms_table.norm_classes().items():
        assert f"{short}  {cls.__name__}(num_features, " in text
    assert "sum_k ratio_k * (weight_k" in text and "gate.reduce.weight (2, 32, 1)" in text
