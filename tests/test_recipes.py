"""What each recipe comes to: samples per step, learning rate by epoch, what decays. Real tasks, data and trainers."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml
from lightning import Callback, LightningModule, Trainer

from en_bench import backbones
from en_bench.data.module import ShardDataModule
from en_bench.errors import InputError
from en_bench.matrix.overlays import Config, merge, read_yaml
from en_bench.matrix.plan import plan_cells
from en_bench.matrix.spec import load_spec
from en_bench.norms import BatchNorm, ExemplarNorm, Norm, SwitchNorm, swap_norms
from en_bench.tasks.classification import ClassificationTask
from en_bench.tasks.effective_batch import EffectiveBatch
from tests.conftest import REPO

EXPERIMENTS = REPO / "experiments"


@dataclass(frozen=True)
class Recipe:
    """What a recipe is meant to be. `lr` by epoch, None at epochs that come after the end."""

    files: tuple[str, ...]
    batch: int
    per_rank: int
    ranks: int
    accumulated: int
    epochs: int
    lr: tuple[float | None, float | None, float | None, float | None]  # at epochs 0, 30, 60 and 90
    weight_decay: float = 1e-4
    decay_all: bool = False
    fixed_batch: bool = True


def cosine(lr: float, epochs: int, warmup: int, steps: int = 1) -> tuple[float | None, ...]:
    """By hand: `steps` to an epoch, the first epoch's first step of the warm-up, then half a cosine."""

    def at(epoch: int) -> float | None:
        if epoch >= epochs:
            return None
        if epoch < warmup:
            return lr / (warmup * steps)
        return lr * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2

    return tuple(at(epoch) for epoch in (0, 30, 60, 90))


STEPS = (0.1, 0.01, 0.001, 0.0001)
# The sets of these tests have 200 samples: 1 step of 128, 3 of 64, and 200 // 32 = 6 batches in 1 step of 256.
RECIPES = {
    "imagenet": Recipe(("imagenet",), 256, 32, 8, 1, 100, STEPS, decay_all=True),
    "imagenet_short": Recipe(
        ("imagenet", "imagenet_short"), 256, 32, 1, 8, 18, (0.1, None, None, None), decay_all=True
    ),
    "cifar_steps": Recipe(("cifar_steps",), 128, 128, 1, 1, 164, (0.1, 0.1, 0.1, 0.01), decay_all=True),
    "fine_grained": Recipe(
        ("imagenet", "fine_grained"), 64, 64, 1, 1, 100, (0.025, 0.0025, 0.00025, 0.000025), decay_all=True
    ),
    "finetune": Recipe(("finetune",), 64, 64, 1, 1, 60, cosine(0.01, 60, 1, steps=3)),
    "cifar": Recipe(("cifar",), 128, 128, 1, 1, 2, cosine(0.1, 2, 1), fixed_batch=False),
    "cifar_noisy": Recipe(("cifar_noisy",), 128, 128, 1, 1, 100, cosine(0.1, 100, 1), 5e-4, fixed_batch=False),
    "webvision_mini": Recipe(("webvision_mini",), 128, 128, 1, 1, 100, cosine(0.05, 100, 5), 5e-4, fixed_batch=False),
    "images": Recipe(("images",), 64, 64, 1, 1, 30, cosine(0.05, 30, 2, steps=3), fixed_batch=False),
    "digits": Recipe(("digits",), 64, 64, 1, 1, 4, cosine(0.1, 4, 1, steps=3), fixed_batch=False),
}


@cache
def _parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ClassificationTask, "model")
    parser.add_class_arguments(ShardDataModule, "data")
    return parser


def made(config: Config, root: Path, **model: Any) -> tuple[ClassificationTask, ShardDataModule, dict[str, Any]]:
    """Task and data module of a configuration, on the small sets below `root`, and the options of its trainer."""
    here = {"root": str(root), "train": "a/train", "val": "a/val", "workers": 0}
    whole = merge([config, {"model": model, "data": here}])
    built = _parser().instantiate(_parser().parse_object({"model": whole["model"], "data": whole["data"]}))
    return built.model, built.data, whole["trainer"]


def recipe_config(recipe: Recipe) -> Config:
    return merge(read_yaml(EXPERIMENTS / f"{name}.yaml") for name in ("base", *(f"recipe/{f}" for f in recipe.files)))


def trainer_of(options: dict[str, Any], folder: Path, *callbacks: Callback, **other: Any) -> Trainer:
    kept = {key: options[key] for key in ("max_epochs", "accumulate_grad_batches", "devices") if key in options}
    strategy = "ddp" if {**kept, **other}.get("devices", 1) > 1 else "auto"
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    chosen = {"accelerator": "cpu", "strategy": strategy, "callbacks": list(callbacks), **quiet, **kept, **other}
    return Trainer(default_root_dir=folder, enable_model_summary=False, num_sanity_val_steps=0, **chosen)


def test_every_recipe_is_here():
    assert {path.stem for path in (EXPERIMENTS / "recipe").glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_effective_batch(name, shards, tmp_path):
    recipe = RECIPES[name]
    task, data, options = made(recipe_config(recipe), shards, backbone="cifar/resnet8", pretrained=False)
    trainer = trainer_of(options, tmp_path)
    batch = EffectiveBatch(data.batch_size, trainer.num_devices * trainer.num_nodes, trainer.accumulate_grad_batches)
    assert batch == EffectiveBatch(recipe.per_rank, recipe.ranks, recipe.accumulated)
    assert batch.total == recipe.batch
    assert task.lr_batch == (recipe.batch if recipe.fixed_batch else None)
    data.open("fit")
    task.check(data, trainer)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.fixed_batch])
def test_other_ranks_and_accumulation_keep_the_batch_or_are_refused(name, shards, tmp_path):
    recipe = RECIPES[name]
    task, data, options = made(recipe_config(recipe), shards, backbone="cifar/resnet8", pretrained=False)
    data.open("fit")
    for ranks in (1, 2, 4):
        forward = ranks * recipe.per_rank
        if recipe.batch % forward == 0:
            kept = trainer_of(options, tmp_path, devices=ranks, accumulate_grad_batches=recipe.batch // forward)
            task.check(data, kept)
        other = trainer_of(options, tmp_path, devices=ranks, accumulate_grad_batches=3)
        with pytest.raises(
            InputError, match=f"is for a batch of {recipe.batch}, and a step of this run has {3 * forward} "
        ):
            task.check(data, other)
    more_nodes = trainer_of(options, tmp_path, num_nodes=2, devices=recipe.ranks, strategy="ddp")
    with pytest.raises(InputError, match=f"a step of this run has {2 * recipe.batch} = {2 * recipe.ranks} ranks"):
        task.check(data, more_nodes)


class Enough(Exception):  # noqa: N818 - no error
    """What was to be seen has been seen."""


class Look(Callback):
    """Notes the learning rates that the schedule of a training, about to begin, has at some epochs; then ends it."""

    def __init__(self) -> None:
        self.lr: list[float | None] = []
        self.before: list[float] = []  # one step before the epochs 30, 60 and 90
        self.decay: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ClassificationTask)
        length, scheduler = pl_module.training_length(), trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        for epoch in (0, 30, 60, 90):
            step = epoch * length.per_epoch
            rates = [base * f(step) for base, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
            assert len(set(rates)) == 1
            self.lr.append(rates[0] if step < length.steps else None)
            if epoch:
                self.before.append(scheduler.base_lrs[0] * scheduler.lr_lambdas[0](step - 1))
        self.decay = [group["weight_decay"] for group in trainer.optimizers[0].param_groups]
        raise Enough


@pytest.mark.parametrize("name", RECIPES)
def test_the_learning_rate_at_epochs_0_30_60_and_90(name, shards, tmp_path):
    recipe = RECIPES[name]
    config = merge([recipe_config(recipe), {"data": {"held_out": 0.0}}])
    task, data, options = made(config, shards, backbone="cifar/resnet8", pretrained=False)
    look = Look()
    trainer = trainer_of(options, tmp_path, look, devices=1)
    assert trainer.max_epochs == recipe.epochs
    with pytest.raises(Enough):
        trainer.fit(task, data)
    assert [rate is None for rate in look.lr] == [rate is None for rate in recipe.lr]
    for seen, meant in zip(look.lr, recipe.lr, strict=True):
        assert seen == (None if meant is None else pytest.approx(meant, rel=1e-9))
    if recipe.lr == STEPS:
        assert look.before == pytest.approx(STEPS[:3]), "not earlier"
    decay = recipe.weight_decay
    assert look.decay == [decay, decay if recipe.decay_all else 0.0]


def test_the_short_recipe_falls_at_the_same_shares_of_its_epochs():
    recipe = recipe_config(RECIPES["imagenet_short"])
    milestones = recipe["model"]["schedule"]["init_args"]["milestones"]
    assert [each / recipe["trainer"]["max_epochs"] for each in milestones] == pytest.approx([0.3, 0.6, 0.9])


@pytest.mark.parametrize("norm", [None, BatchNorm, SwitchNorm, ExemplarNorm])
@pytest.mark.parametrize("name", ["imagenet", "finetune", "cifar_steps"])
def test_what_decays(name, norm, shards):
    """Of the real network: under the published recipe everything, else weights of convolutions and the head alone."""
    recipe = RECIPES[name]
    task, _, _ = made(recipe_config(recipe), shards, pretrained=False)
    with torch.device("meta"):
        network = backbones.build(task.backbone, 1000)
        if norm is not None:
            swap_norms(network, norm, inherit="none")
    optimizer = task.optimisation.optimizer(network)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in decayed}
    inside = {
        f"{prefix}.{key}"
        for prefix, module in network.named_modules()
        if isinstance(module, Norm | torch.nn.BatchNorm2d)
        for key, _ in module.named_parameters()
    }
    everything = {key for key, _ in network.named_parameters()}
    assert inside
    weights = everything - inside - {key for key in everything if key.endswith(".bias")}
    assert names == (everything if recipe.decay_all else weights)


def test_every_point_of_the_small_batch_grid(shards, tmp_path):
    spec = load_spec(EXPERIMENTS / "small_batch.yaml")
    cells = {cell.train: cell for cell in plan_cells(spec) if cell.norm == "BatchNorm"}
    assert len(cells) == 9
    for label, cell in cells.items():
        ranks, per_rank = map(int, label.split("x"))
        task, data, options = made(cell.config, shards, backbone="cifar/resnet8")
        data.open("fit")
        trainer = trainer_of(options, tmp_path)
        assert (trainer.num_devices, data.batch_size, trainer.accumulate_grad_batches) == (ranks, per_rank, 1)
        assert task.optimisation.lr == pytest.approx(0.1 * ranks * per_rank / 256)
        task.check(data, trainer)  # the learning rate is for just this batch
        if ranks == 8:  # as the file's header says for one GPU
            task.check(data, trainer_of(options, tmp_path, devices=1, accumulate_grad_batches=8))


PAPER = (
    "imagenet",
    "imagenet_short",
    "imagenet_shufflenet",
    "webvision",
    "imagenet_webvision",
    "cifar",
    "fine_grained",
    "small_batch",
    "ablation",
    "finetune",
)


@pytest.mark.parametrize("name", PAPER)
def test_every_cell_is_a_task_with_a_normaliser_that_can_be_made(name, shards):
    spec = load_spec(EXPERIMENTS / f"{name}.yaml")
    assert spec.tuning == dict.fromkeys(spec.norms, 1)
    norms = {}
    for cell in (cell for cell in plan_cells(spec) if cell.seed == 0):
        task, _, _ = made(cell.config, shards)
        assert task.norm is not None and task.lr_batch is not None
        norms[cell.norm] = (repr(task.norm(64)), task.attention)
    assert len(set(norms.values())) == len(spec.norms), "each row is another network"


def test_the_ablations_are_the_papers():
    """Which arguments of ExemplarNorm each row changes."""
    spec = load_spec(EXPERIMENTS / "ablation.yaml")
    cells = {cell.norm: cell.config["model"]["norm"].get("init_args", {}) for cell in plan_cells(spec)}
    changed = [next(iter(arguments), None) for name, arguments in cells.items() if name.startswith("EN")]
    assert {name for name in changed if name} == {
        *("reduce", "activation", "shared_affine", "gate", "hidden", "reduction", "normalizers")
    }
    sweeps = {key: [a[key] for a in cells.values() if key in a] for key in ("hidden", "reduction", "gate")}
    assert sweeps == {"hidden": [10, 25, 100], "reduction": [8, 16, 64], "gate": ["mlp2", "mlp3"]}


def test_reported_numbers_are_those_of_the_sources():
    """The README of SwitchNorm and that of SparseSwitchNorm, typed in a second time."""
    grid = ["8x32", "8x16", "8x8", "8x4", "8x2", "1x16", "1x32", "8x1", "1x8"]
    rows = {
        "BatchNorm": [76.4, 76.3, 75.2, 72.7, 65.3, 76.2, 76.5, None, 75.4],
        "GroupNorm": [75.9, 75.8, 76.0, 75.8, 75.9, 75.9, 75.8, 75.5, 75.5],
        "SwitchNorm": [76.9, 76.7, 76.7, 75.9, 75.6, 76.3, 76.6, None, 75.9],
        "SparseSwitchNorm": [77.2, 77.0, 76.8, 76.1, 75.9, None, None, None, None],
    }
    expected = {(norm, at): v for norm, row in rows.items() for at, v in zip(grid, row, strict=True) if v is not None}
    found = {}
    for reported in load_spec(EXPERIMENTS / "small_batch.yaml").reported:
        assert reported.target == "imagenet" and reported.tolerance == pytest.approx(0.005)
        if (reported.norm, reported.train) == ("BatchNorm", "8x8") and reported.source.startswith("Sparse_SwitchNorm"):
            assert reported.value == pytest.approx(0.755)  # the two sources differ
            continue
        found[reported.norm, reported.train] = reported.value
    assert found == {key: pytest.approx(value / 100) for key, value in expected.items()}
    full = {r.norm: r.value for r in load_spec(EXPERIMENTS / "imagenet.yaml").reported}
    assert full == {norm: pytest.approx(row[0] / 100) for norm, row in rows.items()}


def test_nothing_is_reported_that_was_not_read():
    """EN's own tables: their cells wait for somebody who reads the paper."""
    for path in sorted((EXPERIMENTS / "reported").glob("*.yaml")):
        raw = yaml.safe_load(path.read_text())
        assert raw["source"] and raw["tolerance"] == 0.5
    for name in ("webvision", "imagenet_webvision"):
        assert load_spec(EXPERIMENTS / f"{name}.yaml").reported == ()
