"""Every loss against its paper's formula in float64, values and gradients, and against values worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from en_bench.errors import InputError
from en_bench.losses import (
    BatchFacts,
    Bootstrapping,
    CrossEntropy,
    EarlyLearningRegularization,
    ForwardCorrection,
    GeneralizedCrossEntropy,
    LabelSmoothing,
    Loss,
    SymmetricCrossEntropy,
    TrainingFacts,
)
from tests.losses import formulas

B, C = 6, 4
TARGET = [0, 3, 2, 2, 1, 0]
T = np.array([[0.7, 0.1, 0.1, 0.1], [0.0, 0.6, 0.4, 0.0], [0.05, 0.05, 0.8, 0.1], [0.3, 0.0, 0.0, 0.7]])


def logits(seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(B, C)) * scale


def facts(count: int = B, step: int = 0, epoch: int = 0) -> BatchFacts:
    return BatchFacts(torch.arange(count), step, epoch)


@pytest.fixture(scope="module")
def matrix_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("matrix") / "T.json"
    path.write_text(json.dumps({"classes": list("abcd"), "matrix": T.tolist()}))
    return path


def prepared(loss: Loss, samples: int | None = B, classes: int = C) -> Loss:
    loss.prepare(TrainingFacts(classes, samples, torch.device("cpu"), {}))
    return loss


CASES: dict[str, tuple[Callable[[str], Loss], Callable[[np.ndarray], float], int]] = {
    "ce": (lambda _: CrossEntropy(), lambda x: formulas.cross_entropy(x, TARGET), 0),
    "ls": (lambda _: LabelSmoothing(), lambda x: formulas.smoothed(x, TARGET, 0.1), 0),
    "gce": (lambda _: GeneralizedCrossEntropy(), lambda x: formulas.generalized(x, TARGET, 0.7), 0),
    "gce truncated": (
        lambda _: GeneralizedCrossEntropy(0.5, k=0.3, k_from_epoch=2),
        lambda x: formulas.generalized(x, TARGET, 0.5, 0.3),
        2,
    ),
    "gce not yet truncated": (
        lambda _: GeneralizedCrossEntropy(0.5, k=0.3, k_from_epoch=2),
        lambda x: formulas.generalized(x, TARGET, 0.5),
        1,
    ),
    "sce": (lambda _: SymmetricCrossEntropy(), lambda x: formulas.symmetric(x, TARGET, 0.1, 1.0, -4.0), 0),
    "sce of CIFAR-100": (
        lambda _: SymmetricCrossEntropy(6.0, 0.1, -3.0),
        lambda x: formulas.symmetric(x, TARGET, 6.0, 0.1, -3.0),
        0,
    ),
    "bootstrap soft": (lambda _: Bootstrapping(), lambda x: formulas.bootstrapped(x, TARGET, 0.95, hard=False), 0),
    "bootstrap hard": (lambda _: Bootstrapping(True), lambda x: formulas.bootstrapped(x, TARGET, 0.8, hard=True), 0),
    "forward": (lambda path: ForwardCorrection(path), lambda x: formulas.forward_corrected(x, TARGET, T), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_papers(case, matrix_file):
    make, formula, epoch = CASES[case]
    loss = prepared(make(str(matrix_file)))
    for seed in range(3):
        x = logits(seed)
        given = torch.tensor(x, requires_grad=True)
        value = loss(given, torch.tensor(TARGET), facts(epoch=epoch))
        value.backward()
        assert value.item() == pytest.approx(formula(x), rel=1e-12)
        np.testing.assert_allclose(given.grad, formulas.gradient(formula, x), atol=1e-9)
        narrow = loss(torch.tensor(x, dtype=torch.bfloat16), torch.tensor(TARGET), facts(epoch=epoch))
        assert narrow.dtype == torch.float32
    given = torch.tensor(logits(9), requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: loss(z, torch.tensor(TARGET), facts(epoch=epoch)), given)


def test_early_learning_over_three_visits():
    """Value, gradient (through p alone) and running targets, also by the paper's own gradient (lemma 2)."""
    loss = prepared(EarlyLearningRegularization(strength=3.0, beta=0.7))
    t = np.zeros((B, C))
    for visit in range(3):
        x = logits(visit)
        given = torch.tensor(x, requires_grad=True)
        value = loss(given, torch.tensor(TARGET), facts(step=visit))
        value.backward()
        t = formulas.running_targets(x, t, 0.7)
        assert value.item() == pytest.approx(formulas.early_learning(x, TARGET, t, 3.0), rel=1e-6)  # t is float32
        numeric = formulas.gradient(lambda z: formulas.early_learning(z, TARGET, t, 3.0), x)  # noqa: B023
        np.testing.assert_allclose(given.grad, numeric, atol=1e-6)
        p = formulas.probabilities(x)
        inner = (p * t).sum(1, keepdims=True)
        by_lemma = p - np.eye(C)[TARGET] + 3.0 * p / (1 - inner) * (inner - t)
        np.testing.assert_allclose(given.grad, by_lemma / B, atol=1e-6)
    np.testing.assert_allclose(loss._table.read(torch.arange(B)), t, atol=1e-6)


def test_early_learning_of_a_sure_network():
    """Where p is clamped it sums to 1 again in t, and not in the inner product."""
    loss = prepared(EarlyLearningRegularization())
    x = logits(scale=20.0)
    value = loss(torch.tensor(x), torch.tensor(TARGET), facts())
    t = formulas.running_targets(x, np.zeros((B, C)), 0.7)
    np.testing.assert_allclose(loss._table.values, t, atol=1e-6)
    assert value.item() == pytest.approx(formulas.early_learning(x, TARGET, t, 3.0), rel=1e-6)


def test_early_learning_keeps_rows_apart():
    loss = prepared(EarlyLearningRegularization(beta=0.5), samples=10)
    x = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
    loss(x, torch.tensor([0, 1]), BatchFacts(torch.tensor([7, 2]), 0, 0))
    values = loss._table.values
    assert values[[0, 1, 3, 4, 5, 6, 8, 9]].abs().max() == 0
    torch.testing.assert_close(values[[7, 2]], 0.5 * x.softmax(1))
    assert loss._table.written.tolist() == [-1, -1, 0, -1, -1, -1, -1, 0, -1, -1]


def test_two_samples_by_hand(matrix_file):
    """p = (1/2, 1/4, 1/8, 1/8) with label 0 and p = (1/4, 1/4, 1/4, 1/4) with label 2."""
    x = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64).log() + 3.0
    y, two = torch.tensor([0, 2]), math.log(2)

    def value(loss: Loss) -> float:
        return float(prepared(loss)(x, y, facts(2)))

    assert value(CrossEntropy()) == pytest.approx(1.5 * two)
    # 0.1 / 4 of all four, 0.9 of the label: (0.9 + 0.025 * 9) and (1.8 + 0.025 * 8) logs of 2
    assert value(LabelSmoothing(0.1)) == pytest.approx((1.125 + 2.0) / 2 * two)
    assert value(GeneralizedCrossEntropy(0.5)) == pytest.approx((2 * (1 - 0.5**0.5) + 2 * (1 - 0.5)) / 2)
    assert value(SymmetricCrossEntropy(0.1, 1.0, -4.0)) == pytest.approx(0.15 * two + (4 * 0.5 + 4 * 0.75) / 2)
    assert value(Bootstrapping()) == pytest.approx((0.95 * 1 + 0.05 * 1.75 + 2.0) / 2 * two)
    assert value(Bootstrapping(hard=True)) == pytest.approx((1.0 + 2.0) / 2 * two)
    # (p T)_0 = 0.5 * 0.7 + 0.125 * 0.05 + 0.125 * 0.3, (p T)_2 = 0.25 * (0.1 + 0.4 + 0.8 + 0)
    forward = -(math.log(0.35 + 0.00625 + 0.0375) + math.log(0.325)) / 2
    assert value(ForwardCorrection(str(matrix_file))) == pytest.approx(forward)
    # At the first visit t = 0.3 p: <p, t> = 0.3 * (1/4 + 1/16 + 1/64 + 1/64), and 0.3 / 4
    regular = 3 * (math.log(1 - 0.3 * 0.34375) + math.log(1 - 0.075)) / 2
    assert value(EarlyLearningRegularization()) == pytest.approx(1.5 * two + regular)


def test_limits(tmp_path):
    x, y = torch.tensor(logits()), torch.tensor(TARGET)
    identity = tmp_path / "I.npy"
    np.save(identity, np.eye(C))
    plain = CrossEntropy()(x, y, facts())
    for loss in (
        GeneralizedCrossEntropy(1e-9),
        LabelSmoothing(0.0),
        Bootstrapping(beta=1.0),
        Bootstrapping(True, beta=1.0),
        SymmetricCrossEntropy(1.0, 0.0),
        ForwardCorrection(str(identity)),
        EarlyLearningRegularization(strength=0.0),
    ):
        torch.testing.assert_close(prepared(loss)(x, y, facts()), plain, rtol=1e-8, atol=0)
    p = x.softmax(1)[torch.arange(B), y]
    torch.testing.assert_close(GeneralizedCrossEntropy(1.0)(x, y, facts()), (1 - p).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", [*CASES, "elr"])
def test_extreme_logits_stay_finite(case, dtype, matrix_file):
    make, epoch = (EarlyLearningRegularization, 0) if case == "elr" else (CASES[case][0], CASES[case][2])
    loss = prepared(make() if case == "elr" else make(str(matrix_file)))
    for right in (True, False):  # sure of the label, sure of another
        x = torch.full((B, C), -1e4)
        x[torch.arange(B), (torch.tensor(TARGET) + (0 if right else 1)) % C] = 1e4
        x = x.to(dtype).requires_grad_()
        for step in range(3):
            value = loss(x, torch.tensor(TARGET), facts(step=step, epoch=epoch))
            (slope,) = torch.autograd.grad(value, x)
            assert value.isfinite() and slope.isfinite().all()


def test_autocast_does_not_reach_the_loss():
    x, y = torch.tensor(logits(), dtype=torch.float32), torch.tensor(TARGET)
    loss = LabelSmoothing()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(x, y, facts())
    assert inside.dtype == torch.float32 and inside == loss(x, y, facts())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LabelSmoothing(1.0), "smoothing 1.0"),
        (lambda: GeneralizedCrossEntropy(0.0), "q 0.0 is not above 0"),
        (lambda: GeneralizedCrossEntropy(float("nan")), "q nan"),
        (lambda: GeneralizedCrossEntropy(k=1.0), "k 1.0"),
        (lambda: GeneralizedCrossEntropy(k=float("nan")), "k nan"),
        (lambda: LabelSmoothing(float("nan")), "smoothing nan"),
        (lambda: SymmetricCrossEntropy(alpha=float("nan")), "alpha nan"),
        (lambda: SymmetricCrossEntropy(beta=float("inf")), "beta inf"),
        (lambda: SymmetricCrossEntropy(A=float("nan")), "A nan"),
        (lambda: Bootstrapping(beta=float("nan")), "beta nan"),
        (lambda: EarlyLearningRegularization(strength=float("inf")), "strength inf"),
        (lambda: EarlyLearningRegularization(beta=float("nan")), "beta nan"),
        (lambda: GeneralizedCrossEntropy(k=0.5, k_from_epoch=-1), "k_from_epoch -1"),
        (lambda: SymmetricCrossEntropy(0.0, 0.0), "not both 0"),
        (lambda: SymmetricCrossEntropy(A=0.0), "an A below 0"),
        (lambda: Bootstrapping(beta=1.5), "beta 1.5"),
        (lambda: EarlyLearningRegularization(beta=1.0), "beta 1.0"),
        (lambda: EarlyLearningRegularization(strength=-1.0), "strength -1.0"),
        (lambda: prepared(EarlyLearningRegularization(), samples=None), "train it with a ShardDataModule"),
    ],
)
def test_values_outside_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
