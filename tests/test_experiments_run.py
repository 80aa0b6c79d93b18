"""The experiments on noisy labels, from raw archives in small to the report: only seeds, sizes and length are cut."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_scripts import cifar, imagenet, webvision
from en_bench.cli import main
from tests.conftest import REPO
from tests.scripts import imagenet_archives, webvision_archives
from tests.scripts.raw import tar_bytes, write_tree
from tests.scripts.test_cifar import HUMAN, human_file, python_files

EXPERIMENTS = REPO / "experiments"
NAMES = ("last", "best", "selected")

# A matrix whose every column has something, as the forward correction wants: cats stay cats and ships ships once.
WORSE = [6, 1, 1, 4, 9, 1, 2, 7, 8, 5, 4, 7, 7, 0, 9, 9, 9, 3, 2, 6]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, prepared by the scripts, and the transition matrix that losses.yaml takes."""
    here = tmp_path_factory.mktemp("experiments")
    raw, data = here / "raw", here / "data"
    archive = write_tree(raw / "cifar", {"cifar-10-python.tar.gz": tar_bytes(python_files(), "w:gz")})
    human = human_file(raw / "CIFAR-10_human.npy", {**HUMAN, "worse_label": WORSE})
    mini = ("--class-map", str(REPO / "data_scripts/classes/webvision_mini.csv"))
    web = webvision_archives.as_tars(raw / "webvision")
    published = write_tree(raw / "imagenet", imagenet_archives.PUBLISHED)
    one = ("--workers", "1")
    assert cifar.main(["--raw", str(archive), "--noisy", str(human), "--out", str(data / "cifar10"), *one]) == 0
    assert webvision.main(["--raw", str(web), "--out", str(data / "webvision_mini"), "--mini", *one]) == 0
    assert imagenet.main(["--raw", str(published), "--out", str(data / "imagenet_mini"), *mini, *one]) == 0
    train, out = str(data / "cifar10/train"), str(here / "transitions.json")
    assert main(["noise", "matrix", train, "--labels", "worst", "--out", out]) == 0
    return here


def in_small(name: str, target: Path, norms: tuple[str, ...], trains: tuple[str, ...], **data: Any) -> Path:
    """The specification `name` with its own overlays, some of its normalisers and training sets, and one seed."""

    def absolute(part: Any) -> Any:
        if isinstance(part, list):
            return [absolute(inner) for inner in part]
        return str(EXPERIMENTS / part) if isinstance(part, str) else part

    spec = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())
    cut = {
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "precision": "32-true"},
        "model": {"backbone": "cifar/resnet8", "warmup_epochs": 0},
        "data": {"batch_size": 4, "val_batch_size": 8, "workers": 0, "held_out": 0.3, **data},
    }
    spec["base"] = [*absolute(spec["base"]), cut]
    spec["norms"] = {norm: absolute(spec["norms"][norm]) for norm in norms}
    spec["train"] = {train: absolute(spec["train"][train]) for train in trains}
    spec["validate"] = {label: absolute(part) for label, part in spec["validate"].items()}
    spec["seeds"] = [0]
    path = target / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


SMALL_IMAGES = {
    "train_transform": {"init_args": {"size": 32}},
    "val_transform": {"init_args": {"size": 32, "short_side": 36}},
    "batch_size": 2,
    "held_out": 0.4,
}
CASES: list[tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any], str]] = [
    ("cifar10n", ("ExemplarNorm",), ("clean", "random1", "worst"), {}, "labels worst ("),
    (
        "cifar10_symmetric",
        ("GroupNorm",),
        ("symmetric40", "symmetric60"),
        {},
        "labels given + symmetric 0.6 (seed 0) (",
    ),
    ("losses", ("BatchNorm+Forward", "BatchNorm+ELR", "ExemplarNorm+Mixup"), ("worst",), {}, "labels worst ("),
    ("webvision_mini", ("SwitchNorm",), ("webvision",), SMALL_IMAGES, "labels given, digest"),
]


@pytest.mark.parametrize(("name", "norms", "trains", "data", "labels"), CASES, ids=[case[0] for case in CASES])
def test_an_experiment_runs_and_reports_its_three_accuracies(
    folder, tmp_path, monkeypatch, capsys, name, norms, trains, data, labels
):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EN_BENCH_SHARDS", raising=False)
    spec = in_small(name, tmp_path, norms, trains, **data)
    assert main(["matrix", "run", str(spec)]) == 0, capsys.readouterr().out
    capsys.readouterr()
    assert main(["matrix", "report", str(spec)]) == 0
    out = capsys.readouterr().out
    table, _, below = out.partition("Three accuracies")
    assert labels in table and f"cells: done {len(norms) * len(trains)}, missing 0, failed 0" in table
    records = [json.loads(path.read_text()) for path in Path("results", name, "records").glob("*.json")]
    assert len(records) == len(norms) * len(trains)
    shown = [[word for word in line.split() if word != "(1)"] for line in below.splitlines()]
    for record in records:
        fit, cell = record["fit"], record["cell"]
        values = [f"{100 * fit['accuracies'][which]['top1']:.1f}" for which in NAMES]
        first = [cell["train"]] if cell["norm"] == norms[0] else []
        assert [*first, cell["norm"], *values] in shown
        assert fit["held_out"]["n"] > 0 and fit["metrics"]["held_out/n"] == fit["held_out"]["n"]
        assert set(record["validate"]) == set(yaml.safe_load(spec.read_text())["validate"])
