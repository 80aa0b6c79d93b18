"""A pass of a network, with the ratios of whatever normaliser has some."""

import numpy as np
import torch
from torch import Tensor

from en_bench.audit.checkpoint_pass import run_pass
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop
from en_bench.norms import InstanceNorm
from en_bench.norms.moments import Moments
from en_bench.tasks.classification import ClassificationTask
from en_bench.trainer import EnBenchTrainer


class Halved(InstanceNorm):
    """A normaliser that is no ExemplarNorm and has ratios: of each sample the mean over channels, squashed."""

    @property
    def ratio_names(self) -> tuple[str, ...]:
        return ("some", "rest")

    def sample_ratios(self, sample: Moments, batch: Moments | None, *params: Tensor) -> Tensor:
        some = sample.mean.mean(1).sigmoid()
        return torch.stack([some, 1 - some], 1)


def test_every_normaliser_with_ratios_has_them(shards, tmp_path):
    trainer = EnBenchTrainer(accelerator="cpu", devices=1, logger=False, default_root_dir=str(tmp_path))
    data = ShardDataModule(
        "a/train", "a/val", CenterCrop(32), CenterCrop(32), str(shards), batch_size=32, val_batch_size=7, seed=0
    )
    data.setup("fit")
    task = ClassificationTask(backbone="cifar/resnet8", norm=Halved, num_classes=len(data.classes))
    task.configure_model()
    seen: list[Tensor] = []
    layers = [(name, layer) for name, layer in task.network.named_modules() if isinstance(layer, Halved)]
    layers[0][1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean((2, 3)).mean(1).sigmoid()))
    targets = data.trained_labels.copy()
    targets[3] = -1
    passed = run_pass(trainer, task, data, targets, with_ratios=True)
    assert [ratios.layer for ratios in passed.ratios] == [name for name, _ in layers]
    first = passed.ratios[0]
    assert first.normalisers == ("some", "rest") and first.values.shape == (len(targets), 2)
    rows = np.flatnonzero(targets >= 0)
    np.testing.assert_allclose(first.values[rows, 0], torch.cat(seen).numpy(), rtol=1e-5)
    assert np.isnan(first.values[3]).all() and all(np.isfinite(r.values[rows]).all() for r in passed.ratios)
    assert run_pass(trainer, task, data, targets, with_ratios=False).ratios == ()
