import inspect
from typing import Any

import pytest

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
        {"trainer": {"devices": 2}},
        {"trainer": {"num_nodes": 2}},
        {"trainer": {"precision": 32}},
        {"data": {"batch_size": 32}},
        {"data": {"train_transform": {"init_args": {"size": 32}}}},
    ],
)
def test_what_changes_the_speed_makes_another_shape(other: dict[str, Any]) -> None:
    assert shape_of(merge([CONFIG, other])) != shape_of(CONFIG)


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
