"""What each recipe comes to: samples per step, learning rate by epoch. Real tasks, data and trainers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from en_bench.data.module import ShardDataModule
from en_bench.errors import InputError
from en_bench.matrix.overlays import Config, merge, read_yaml
from en_bench.tasks.classification import ClassificationTask
from en_bench.tasks.effective_batch import EffectiveBatch
from en_bench.tasks.schedules import Length
from tests.conftest import REPO
from tests.images import make_split

EXPERIMENTS = REPO / "experiments"


Learning = tuple[
    float | None, float | None, float | None, float | None
]  # at epochs 0, 30, 60 and 90, None after the end


@dataclass(frozen=True)
class Recipe:
    """What a recipe is meant to be."""

    files: tuple[str, ...]
    batch: int
    per_rank: int
    ranks: int
    accumulated: int
    epochs: int
    lr: Callable[[int], Learning]  # by the number of steps to an epoch
    before: tuple[float, float, float] | None = None  # learning rates one step before epochs 30, 60 and 90
    weight_decay: float = 1e-4
    decay_all: bool = False
    fixed_batch: bool = True


def at(*lr: float | None) -> Callable[[int], Learning]:
    """However many steps an epoch has."""
    zero, thirty, sixty, ninety = lr
    return lambda steps: (zero, thirty, sixty, ninety)


def cosine(lr: float, epochs: int, warmup: int) -> Callable[[int], Learning]:
    """By hand: the first step of the warm-up's epochs, then half a cosine."""

    def rate(epoch: int, steps: int) -> float | None:
        if epoch >= epochs:
            return None
        if epoch < warmup:
            return lr / (warmup * steps)
        return lr * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2

    return lambda steps: (rate(0, steps), rate(30, steps), rate(60, steps), rate(90, steps))


STEPS = at(0.1, 0.01, 0.001, 0.0001)
FALLS = (0.1, 0.01, 0.001)
# The names of the recipe's files, the batch with images per rank, ranks and accumulation, epochs, learning rate.
RECIPES = {
    "imagenet": Recipe(("imagenet",), 256, 32, 8, 1, 100, STEPS, FALLS, decay_all=True),
    "imagenet_short": Recipe(
        ("imagenet", "imagenet_short"), 256, 32, 1, 8, 18, at(0.1, None, None, None), decay_all=True
    ),
    "cifar_steps": Recipe(
        ("cifar_steps",), 128, 128, 1, 1, 164, at(0.1, 0.1, 0.1, 0.01), (0.1, 0.1, 0.01), decay_all=True
    ),
    "fine_grained": Recipe(
        ("imagenet", "fine_grained"),
        *(64, 64, 1, 1, 100, at(0.025, 0.0025, 0.00025, 0.000025), (0.025, 0.0025, 0.00025)),
        decay_all=True,
    ),
    "finetune": Recipe(("finetune",), 64, 64, 1, 1, 60, cosine(0.01, 60, 1)),
    "cifar": Recipe(("cifar",), 128, 128, 1, 1, 2, cosine(0.1, 2, 1), fixed_batch=False),
    "cifar_noisy": Recipe(
        ("cifar_noisy",), 128, 128, 1, 1, 100, cosine(0.1, 100, 1), weight_decay=5e-4, fixed_batch=False
    ),
    "webvision_mini": Recipe(
        ("webvision_mini",), 128, 128, 1, 1, 100, cosine(0.05, 100, 5), weight_decay=5e-4, fixed_batch=False
    ),
    "images": Recipe(("images",), 64, 64, 1, 1, 30, cosine(0.05, 30, 2), fixed_batch=False),
    "digits": Recipe(("digits",), 64, 64, 1, 1, 4, cosine(0.1, 4, 1), fixed_batch=False),
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


@dataclass(frozen=True)
class Rates:
    """Learning rates at epochs 0, 30, 60 and 90 (None after the end), and one step before the last three."""

    at: tuple[float | None, ...]
    before: tuple[float, ...]


def rates(scheduler: LRScheduler, length: Length) -> Rates:
    assert isinstance(scheduler, LambdaLR)

    def rate(step: int) -> float:
        (same_for_all,) = {base * f(step) for base, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)}
        return same_for_all

    starts = [epoch * length.per_epoch for epoch in (0, 30, 60, 90)]
    at_starts = tuple(rate(step) if step < length.steps else None for step in starts)
    return Rates(at_starts, tuple(rate(step - 1) for step in starts[1:]))


def same(seen: Rates, recipe: Recipe, steps: int) -> None:
    """Asserts that the learning rates are the recipe's, in a training with so many steps to an epoch."""
    meant = recipe.lr(steps)
    assert [rate is None for rate in seen.at] == [rate is None for rate in meant]
    for one, other in zip(seen.at, meant, strict=True):
        assert one == (None if other is None else pytest.approx(other, rel=1e-9))
    if recipe.before is not None:
        assert seen.before == pytest.approx(recipe.before, rel=1e-9), "not earlier"


class Look(Callback):
    """Notes the learning rates that the schedule of a training, about to begin, has at some epochs; then ends it."""

    def __init__(self) -> None:
        self.seen = Rates((), ())
        self.decay: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ClassificationTask)
        self.seen = rates(trainer.lr_scheduler_configs[0].scheduler, pl_module.training_length())
        self.decay = [group["weight_decay"] for group in trainer.optimizers[0].param_groups]
        raise Enough


def whole_set(recipe: Recipe) -> Config:
    return merge([recipe_config(recipe), {"data": {"held_out": 0.0}}])


@pytest.mark.parametrize("name", RECIPES)
def test_the_learning_rate_of_a_training_at_epochs_0_30_60_and_90(name, shards, tmp_path):
    recipe = RECIPES[name]
    task, data, options = made(whole_set(recipe), shards, backbone="cifar/resnet8", pretrained=False)
    look = Look()
    trainer = trainer_of(options, tmp_path, look, devices=1)
    assert trainer.max_epochs == recipe.epochs
    with pytest.raises(Enough):
        trainer.fit(task, data)
    same(look.seen, recipe, trainer.num_training_batches)
    decay = recipe.weight_decay
    assert look.decay == [decay, decay if recipe.decay_all else 0.0]


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `shards`, with 1,000 training samples, of which other ranks and accumulation make other numbers of steps."""
    root = tmp_path_factory.mktemp("larger")
    make_split(root / "a" / "train", 1000, shards=1, size=8)
    make_split(root / "a" / "val", 6, shards=1, size=8)
    return root


# (batch, ranks, per rank, accumulated) and optimiser steps in an epoch of 1,000 samples, counted by hand: a rank's
# batches are 1,000 // (ranks x per rank), and the last step of an epoch may have fewer of them than it accumulates.
STEPS_PER_EPOCH = {
    (256, 8, 32, 1): 3,  # 3 batches
    (256, 1, 32, 8): 4,  # 31
    (256, 2, 32, 4): 4,  # 15
    (256, 4, 16, 4): 4,  # 15
    (256, 3, 32, 2): 5,  # 10; its batch is 192, the same epochs all the same
    (128, 1, 128, 1): 7,  # 7
    (128, 1, 16, 8): 8,  # 62
    (128, 2, 32, 2): 8,  # 15
    (128, 4, 32, 1): 7,  # 7
    (64, 1, 64, 1): 15,  # 15
    (64, 1, 8, 8): 16,  # 125
    (64, 2, 16, 2): 16,  # 31
    (64, 8, 8, 1): 15,  # 15
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_learning_rate_with_other_ranks_and_accumulation(name, larger, tmp_path):
    """By the real trainer of so many ranks, which has not started its processes; test_same_batch.py starts them."""
    recipe = RECIPES[name]
    chosen = {key[1:]: steps for key, steps in STEPS_PER_EPOCH.items() if key[0] == recipe.batch}
    assert (recipe.ranks, recipe.per_rank, recipe.accumulated) in chosen
    for (ranks, per_rank, accumulated), steps in chosen.items():
        config = merge([whole_set(recipe), {"data": {"batch_size": per_rank}}])
        task, data, options = made(config, larger, backbone="cifar/resnet8", pretrained=False)
        trainer = trainer_of(options, tmp_path, devices=ranks, accumulate_grad_batches=accumulated)
        assert trainer.world_size == ranks
        attached(trainer, task, data)
        length = task.training_length()
        assert (length.per_epoch, length.steps) == (steps, steps * recipe.epochs)
        made_for = task.configure_optimizers()
        same(rates(made_for["lr_scheduler"]["scheduler"], length), recipe, steps)


def attached(trainer: Trainer, task: ClassificationTask, data: ShardDataModule) -> None:
    """As `trainer.fit` does, up to where it would start its processes; the samplers ask the trainer for its ranks."""
    trainer.state.fn = TrainerFn.FITTING
    trainer.strategy.connect(task)
    task.trainer = trainer
    trainer._data_connector.attach_data(task, datamodule=data)
    data.setup("fit")
    task.configure_model()


def test_the_short_recipe_falls_at_the_same_shares_of_its_epochs():
    recipe = recipe_config(RECIPES["imagenet_short"])
    milestones = recipe["model"]["schedule"]["init_args"]["milestones"]
    assert [each / recipe["trainer"]["max_epochs"] for each in milestones] == pytest.approx([0.3, 0.6, 0.9])
