"""What is recorded of a training while it runs: at which steps, and the accuracy on other samples.

Recording changes no number: nothing is drawn at random, and the network is left as it was.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.losses.base import Metrics
from cosup.models.classifier import Classifier, evaluating, predict_network
from cosup.models.compute import Compute
from cosup.models.heads import HeadBank
from cosup.seeds import forked_seeds

__all__ = [
    "LEARNING_RATE",
    "MOST_WATCHED",
    "TEST",
    "VALIDATION",
    "OnHeads",
    "OnStep",
    "Watched",
    "head_accuracy",
    "is_watched",
    "learning_rate",
    "network_accuracy",
    "recorded",
]

OnStep = Callable[[int, float, Metrics], None]
"""Called after a step (from 1) with the mean loss of the heads or the network, and metrics."""
OnHeads = Callable[[int, Tensor], None]
"""Called after a step (from 1) with the mean loss of each head [H]."""

RECORD_EVERY = 50
WATCHES = 10
"""About how often the accuracy is computed during a training."""
MOST_WATCHED = 512
"""Samples that it is computed on, at most."""
LEARNING_RATE = "learning_rate"
VALIDATION = "validation_accuracy"
TEST = "test_accuracy"


@dataclass(frozen=True)
class Watched:
    """Samples that are not trained on, whose accuracy is recorded during a training.

    inputs: features [V, D], or for a network rows of the sample table [V]. labels: [V] int64.
    steps: after which it is recorded; None: about `WATCHES` of them. name: of the metric.
    """

    inputs: Tensor
    labels: Tensor
    steps: frozenset[int] | None = None
    name: str = VALIDATION

    def at(self, step: int, total: int) -> bool:
        """Return whether the accuracy is recorded after this step (from 1)."""
        return is_watched(step, total) if self.steps is None else step in self.steps


def recorded(step: int, total: int | None) -> bool:
    """Return whether this step (from 1) of a training of `total` steps is recorded."""
    return step in (1, total) or step % RECORD_EVERY == 0


def is_watched(step: int, total: int) -> bool:
    """Return whether the accuracy is recorded after this step (from 1), which is recorded too."""
    every = RECORD_EVERY * -(-total // (RECORD_EVERY * WATCHES))
    return step == total or step % every == 0


def learning_rate(optimizer: torch.optim.Optimizer) -> Metrics:
    """Return the largest rate of the optimiser's groups, as a metric."""
    return {LEARNING_RATE: torch.tensor(max(float(g["lr"]) for g in optimizer.param_groups))}


@torch.inference_mode()
def head_accuracy(bank: HeadBank, watched: Watched) -> Metrics:
    """Return the share of samples that the first head has right, as a metric."""
    device = bank.weight.device
    logits = bank.select(0)(watched.inputs.to(device, torch.float32))
    return {watched.name: (logits.argmax(-1).cpu() == watched.labels).double().mean()}


def network_accuracy(
    classifier: Classifier, batches: Iterable[Tensor], labels: Tensor, compute: Compute
) -> Metrics:
    """Return the share of images that a network in training has right, as a metric.

    batches: uint8 [B, 3, S, S], not augmented. labels: [V] int64 of all of them.
    """
    with evaluating(classifier), forked_seeds(0, compute.device):
        answers = predict_network(classifier, batches, compute).top()[0]
    return {VALIDATION: (answers == labels).double().mean()}
