"""A trainer for verbs that take a checkpoint's network as it is and train nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from en_bench.tasks.classification import ClassificationTask
from en_bench.trainer import EnBenchTrainer


class RestoringTrainer(EnBenchTrainer):
    """The trainer of a run: its device, precision and options apply."""

    def restored(self, task: ClassificationTask, classes: Sequence[str], saved: dict[str, Any]) -> ClassificationTask:
        """The task with a checkpoint's weights, on the trainer's device and in its precision.

        `classes` count where the checkpoint does not tell its own.
        """
        classes = saved.get("en_bench", {}).get("classes", classes)
        task.num_classes = task.num_classes if task.num_classes is not None else len(classes)
        task.pretrained = False  # whatever it started from, its weights are in the checkpoint
        task.configure_model()
        task.on_load_checkpoint(saved)
        task.load_state_dict(saved["state_dict"])
        self.precision_plugin.convert_module(task)
        task.to(self.strategy.root_device)
        return task
