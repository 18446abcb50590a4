"""Formulas of losses on the probabilities of one sample, in plain float64 Python."""

import math


def softmax(row: list[float], tau: float = 1.0) -> list[float]:
    powers = [math.exp(value / tau) for value in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(target: list[float], probs: list[float]) -> float:
    return -sum(t * math.log(p) for t, p in zip(target, probs, strict=True))


def divergence(target: list[float], probs: list[float]) -> float:
    return sum(t * math.log(t / p) for t, p in zip(target, probs, strict=True) if t > 0)


def soften(target: list[float], tau: float) -> list[float]:
    powers = [t ** (1 / tau) for t in target]
    return [power / sum(powers) for power in powers]
