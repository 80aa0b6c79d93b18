"""The paper's experiments, from raw archives in their published layouts to the report, in small.

Cut are: seeds, normalisers and training sets (a sample of each kind), images (64 px, or 32), the batch, devices, epochs
and steps; and the network, but in `imagenet`, `imagenet_shufflenet` and `finetune`. docs/matrix/experiments.md says so.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml

from data_scripts import cifar, imagefolder, imagenet, webvision
from en_bench.cli import main
from en_bench.matrix.records import Record
from tests.conftest import REPO
from tests.scripts import imagenet_archives, webvision_archives
from tests.scripts.raw import tar_bytes, write_tree
from tests.scripts.test_cifar import cifar100_files, python_files
from tests.scripts.test_layouts import aircraft, cars, cub200

EXPERIMENTS = REPO / "experiments"
BATCH = 2

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """Which rows and training sets of a specification run, and with what network in place of its own."""

    name: str
    norms: tuple[str, ...]
    trains: tuple[str, ...]
    backbone: str | None = None


SMALL_NETWORK = "cifar/resnet8"
CASES = [
    Case("imagenet", ("SparseSwitchNorm",), ("imagenet",)),
    Case("imagenet_short", ("BatchNorm+ECA",), ("imagenet",), SMALL_NETWORK),
    Case("imagenet_shufflenet", ("BatchNorm+CBAM",), ("imagenet",)),
    Case("webvision", ("SwitchNorm",), ("webvision",), SMALL_NETWORK),
    Case("cifar", ("BatchNorm+SE",), ("cifar10", "cifar100"), SMALL_NETWORK),
    Case("fine_grained", ("GroupNorm",), ("cub200", "cars", "aircraft"), SMALL_NETWORK),
    Case("small_batch", ("ExemplarNorm",), ("8x1",), SMALL_NETWORK),
    Case("ablation", ("EN-mlp3",), ("imagenet",), SMALL_NETWORK),
    Case("finetune", ("ExemplarNorm",), ("cub200",)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, each set prepared by its script from archives as published."""
    here = tmp_path_factory.mktemp("paper")
    raw, data, one = here / "raw", here / "data", ("--workers", "1")
    tars = {
        "cifar-10-python.tar.gz": tar_bytes(python_files(), "w:gz"),
        "cifar-100-python.tar.gz": tar_bytes(cifar100_files("python"), "w:gz"),
        "CUB_200_2011.tgz": tar_bytes(cub200(), "w:gz"),
        "fgvc-aircraft-2013b.tar.gz": tar_bytes(aircraft(), "w:gz"),
    }
    write_tree(raw, tars)
    published = write_tree(raw / "imagenet", imagenet_archives.PUBLISHED)
    web = webvision_archives.as_tars(raw / "webvision")
    assert imagenet.main(["--raw", str(published), "--out", str(data / "imagenet"), *one]) == 0
    assert webvision.main(["--raw", str(web), "--out", str(data / "webvision"), *one]) == 0
    for name in ("cifar10", "cifar100"):
        tar = raw / f"{name.replace('cifar', 'cifar-')}-python.tar.gz"
        assert cifar.main(["--raw", str(tar), "--out", str(data / name), *one]) == 0
    layouts = {
        "cub200": (raw / "CUB_200_2011.tgz", ()),
        "cars": (write_tree(raw / "stanford_cars", cars()), ()),
        "aircraft": (raw / "fgvc-aircraft-2013b.tar.gz", ("--split-map", "trainval=train,test=val")),
    }
    for name, (source, more) in layouts.items():
        given = ["--layout", name, "--raw", str(source), "--out", str(data / name), "--dataset", name, *more]
        assert imagefolder.main([*given, *one]) == 0
    return here


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of a BN network where torch looks for those it has fetched: training needs no network."""
    home = tmp_path / "torch"
    (home / "hub" / "checkpoints").mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(home))
    torch.manual_seed(0)
    network = torchvision.models.resnet50()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    name = torchvision.models.ResNet50_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(network.state_dict(), home / "hub" / "checkpoints" / name)
    return network.state_dict()


def absolute(part: Any) -> Any:
    if isinstance(part, list):
        return [absolute(inner) for inner in part]
    return str(EXPERIMENTS / part) if isinstance(part, str) else part


def in_small(case: Case, target: Path) -> Path:
    """The specification with its own overlays, cut as the head of this file says."""
    spec = yaml.safe_load((EXPERIMENTS / f"{case.name}.yaml").read_text())
    trainer = {"max_epochs": 1, "limit_train_batches": 2, "accelerator": "cpu", "precision": "32-true"}
    cut: dict[str, Any] = {
        "trainer": {**trainer, "devices": 1, "strategy": "auto", "accumulate_grad_batches": 1},
        "model": {"lr_batch": BATCH, **({"backbone": case.backbone} if case.backbone else {})},
        "data": {"batch_size": BATCH, "val_batch_size": 4, "workers": 0},
    }
    if case.name != "cifar":
        size = 32 if case.backbone else 64
        cut["data"]["train_transform"] = {"init_args": {"size": size}}
        cut["data"]["val_transform"] = {"init_args": {"size": size, "short_side": size + 8}}
    spec["base"] = absolute(spec["base"])
    # Last of all overlays, so that what a row or a training set says of devices and batch is cut too.
    spec.pop("baseline", None)  # its row may be cut
    rows = {norm: absolute(spec["norms"][norm]) for norm in case.norms}
    spec["norms"] = {norm: [*(row if isinstance(row, list) else [row]), cut] for norm, row in rows.items()}
    spec["train"] = {train: absolute(spec["train"][train]) for train in case.trains}
    if isinstance(spec.get("validate"), dict):
        spec["validate"] = {label: absolute(part) for label, part in spec["validate"].items()}
    spec["reported"] = absolute(spec["reported"]) if "reported" in spec else []
    ignoring = [yaml.safe_load(Path(path).read_text()) for path in _listed(spec["reported"])]
    spec["reported"] = [{**entry, "unknown_labels": "ignore"} for entry in ignoring]
    spec["seeds"] = [0]
    path = target / f"{case.name}.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def _listed(part: Any) -> list[Any]:
    return part if isinstance(part, list) else [part]


def run_matrix(folder: Path, spec: Path, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records after the real commands, the last of which prints the table."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EN_BENCH_SHARDS", raising=False)
    assert main(["matrix", "run", str(spec)]) == 0
    paths = sorted(Path("results", spec.stem, "records").glob("*.json"))
    return [Record.from_json(json.loads(path.read_text())) for path in paths]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_experiment_of_the_paper_runs_and_reports(folder, weights, tmp_path, monkeypatch, capsys, case):
    spec = in_small(case, tmp_path)
    records = run_matrix(folder, spec, monkeypatch)
    out = capsys.readouterr().out
    assert f"done {len(records)}, missing 0, failed 0" in out
    assert {(record.norm, record.train) for record in records} == {(n, t) for n in case.norms for t in case.trains}
    for record in records:
        assert record.fit["steps"] in (1, 2) and record.fit["batch"]["effective"] == BATCH
        for result in record.validate.values():
            assert result["n"] > 0 and result["whole_set"]
    if case.name == "cifar":
        validated = {(record.train, record.validate["own"]["set"]) for record in records}
        assert validated == {("cifar10", "cifar10/val"), ("cifar100", "cifar100/val")}
    if case.name == "finetune":
        swapped = next(line for line in out.splitlines() if "53 BatchNorm2d -> ExemplarNorm" in line)
        assert swapped.endswith("function preserved: yes")


def test_transfer_with_and_without_adapting(folder, tmp_path, monkeypatch, capsys):
    """Trained on each, validated on each, and adapted to each; the commands typed by hand give the same numbers."""
    case = Case("imagenet_webvision", ("ExemplarNorm",), ("imagenet", "webvision"), SMALL_NETWORK)
    spec = in_small(case, tmp_path)
    records = run_matrix(folder, spec, monkeypatch)
    assert len(records) == 2
    for record in records:
        assert set(record.validate) == {"imagenet", "webvision"}
        assert set(record.adapted) == {"imagenet", "webvision"} and not record.no_moments
        for label, result in record.adapted.items():
            assert result["recalibrated"]["set"] == f"{label}/train" and result["set"] == f"{label}/val"
            assert result["metrics"]["nll"] != record.validate[label]["metrics"]["nll"]
    assert not list(Path("results").glob("*/runs/*/adapted/*.ckpt"))
    capsys.readouterr()
    assert main(["matrix", "run", str(spec), "--dry-run", "--only", "ExemplarNorm/imagenet/0"]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("en-bench")]
    assert [command[1] for command in commands] == ["fit", *["validate"] * 2, *["norms", "validate"] * 2]
    by_hand(commands[-2:], "webvision")
    result = json.loads(Path("by_hand.json").read_text())
    (record,) = (record for record in records if record.train == "imagenet")
    assert result["metrics"] == record.adapted["webvision"]["metrics"]
    assert result["recalibrated"] == record.adapted["webvision"]["recalibrated"]


def by_hand(commands: Sequence[list[str]], label: str) -> None:
    recalibrate, validate = ([*command] for command in commands)
    assert label in recalibrate[recalibrate.index("--out") + 1]
    validate[validate.index("--result") + 1] = "by_hand.json"
    assert main(recalibrate[1:]) == 0
    assert main(validate[1:]) == 0
