"""The losses of the papers, once more: in numpy, float64, sample by sample, from probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def probabilities(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def cross_entropy(logits: Array, target: list[int]) -> float:
    return float(np.mean([-np.log(p[y]) for p, y in zip(probabilities(logits), target, strict=True)]))


def smoothed(logits: Array, target: list[int], smoothing: float) -> float:
    total = 0.0
    for p, y in zip(probabilities(logits), target, strict=True):
        for k in range(len(p)):
            q = (1 - smoothing) * (k == y) + smoothing / len(p)
            total -= q * np.log(p[k])
    return total / len(target)


def generalized(logits: Array, target: list[int], q: float, k: float | None = None) -> float:
    total = 0.0
    for p, y in zip(probabilities(logits), target, strict=True):
        inside = p[y] if k is None or p[y] > k else k
        total += (1 - inside**q) / q
    return total / len(target)


def symmetric(logits: Array, target: list[int], alpha: float, beta: float, a: float) -> float:
    total = 0.0
    for p, y in zip(probabilities(logits), target, strict=True):
        log_label = [0.0 if k == y else a for k in range(len(p))]
        total += -alpha * np.log(p[y]) - beta * sum(p[k] * log_label[k] for k in range(len(p)))
    return total / len(target)


def bootstrapped(logits: Array, target: list[int], beta: float, hard: bool) -> float:
    total = 0.0
    for p, y in zip(probabilities(logits), target, strict=True):
        own = np.eye(len(p))[int(np.argmax(p))] if hard else p
        mixed = beta * np.eye(len(p))[y] + (1 - beta) * own
        total -= float(np.sum(mixed * np.log(p)))
    return total / len(target)


def forward_corrected(logits: Array, target: list[int], matrix: Array) -> float:
    total = 0.0
    for p, y in zip(probabilities(logits), target, strict=True):
        total -= np.log((matrix.T @ p)[y])
    return total / len(target)


def running_targets(logits: Array, before: Array, beta: float) -> Array:
    """t of early-learning regularisation after a visit."""
    p = np.clip(probabilities(logits), 1e-4, 1 - 1e-4)
    return beta * before + (1 - beta) * p / p.sum(axis=1, keepdims=True)


def early_learning(logits: Array, target: list[int], t: Array, strength: float) -> float:
    p = np.clip(probabilities(logits), 1e-4, 1 - 1e-4)
    inner = (p * t).sum(axis=1)
    return cross_entropy(logits, target) + strength * float(np.mean(np.log(1 - inner)))


def gradient(loss: Callable[[Array], float], logits: Array, step: float = 1e-6) -> Array:
    """By central differences."""
    found = np.zeros_like(logits)
    for place in np.ndindex(*logits.shape):
        shift = np.zeros_like(logits)
        shift[place] = step
        found[place] = (loss(logits + shift) - loss(logits - shift)) / (2 * step)
    return found
