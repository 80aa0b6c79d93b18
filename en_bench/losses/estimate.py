"""`en-bench noise estimate RUN`: the transition matrix of a run's labels, estimated from its own predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule
from numpy.typing import NDArray

from en_bench.data.dataset import Batch
from en_bench.data.module import ShardDataModule
from en_bench.data.once import each_once
from en_bench.errors import InputError
from en_bench.files import write_text
from en_bench.losses.cross_entropy import CrossEntropy
from en_bench.noise.matrix_text import matrix_lines
from en_bench.noise.transition import Matrix
from en_bench.one_process import OneProcessCLI, restored, run_verb_of_a_run
from en_bench.tasks.classification import ClassificationTask
from en_bench.trainer import EnBenchTrainer

_AGAINST_OUTLIERS, _SUREST = 97.0, 100.0
_LEAST_SHARE = 0.05  # of the samples, of a class whose surest 3 % are its own
_NAMED = 5


def default_percentile(labels: NDArray[np.int32], classes: int) -> float:
    """97 if each of the classes has 5 % of the `labels` (N,) or more, else 100.

    Where a class has less than 3 %, the sample at the 97th percentile is one of another class. Patrini et al. too take
    the maximum where classes are many.
    """
    counts = np.bincount(labels, minlength=classes)
    return _AGAINST_OUTLIERS if counts.min() >= _LEAST_SHARE * len(labels) else _SUREST


def anchor_transitions(probability: NDArray[np.floating], percentile: float) -> Matrix:
    """T[i, j] = p(label j | x_i), where x_i is the sample that is the surest of label i, but for a few.

    Source: Patrini et al., "Making Deep Neural Networks Robust to Label Noise", CVPR 2017, theorem 3, with the sample
    at the 97th percentile of p(label i) in the place of its maximum, as their released code does against outliers;
    100 is the maximum. Between two samples it is the lower one; of equals the one whose row is the first comes first
    in the order, at 100 too: the last of the surest stands for the class.

    Args:
        probability: (N, C), what the network predicts of labels, rows summing to 1.
        percentile: 0 .. 100.
    """
    position = int(percentile / 100 * (len(probability) - 1))
    anchors = [int(np.argsort(column, kind="stable")[position]) for column in probability.T]
    matrix = probability[anchors].astype(np.float64)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


def doubtful(matrix: Matrix, classes: Sequence[str]) -> str | None:
    """A line that names the classes whose label most often becomes another one; None where there is none."""
    rows = np.flatnonzero(matrix.argmax(axis=1) != np.arange(len(matrix)))
    if not len(rows):
        return None
    named = ", ".join(f"{classes[row]} ({classes[matrix[row].argmax()]})" for row in rows[:_NAMED])
    more = ", …" if len(rows) > _NAMED else ""
    return (
        f"warning: {len(rows)} of {len(matrix)} classes would be called another one more often than their own name: "
        f"{named}{more}: do not trust these rows; try another --percentile, or another epoch's checkpoint"
    )


class EstimatingTrainer(EnBenchTrainer):
    """The trainer of a run, with the verb for what is no training: its device, precision and options apply."""

    def estimate(
        self,
        model: LightningModule,
        datamodule: ShardDataModule,
        ckpt_path: str | None = None,
        out: str | None = None,
        percentile: float | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Estimates how a run's labels are wrong from what its network predicts of its training images.

        Args:
            model: the task.
            datamodule: where the images come from.
            ckpt_path: the checkpoint of the network (default: checkpoints/last.ckpt of RUN).
            out: the file to write, JSON, which --model.loss ForwardCorrection reads.
            percentile: of p(label) among the images, where the one that stands for each class is; 100 is the surest
                (default: 97 if each label has 5 % of the samples or more, else 100).
            weights_only: of no effect; configurations of runs hold it.
        """
        assert isinstance(model, ClassificationTask) and ckpt_path is not None and out is not None
        saved = torch.load(ckpt_path, map_location="cpu", weights_only=True)
        datamodule.setup("fit")
        task = restored(self, model, datamodule, saved)
        try:
            probability, unreadable = self._predict(task, datamodule)
        finally:
            datamodule.teardown("")
        manifest = datamodule.train_manifest
        assert manifest is not None
        labels = datamodule.trained_labels
        used = percentile if percentile is not None else default_percentile(labels[labels >= 0], len(manifest.classes))
        matrix = anchor_transitions(probability, used)
        fields = {
            "classes": list(manifest.classes),
            "matrix": matrix.tolist(),
            "estimated": {
                "method": "anchor points",
                "percentile": used,
                "n": len(probability),
                "unreadable": unreadable,
                "set": datamodule.train,
                "digest": manifest.digest,
                "checkpoint": ckpt_path,
            },
        }
        write_text(Path(out), json.dumps(fields, ensure_ascii=False) + "\n")
        kept = float(np.diag(matrix).mean())
        print(f"{len(probability)} images of {datamodule.train}, {unreadable} unreadable")
        print(f"the image at percentile {used:g} of p(label) stands for each class")
        print("from clean (rows) to the labels that train (columns), estimated, in percent of the row")
        print("\n".join(matrix_lines(matrix, manifest.classes)))
        print(f"a label is kept with probability {kept:.3f}, the mean over {len(matrix)} classes")
        if doubt := doubtful(matrix, manifest.classes):
            print(doubt)
        print(f"wrote {out}", flush=True)

    @torch.no_grad()
    def _predict(self, task: ClassificationTask, data: ShardDataModule) -> tuple[NDArray[np.float32], int]:
        """Softmax (N, C) of each sample that trains, and how many more could not be decoded."""
        targets = data.trained_labels
        samples = int((targets >= 0).sum())
        found = np.empty((samples, len(data.classes)), dtype=np.float32)
        filled, device = 0, self.strategy.root_device
        task.eval()
        for batch in each_once(data, targets):
            here = Batch(*(tensor.to(device) for tensor in batch))
            image = self.precision_plugin.convert_input(data.on_after_batch_transfer(here, 0).image)
            with self.precision_plugin.forward_context():
                logits = task(image)
            valid = logits[here.valid].float().softmax(1).cpu().numpy()
            found[filled : filled + len(valid)] = valid
            filled += len(valid)
        if filled == 0:
            raise InputError(f"none of the {samples} samples of {data.train} can be decoded: prepare it again")
        if not np.isfinite(found[:filled]).all():
            raise InputError("the network predicts what is no number: it diverged; give the checkpoint of another run")
        return found[:filled], samples - filled


class EstimateCLI(OneProcessCLI):
    """The configuration of a run, with flags, to the transition matrix of its labels."""

    PROG = "en-bench noise"
    TRAINER = EstimatingTrainer

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"estimate": {"model", "datamodule"}}

    def before_estimate(self) -> None:
        given = self.config_init.estimate
        if given.out is None:
            raise InputError("estimate needs --out, the file to write")
        if given.percentile is not None and not 0 <= given.percentile <= 100:
            raise InputError(f"--percentile {given.percentile} is not within 0 .. 100: leave it out, or use 97")
        loss = type(self.model.loss).__name__
        if not isinstance(self.model.loss, CrossEntropy) or self.model.mixup:
            trained = loss + (f" and --model.mixup {self.model.mixup}" if self.model.mixup else "")
            raise InputError(
                f"this run trains with {trained}, after which predictions are not the distribution of its labels: "
                "estimate from a run with CrossEntropy and without mixup"
            )
        self.datamodule.open("fit")


def run(argv: list[str]) -> None:
    """Runs `en-bench noise estimate ARGV`. Raises as `run_verb_of_a_run` does."""
    run_verb_of_a_run("estimate", argv, EstimateCLI)
