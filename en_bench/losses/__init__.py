"""Losses for training under noisy labels, each as its paper defines it, with its paper's defaults."""

from en_bench.losses.base import BatchFacts, Loss, TrainingFacts
from en_bench.losses.bootstrapping import Bootstrapping
from en_bench.losses.cross_entropy import CrossEntropy, LabelSmoothing
from en_bench.losses.early_learning import EarlyLearningRegularization
from en_bench.losses.forward import ForwardCorrection
from en_bench.losses.robust import GeneralizedCrossEntropy, SymmetricCrossEntropy

__all__ = [
    "BatchFacts",
    "Bootstrapping",
    "CrossEntropy",
    "EarlyLearningRegularization",
    "ForwardCorrection",
    "GeneralizedCrossEntropy",
    "LabelSmoothing",
    "Loss",
    "SymmetricCrossEntropy",
    "TrainingFacts",
]
