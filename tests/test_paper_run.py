"""The paper's experiments, from raw archives in their published layouts to the report, in small.

Cut are: seeds, images (64 px, or 32), epochs and steps; the network, but in `imagenet`, `imagenet_shufflenet` and
`finetune`; and the batch and devices, but in `small_batch`, whose devices are accumulated passes of one, as its head
says. The slow tests run a sample of rows and training sets, each kind somewhere; the full one runs all of all files.
docs/matrix/experiments.md says so.
"""

import json
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
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
from en_bench.matrix.spec import load_spec
from tests.conftest import REPO
from tests.scripts import imagenet_archives, webvision_archives
from tests.scripts.imagenet_archives import GOLDFISH, TENCH, TISSUE, TRAIN
from tests.scripts.raw import jpeg, tar_bytes, write_tree
from tests.scripts.test_cifar import cifar100_files, python_files
from tests.scripts.test_layouts import aircraft, cars, cub200
from tests.test_paper_files import PAPER

EXPERIMENTS = REPO / "experiments"
BATCH = 2


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
    Case("webvision_selected", ("BatchNorm",), ("webvision",), SMALL_NETWORK),
    Case("small_batch", ("SparseSwitchNorm",), ("8x1", "1x8"), SMALL_NETWORK),
    Case("ablation", ("EN-no-reduction", "EN-mlp3", "EN-in-ln"), ("imagenet",), SMALL_NETWORK),
    Case("finetune", ("ExemplarNorm",), ("cub200",)),
]


def train_tar() -> bytes:
    """ImageNet's tar of tars with enough images for the largest batch of small_batch.yaml, 256."""
    more = {
        wnid: {f"{wnid}_{number}.JPEG": jpeg(number) for number in range(first, first + 90)}
        for first, wnid in ((1000, TENCH), (2000, GOLDFISH), (3000, TISSUE))
    }
    odd = {wnid: {f"{stem}.JPEG": content for stem, content in files.items()} for wnid, files in TRAIN.items()}
    return tar_bytes({f"{wnid}.tar": tar_bytes({**odd[wnid], **more[wnid]}) for wnid in odd})


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
    published = write_tree(raw / "imagenet", {**imagenet_archives.PUBLISHED, "ILSVRC2012_img_train.tar": train_tar()})
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
    cut: dict[str, Any] = {
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "precision": "32-true"},
        "model": {"backbone": case.backbone} if case.backbone else {},
        "data": {"val_batch_size": 4, "workers": 0},
    }
    if case.name != "small_batch":
        cut["trainer"] |= {"limit_train_batches": 2, "devices": 1, "strategy": "auto", "accumulate_grad_batches": 1}
        cut["model"]["lr_batch"] = cut["data"]["batch_size"] = BATCH
    if case.name == "webvision_selected":
        cut["data"]["held_out"] = 0.4  # of ten images
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
    if case.name == "small_batch":
        spec["train"] = {train: [*part, on_one(part[1])] for train, part in spec["train"].items()}
    if isinstance(spec.get("validate"), dict):
        spec["validate"] = {label: absolute(part) for label, part in spec["validate"].items()}
    spec["reported"] = absolute(spec["reported"]) if "reported" in spec else []
    ignoring = [yaml.safe_load(Path(path).read_text()) for path in _listed(spec["reported"])]
    spec["reported"] = [{**entry, "unknown_labels": "ignore"} for entry in ignoring]
    spec["seeds"] = [0]
    path = target / f"{case.name}.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def on_one(point: Mapping[str, Any]) -> dict[str, Any]:
    """What makes one step on one device of a point of the grid."""
    ranks = point["trainer"]["devices"]
    one = {"devices": 1, "strategy": "auto", "accumulate_grad_batches": ranks, "limit_train_batches": ranks}
    return {"trainer": one}


def _listed(part: Any) -> list[Any]:
    return part if isinstance(part, list) else [part]


def run_matrix(folder: Path, spec: Path, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records after the real commands, the last of which prints the table."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EN_BENCH_SHARDS", raising=False)
    assert main(["matrix", "run", str(spec)]) == 0
    paths = sorted(Path("results", spec.stem, "records").glob("*.json"))
    return [Record.from_json(json.loads(path.read_text())) for path in paths]


def check(case: Case, records: Sequence[Record], out: str) -> None:
    """What has to hold of the records and the output of any experiment."""
    assert f"done {len(records)}, missing 0, failed 0" in out
    assert {(record.norm, record.train) for record in records} == {(n, t) for n in case.norms for t in case.trains}
    assert len(records) == len(case.norms) * len(case.trains)
    for record in records:
        effective = BATCH
        if case.name == "small_batch":
            ranks, per_rank = map(int, record.train.split("x"))
            effective = ranks * per_rank
            assert record.fit["steps"] == 1
        assert record.fit["steps"] in (1, 2) and record.fit["batch"]["effective"] == effective
        for result in record.validate.values():
            assert result["n"] > 0 and result["whole_set"]
        selected = record.fit["accuracies"]["selected"]
        assert (selected is not None) == (case.name == "webvision_selected")
    if case.name == "cifar":
        validated = {(record.train, record.validate["own"]["set"]) for record in records}
        assert validated == {("cifar10", "cifar10/val"), ("cifar100", "cifar100/val")}
    if case.name == "finetune":
        swapped = [line.partition("53 BatchNorm2d -> ")[2] for line in out.splitlines() if "53 BatchNorm2d -> " in line]
        preserved = Counter((line.partition(":")[0], "function preserved: yes" in line) for line in swapped)
        can = {"BatchNorm", "ExemplarNorm"}
        assert preserved == {(norm, norm in can): len(case.trains) for norm in case.norms}
        assert all("affine kept 53, running moments kept 53" in line for line in swapped)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_experiment_of_the_paper_runs_and_reports(folder, weights, tmp_path, monkeypatch, capsys, case):
    records = run_matrix(folder, in_small(case, tmp_path), monkeypatch)
    check(case, records, capsys.readouterr().out)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PAPER)
def test_every_row_and_training_set_of_an_experiment_runs(folder, weights, tmp_path, monkeypatch, capsys, name):
    spec = load_spec(EXPERIMENTS / f"{name}.yaml")
    with_its_network = name in ("imagenet", "imagenet_shufflenet", "finetune")
    case = Case(name, tuple(spec.norms), tuple(spec.train), None if with_its_network else SMALL_NETWORK)
    shutil.rmtree(folder / "results" / name, ignore_errors=True)  # of the slow tests
    records = run_matrix(folder, in_small(case, tmp_path), monkeypatch)
    check(case, records, capsys.readouterr().out)
    assert all(set(record.adapted) | set(record.no_moments) == set(spec.adapted) for record in records)


@pytest.mark.slow
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
