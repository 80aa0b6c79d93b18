import inspect
from typing import Any

import pytest

from en_bench.matrix.cost.amount import _DEFAULT_LABELS
from en_bench.matrix.cost.shape import Shape, ranks_of, shape_of
from en_bench.matrix.overlays import merge

CONFIG: dict[str, Any] = {
    "trainer": {"devices": 1, "precision": "bf16-mixed"},
    "model": {"backbone": "cifar/resnet8", "norm": {"class_path": "en_bench.norms.ExemplarNorm"}},
    "data": {"batch_size": 64, "train_transform": {"class_path": "PadCropFlip", "init_args": {"size": 40}}},
}


def test_what_overlays_leave_open_has_the_defaults_of_the_classes() -> None:
    from en_bench.data import transforms
    from en_bench.data.module import ShardDataModule
    from en_bench.tasks.classification import ClassificationTask

    def default(of: Any, name: str) -> Any:
        return inspect.signature(of).parameters[name].default

    open_ = shape_of({})
    assert open_.batch == default(ShardDataModule, "batch_size")
    assert open_.backbone == default(ClassificationTask, "backbone")
    assert open_.loss == type(ClassificationTask().loss).__name__ and not open_.remembers
    assert default(ShardDataModule, "labels") == _DEFAULT_LABELS
    assert open_.precision == "32-true" and open_.size is None and open_.ranks is None
    for name in ("PadCropFlip", "ResizedCropFlip"):
        size = default(getattr(transforms, name), "size")
        assert shape_of({"data": {"train_transform": f"en_bench.data.transforms.{name}"}}).size == size


def test_a_shape_in_full() -> None:
    assert shape_of(CONFIG) == Shape("cifar/resnet8", "ExemplarNorm", 64, 1, 40, "bf16-mixed")


@pytest.mark.parametrize(
    "same",
    [
        {"model": {"norm": "ExemplarNorm", "lr": 3, "weight_decay": 1}},
        {"model": {"norm": {"class_path": "ExemplarNorm", "init_args": {}}}},
        {"trainer": {"precision": "bf16", "devices": "1", "max_epochs": 3}},
        {"model": {"loss": {"class_path": "en_bench.losses.CrossEntropy"}, "mixup": 0.0}},
        {"data": {"train": "elsewhere", "labels": "worst"}, "seed_everything": 5},
    ],
)
def test_spelling_data_and_recipe_make_no_other_shape(same: dict[str, Any]) -> None:
    assert shape_of(merge([CONFIG, same])) == shape_of(CONFIG)


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"norm": "BatchNorm"}},
        {"model": {"norm": {"init_args": {"reduction": 8}}}},
        {"model": {"attention": "se"}},
        {"model": {"where": "layer1"}},
        {"model": {"backbone": "cifar/resnet20"}},
        {"model": {"loss": "en_bench.losses.SymmetricCrossEntropy"}},
        {"model": {"mixup": 0.2}},
        {"trainer": {"devices": 2}},
        {"trainer": {"num_nodes": 2}},
        {"trainer": {"precision": 32}},
        {"data": {"batch_size": 32}},
        {"data": {"train_transform": {"init_args": {"size": 32}}}},
    ],
)
def test_what_changes_the_speed_makes_another_shape(other: dict[str, Any]) -> None:
    assert shape_of(merge([CONFIG, other])) != shape_of(CONFIG)


def test_a_loss_is_told_with_what_it_switches_on() -> None:
    def of(**arguments: Any) -> Shape:
        loss = {"class_path": "en_bench.losses.EarlyLearningRegularization", "init_args": arguments}
        return shape_of(merge([CONFIG, {"model": {"loss": loss}}]))

    assert of(beta=0.9) == of(in_host_memory=False) != of(in_host_memory=True)
    assert str(of(in_host_memory=True)).endswith(", EarlyLearningRegularization (in_host_memory)")
    assert str(shape_of(merge([CONFIG, {"model": {"mixup": 1.0}}]))).endswith(", CrossEntropy + mixup")


def test_the_losses_that_remember_samples_are_known() -> None:
    """All of the package that can be made without arguments put their tables into the checkpoint, or none."""
    import torch

    from en_bench import losses
    from en_bench.losses.base import Loss, TrainingFacts

    found = [each for each in vars(losses).values() if inspect.isclass(each) and issubclass(each, Loss)]
    remembering = set()
    for each in found:
        required = [p for p in inspect.signature(each).parameters.values() if p.default is p.empty]
        if required or inspect.isabstract(each):
            continue
        tables: Any = {}
        each().prepare(TrainingFacts(10, 100, torch.device("cpu"), tables))
        named = shape_of({"model": {"loss": each.__name__}})
        assert named.remembers == bool(tables)
        remembering |= {each.__name__} if tables else set()
    assert remembering == {"EarlyLearningRegularization"}


@pytest.mark.parametrize(
    ("trainer", "ranks"),
    [
        ({"devices": 8}, 8),
        ({"devices": [0, 2]}, 2),
        ({"devices": "0,1,3"}, 3),
        ({"devices": 4, "num_nodes": 2}, 8),
        ({"devices": "auto"}, None),
        ({"devices": -1}, None),
        ({}, None),
    ],
)
def test_ranks(trainer: dict[str, Any], ranks: int | None) -> None:
    assert ranks_of(trainer) == ranks
