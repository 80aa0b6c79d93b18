"""Every file under experiments/ is one that a user can run."""

import itertools
import json
from pathlib import Path

import pytest
import yaml

from en_bench.cli import main
from en_bench.matrix.plan import plan_cells
from en_bench.matrix.spec import load_spec
from tests.conftest import REPO
from tests.images import make_split
from tests.test_recipes import RECIPES

EXPERIMENTS = REPO / "experiments"
SPECS = sorted(p for p in EXPERIMENTS.glob("*.yaml") if "norms" in yaml.safe_load(p.read_text()))


def overlays(folder: str) -> list[Path]:
    return sorted((EXPERIMENTS / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_specifications_plan(path):
    spec = load_spec(path)
    cells = plan_cells(spec)
    assert len(cells) == len(spec.norms) * len(spec.train) * len(spec.seeds)


def test_the_demo_has_eighteen_cells():
    assert len(plan_cells(load_spec(EXPERIMENTS / "digits.yaml"))) == 18


def parsed(capsys: pytest.CaptureFixture[str], *files: Path) -> dict[str, object]:
    """The configuration that overlays add up to, as the command itself prints it."""
    chain = [EXPERIMENTS / "base.yaml", *files]
    arguments = ["fit", *itertools.chain.from_iterable(("--config", str(path)) for path in chain), "--print_config"]
    assert main(arguments) == 0, capsys.readouterr().err
    config: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses(name, capsys):
    chain = [EXPERIMENTS / "recipe" / f"{file}.yaml" for file in RECIPES[name].files]
    assert parsed(capsys, *chain, EXPERIMENTS / "data" / "cifar10.yaml")["model"]["backbone"]


@pytest.mark.parametrize("data", overlays("data"), ids=lambda p: p.stem)
def test_every_data_set_parses(data, capsys):
    config = parsed(capsys, EXPERIMENTS / "recipe" / "digits.yaml", data)
    assert config["data"]["train"].endswith("/train") and config["data"]["val"].endswith("/val")


@pytest.mark.parametrize("norm", overlays("norm"), ids=lambda p: p.stem)
def test_every_normaliser_parses(norm, capsys):
    config = parsed(capsys, EXPERIMENTS / "recipe" / "digits.yaml", EXPERIMENTS / "data" / "cifar7.yaml", norm)
    assert config["model"]["norm"]["class_path"].startswith("en_bench.norms.")


def test_every_normaliser_of_the_package_has_an_overlay():
    from en_bench.norms import Norm

    def concrete(cls: type) -> set[str]:
        return {c.__name__ for sub in cls.__subclasses__() if sub.__module__.startswith("en_bench.") for c in [sub]} | {
            name for sub in cls.__subclasses__() if sub.__module__.startswith("en_bench.") for name in concrete(sub)
        }

    named = {yaml.safe_load(p.read_text())["model"]["norm"]["class_path"].rpartition(".")[2] for p in overlays("norm")}
    assert named == concrete(Norm)


def test_the_imagenet_recipe_runs_in_small(tmp_path):
    """The real overlays on a set in the place of ImageNet: only devices, workers, batch and length are cut."""
    for split, count in (("train", 6), ("val", 5)):
        make_split(tmp_path / "imagenet" / split, count)
    files = [EXPERIMENTS / name for name in ("base.yaml", "recipe/imagenet.yaml", "data/imagenet.yaml", "norm/en.yaml")]
    small = {
        "trainer.devices": 1,
        "trainer.strategy": "auto",
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 1,
        "model.lr_batch": 2,
        "data.workers": 0,
        "data.batch_size": 2,
        "data.val_batch_size": 5,
        "data.root": tmp_path,
        "trainer.default_root_dir": tmp_path / "run",
    }
    configs = itertools.chain.from_iterable(("--config", str(path)) for path in files)
    flags = itertools.chain.from_iterable((f"--{key}", str(value)) for key, value in small.items())
    assert main(["fit", *configs, *flags]) == 0
    outcome = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert outcome["steps"] == 1 and outcome["metrics"]["val/n"] == 5
    assert outcome["cost"]["parameters"] > 23_000_000
