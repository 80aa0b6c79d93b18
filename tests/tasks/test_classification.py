"""The task in a real Trainer, on real shards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from en_bench.data.dataset import Batch
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop, PadCropFlip
from en_bench.errors import InputError
from en_bench.norms import ExemplarNorm, GroupNorm, Norm, SparseSwitchNorm
from en_bench.tasks.classification import ClassificationTask
from en_bench.tasks.schedules import CosineSchedule, Length, StepSchedule


def data(root: Path, cls: type[ShardDataModule] = ShardDataModule, **options: Any) -> ShardDataModule:
    chosen = {"batch_size": 20, "seed": 0, **options}
    return cls("a/train", "a/val", PadCropFlip(32), CenterCrop(32), root=str(root), **chosen)


def trainer(folder: Path, **options: Any) -> Trainer:
    chosen = {"max_epochs": 1, "num_sanity_val_steps": 0, **options}
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **chosen,
    )


class DropsTheLastBatch(ShardDataModule):
    def val_dataloader(self) -> Any:
        loader = super().val_dataloader()
        loader.sampler.count = 80
        return loader


def test_a_wrong_number_of_validated_samples_is_an_error(shards, tmp_path):
    task = ClassificationTask(backbone="cifar/resnet8")
    with pytest.raises(InputError, match="validated 80 samples of a/val, which has 93: each must count exactly once"):
        trainer(tmp_path).validate(task, data(shards, DropsTheLastBatch), verbose=False)


def test_the_sanity_check_may_see_a_part(shards, tmp_path):
    task = ClassificationTask(backbone="cifar/resnet8")
    run = trainer(tmp_path, num_sanity_val_steps=2, max_steps=1, limit_val_batches=1.0)
    run.fit(task, data(shards))
    assert run.global_step == 1


def test_the_learning_rate_follows_the_schedule_step_by_step(shards, tmp_path):
    seen = []

    class Watch(ClassificationTask):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            seen.append([group["lr"] for group in optimizer.param_groups])

    task = Watch(backbone="cifar/resnet8", lr=0.2, warmup_epochs=0.5)
    trainer(tmp_path, max_epochs=2).fit(task, data(shards))
    assert len(seen) == 20  # 200 samples in batches of 20, twice
    assert seen == [[0.2 * CosineSchedule().factor(step, Length(20, 5, 10))] * 2 for step in range(20)]


@pytest.mark.parametrize(("accumulate", "per_epoch"), [(1, 10), (4, 3)])
def test_steps_fall_at_the_first_step_of_their_epoch(shards, tmp_path, accumulate, per_epoch):
    seen = []

    class Watch(ClassificationTask):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            seen.append((self.trainer.current_epoch, optimizer.param_groups[0]["lr"]))

    task = Watch(backbone="cifar/resnet8", lr=0.4, warmup_epochs=0, schedule=StepSchedule([1, 2], gamma=0.5))
    trainer(tmp_path, max_epochs=3, accumulate_grad_batches=accumulate).fit(task, data(shards))
    # 200 samples in batches of 20; of ten batches in fours the last step has two.
    assert seen == [(epoch, lr) for epoch, lr in enumerate([0.4, 0.2, 0.1]) for _ in range(per_epoch)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_images_and_weights_are_channels_last_and_finite(shards, tmp_path, precision):
    task = ClassificationTask(backbone="cifar/resnet8", norm=ExemplarNorm)
    trainer(tmp_path, max_steps=2, precision=precision).fit(task, data(shards))
    assert task.network is not None
    for module in task.network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.isfinite(parameter).all() for parameter in task.parameters())


def test_every_normaliser_of_the_network_is_swapped(shards, tmp_path):
    task = ClassificationTask(backbone="torchvision/resnet18", norm=GroupNorm)
    trainer(tmp_path, fast_dev_run=1).validate(task, data(shards), verbose=False)
    assert task.network is not None and task.swap_report is not None
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in task.network.modules())
    assert task.swap_report.swapped == sum(isinstance(m, Norm) for m in task.network.modules()) == 20


def test_a_network_without_normalisers_to_swap_is_refused(shards, tmp_path):
    task = ClassificationTask(backbone="torchvision/vgg11", norm=ExemplarNorm)
    with pytest.raises(InputError, match=r"torchvision/vgg11 has no normaliser to swap: leave --model.norm out"):
        trainer(tmp_path).validate(task, data(shards), verbose=False)


def test_loaders_of_ones_own_need_the_number_of_classes(tmp_path):
    class Rows(TensorDataset):
        def __getitem__(self, i: int) -> Batch:
            return Batch(self.tensors[0][i], self.tensors[1][i], torch.tensor(True), torch.tensor(i))

    loader = DataLoader(Rows(torch.randn(6, 3, 32, 32), torch.arange(6) % 3), batch_size=3)
    with pytest.raises(InputError, match=r"the number of classes is unknown: give --model.num_classes"):
        trainer(tmp_path).validate(ClassificationTask(), loader, verbose=False)
    scores = trainer(tmp_path).validate(ClassificationTask(num_classes=3), loader, verbose=False)[0]
    assert scores["val/n"] == 6


def test_sparse_normalisers_are_annealed_by_the_progress_of_the_training(shards, tmp_path):
    radii = []

    class Watch(ClassificationTask):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            assert self.network is not None
            radii.append({float(m.radius) for m in self.network.modules() if isinstance(m, SparseSwitchNorm)})

    task = Watch(backbone="cifar/resnet8", norm=SparseSwitchNorm)
    trainer(tmp_path).fit(task, data(shards))
    # 10 batches; the circumradius of three corners is sqrt(2 / 3)
    expected = [min(step / 10 / (2 / 3) ** 0.5, 1.0) for step in range(10)]
    assert [len(radius) for radius in radii] == [1] * 10
    assert [radius.pop() for radius in radii] == pytest.approx(expected)


def test_where_and_preserve_reach_the_swap(shards, tmp_path):
    task = ClassificationTask(
        backbone="timm/resnet18", norm=ExemplarNorm, inherit="preserve", where=r"layer[34]\.", lr=1e-9
    )
    trainer(tmp_path, fast_dev_run=1).validate(task, data(shards), verbose=False)
    assert task.network is not None and task.swap_report is not None
    assert task.swap_report.preserved == "yes"
    assert 0 < task.swap_report.swapped == sum(isinstance(m, Norm) for m in task.network.modules()) < 20
    assert isinstance(task.network.get_submodule("bn1"), nn.BatchNorm2d)
