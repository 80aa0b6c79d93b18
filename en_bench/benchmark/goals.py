"""What the project wants its normalisers to cost."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from en_bench.benchmark.contenders import CONTROL, OBVIOUS, RIVALS

FIRST_USE_S = {"first": 45.0, "second": 8.0}
MEMORY = 1.02
CPU_STEPS = {
    ("timm/resnet50", "float32"): 1.03,
    ("timm/resnet50", "bfloat16"): 1.15,
    ("cifar/resnet20", "float32"): 1.06,
    ("cifar/resnet20", "bfloat16"): 1.18,
}
CUDA_STEPS = {False: 1.15, True: 1.05}  # by whether both sides are compiled
CUDA_LAYERS = 1.1


class Goal(NamedTuple):
    """Upper bounds of the geometric mean of ratios and of the worst one, and what would be better still."""

    mean: float
    worst: float | None = None
    stretch: tuple[float, float] | None = None

    def __str__(self) -> str:
        bounds = f"<= {self.mean:.2f}" + (f" and {self.worst:.2f}" if self.worst is not None else "")
        return bounds + (f" (stretch {self.stretch[0]:.2f} and {self.stretch[1]:.2f})" if self.stretch else "")

    def verdict(self, mean: float, worst: float) -> str:
        if mean > self.mean or (self.worst is not None and worst > self.worst):
            missed = [f"by {mean / self.mean - 1:.0%}"] if mean > self.mean else []
            if self.worst is not None and worst > self.worst:
                missed.append(f"worst by {worst / self.worst - 1:.0%}")
            return "missed " + ", ".join(missed)
        stretched = self.stretch is not None and mean <= self.stretch[0] and worst <= self.stretch[1]
        return "met, and the stretch" if stretched else "met"


_MIXTURES = {
    "float32": Goal(0.95, 1.8, (0.90, 1.5)),
    "bfloat16": Goal(1.15, 1.8, (1.0, 1.5)),
}


def layer_goal(kind: str, norm: str, against: str, dtype: str) -> Goal | None:
    """For a normaliser on a `kind` of device; None for what the project has set no goal for."""
    mixture = norm in ("ExemplarNorm", "SwitchNorm")
    if not (mixture or norm == "BatchNorm" or norm in RIVALS) or against == "nn.LayerNorm(C, H, W)":
        return None
    if kind == "cuda":
        return Goal(CUDA_LAYERS) if dtype == "bfloat16" else None
    return _MIXTURES[dtype] if mixture else Goal(1.0, 1.3)


def step_goal(kind: str, norm: str, case: Mapping[str, Any]) -> Goal | None:
    if norm == CONTROL or norm in OBVIOUS:
        return None
    if kind == "cuda":
        fits = case["dtype"] == "bfloat16" and (case["network"], case["batch"]) == ("timm/resnet50", 256)
        return Goal(CUDA_STEPS[case["compiled"]]) if fits else None
    bound = None if case["compiled"] else CPU_STEPS.get((case["network"], case["dtype"]))
    return None if bound is None else Goal(bound)
