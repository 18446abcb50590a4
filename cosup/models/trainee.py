"""What `train_network` is given: batches, what is trained, and where."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cosup.losses.features import Connector, Seen
from cosup.models.classifier import Classifier
from cosup.models.device import Precision
from cosup.models.fit import OnStep
from cosup.models.ranks import Ranks

CPU = torch.device("cpu")

__all__ = ["Batch", "Batches", "Live", "TrainContext", "Trainee"]


@dataclass(frozen=True)
class Batch:
    """One step's samples, on the CPU.

    images: uint8 [B, 3, S, S]. targets: probabilities [Q, C]. weights: [Q], or None for ones.
    labels: true classes [Q] int64 (-1 unknown), or None. teacher: the index [B] int64 of the
    teacher that a live one asks. Q is B, but for episodes, whose logits are of their queries.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor | None = None
    labels: Tensor | None = None
    teacher: Tensor | None = None


Batches = Callable[[int], Iterator[Batch]]
"""The batches from this step (from 0) on; the same ones whatever step they are asked from."""

Live = Callable[[Tensor, Tensor], Seen]
"""What teachers see now: pixels float32 [B, 3, S, S] in 0 .. 255 (but for erased ones) and the
teacher [B] int64 of each -> `Seen`, its logits being log-probabilities."""


@dataclass(frozen=True)
class TrainContext:
    """Where a training runs, and who hears of it.

    seed: of dropout, mixing and erasing. rank, world_size: of distributed processes, each of which
    is given its own slice of every batch; batch norm sees that slice alone, and its running
    statistics are averaged. report: called with the step from 1, the mean loss and metrics; every
    step on a CPU, every 25th elsewhere. state: the file that keeps the loop's state every
    `training.save_every` steps (read and written by rank 0; whoever keeps the trained network
    removes it). saved: told when it was written. identity: a hash of what is trained; the state of
    another one is ignored. wrap: what distributes the module. live_annotations: the live teachers'
    probabilities of the augmented images take the targets' place. settings: what the training
    section is called in errors.
    """

    seed: int = 0
    device: torch.device = CPU
    precision: Precision = "float32"
    rank: int = 0
    world_size: int = 1
    report: OnStep | None = None
    state: Path | None = None
    saved: Callable[[Path], None] | None = None
    identity: str = ""
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    live_annotations: bool = False
    settings: str = "training"

    @property
    def ranks(self) -> Ranks:
        """This process's place."""
        return Ranks(self.rank, self.world_size, self.wrap)


class Trainee(nn.Module):
    """A classifier in training: (pixels, what the teacher sees, progress) -> logits and, where a
    connector compares the two, the per-sample losses of the features.

    Any module with this call can be trained. The connector is thrown away after.
    """

    def __init__(self, classifier: Classifier, connector: Connector | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        self.connector = connector

    def forward(
        self, pixels: Tensor, teacher: Seen | None, progress: float
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [B, C] and losses [B] (or None) of normalised images [B, 3, S, S]."""
        if self.connector is None:
            return self.classifier.model(pixels), None
        assert teacher is not None, "a connector needs live teachers"
        seen = self.classifier.see(pixels)
        return seen.logits, self.connector(seen, teacher, progress)
