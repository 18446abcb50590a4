"""Trainings of a student, which a launcher runs (`cosup.student.launcher`).

A job holds everything that its training reads except the images, which each process reads itself.
"""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosup.data.loader import TrainingBatches, image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.errors import within
from cosup.layout.folders import PENDING
from cosup.losses.base import Metrics, Objective
from cosup.losses.features import Connector, FeatureLoss
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.head_fit import HeadFit
from cosup.models.images import TwoViews, training_transform
from cosup.models.loop_state import StateFile, States
from cosup.models.ranks import check_slices
from cosup.models.train import Batch, Batches, TrainContext, TrainModule, train_network
from cosup.models.training_section import TrainingSection
from cosup.models.watch import OnStep, Watched, network_accuracy
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance
from cosup.seeds import seed_for

__all__ = [
    "HeadJob",
    "Lesson",
    "NetworkJob",
]


@dataclass(frozen=True)
class HeadJob(HeadFit):
    """Fits a student's heads together; the other fields are those of `HeadFit`.

    recorded: somebody records the steps, so that they are taken even if equal heads are there.
    """

    recorded: bool = False


@dataclass(frozen=True)
class Lesson:
    """N samples and what a network learns from them.

    images: [N] rows of the sample table. targets: N rows. weights: [N]; 0 leaves a sample out.
    guidance: true labels and live teachers, where they are used.
    """

    images: NDArray[np.int64]
    targets: ProbTable
    weights: Tensor
    guidance: Guidance

    def batch(self, images: Tensor, rows: Tensor) -> Batch:
        """Return the batch of these rows [B]. images: [B, 3, S, S], augmented, or [B, 6, S, S] with
        the images without augmentation after them."""
        plain = images[:, 3:] if images.shape[1] > 3 else None
        labels, teacher = self.guidance.labels, self.guidance.teacher
        mixture = self.guidance.mixture
        return Batch(
            images[:, :3],
            self.targets.dense(rows),
            self.weights[rows],
            None if labels is None else labels[rows],
            None if teacher is None else teacher[rows],
            None if mixture is None else mixture[rows],
            plain,
        )


@dataclass(frozen=True)
class NetworkJob:
    """Trains a whole network on a lesson.

    classifier: the network before training. rows: [n] rows of the lesson to train on. steps:
    optimiser steps. name: of the training among those of one run. live_annotations: replace the
    targets by the live teachers' annotations of the augmented images. hard: by their most probable
    class. watched: images whose
    accuracy is recorded.
    """

    classifier: Classifier
    lesson: Lesson
    rows: Tensor
    objective: Objective
    training: TrainingSection
    steps: int
    seed: int
    name: str
    live_annotations: bool = False
    hard: bool = False
    watched: Watched | None = None

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps."""
        return self.steps

    @property
    def asks_live(self) -> bool:
        """Whether live teachers are run during the training."""
        return self.live_annotations or isinstance(self.objective.loss, FeatureLoss)

    def on_cpu(self) -> Self:
        """Return it as it is sent to another process: with its teachers on the CPU, and without
        those that it does not ask."""
        guidance = self.lesson.guidance
        live = guidance.live if self.asks_live else None
        if isinstance(live, nn.Module):
            live = copy.deepcopy(live).cpu()
        return replace(self, lesson=replace(self.lesson, guidance=replace(guidance, live=live)))

    def teachers_to(self, device: torch.device) -> None:
        """Move its teachers to the device of this process."""
        if isinstance(self.lesson.guidance.live, nn.Module):
            self.lesson.guidance.live.to(device)

    def workers(self, most: int) -> int:
        """Return how many workers train it together, of `most` that there are.

        Raises `UserError` for batches that they cannot share.
        """
        check_shares(self.training, len(self.rows), most)
        return most

    def run(
        self,
        data: ImageData,
        compute: Compute,
        on_step: OnStep | None = None,
        states: States | None = None,
    ) -> Classifier:
        """Train the classifier in place; return it on the CPU.

        states: keeps the state; by default a file in `compute.scratch`. Raises `UserError` for
        feature maps that cannot be paired and for batches that the ranks cannot share, `RunError`
        for a loss that is not finite.
        """
        self.workers(compute.ranks.size)
        context = TrainContext(
            seed=self.seed,
            compute=compute,
            report=on_step,
            states=states or self.own_states(data, compute),
            identity=self.identity(data),
            live=self.lesson.guidance.live if self.asks_live else None,
            live_annotations=self.live_annotations,
            hard=self.hard,
            settings="student.training",
            watch=None if self.watched is None else partial(self._accuracy, data, compute),
        )
        module = TrainModule(self.classifier, self._connector())
        batches = self.batches(data, compute)
        pixels = self.classifier.pixels
        train_network(module, batches, self.objective, self.training, self.steps, context, pixels)
        return self.classifier.cpu()

    def batches(self, data: ImageData, compute: Compute) -> Batches:
        """Return the function of a step that yields the batches from there on."""
        loader = self._loader(data, compute)

        def batches(start: int) -> Iterator[Batch]:
            with closing(loader(start)) as stream:
                for images, positions in stream:
                    yield self.lesson.batch(images, self.rows[positions])

        return batches

    def state_name(self, data: ImageData) -> str:
        """Return the name under which the state of the unfinished training is kept.

        It is another one for other targets: controls train students of one seed.
        """
        return f"{self.name}-{self.identity(data)[:12]}{PENDING}"

    def own_states(self, data: ImageData, compute: Compute) -> States | None:
        """Return the file of the state in `compute.scratch`, if there is such a folder."""
        if compute.scratch is None:
            return None
        return StateFile(compute.scratch / self.state_name(data))

    def identity(self, data: ImageData) -> str:
        """Hash what is learned: a state stored for other targets must not be resumed."""
        lesson = self.lesson
        digest = hashlib.sha256(f"{data.fingerprint}{self.objective!r}".encode())
        tensors = {**lesson.targets.tensors(), "weights": lesson.weights, "rows": self.rows}
        if self.live_annotations:
            digest.update(f"live {self.hard}".encode())
            if lesson.guidance.mixture is not None:
                tensors["mixture"] = lesson.guidance.mixture
        for name, tensor in sorted(tensors.items()):
            content = tensor.contiguous().flatten().view(torch.uint8).numpy().data
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def _accuracy(self, data: ImageData, compute: Compute, module: nn.Module) -> Metrics:
        """Return the accuracy on the watched images of the classifier in a `TrainModule`."""
        assert isinstance(module, TrainModule)
        assert self.watched is not None
        classifier, rows = module.classifier, self.watched.inputs.numpy()
        size, transform = compute.batch_size, eval_transform(classifier.input)
        batches = image_batches(data, rows, transform, size, compute.workers, pinned=compute.pins)
        return network_accuracy(classifier, batches, self.watched.labels, compute)

    def _connector(self) -> Connector | None:
        """Build the layers that compare feature maps; None for other losses."""
        loss, live = self.objective.loss, self.lesson.guidance.live
        if not isinstance(loss, FeatureLoss):
            return None
        assert live is not None, "a loss on feature maps needs networks as teachers"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(self.seed, "connector"))
            return loss.connect(self.classifier.shapes(), live.shapes)

    def _loader(self, data: ImageData, compute: Compute) -> TrainingBatches:
        ranks = compute.ranks
        spec = self.classifier.input
        augmented = training_transform(self.training.augment, spec)
        both = self.objective.own_labels and self.objective.true_label_weight
        return TrainingBatches(
            data,
            self.lesson.images[self.rows.numpy()],
            TwoViews(augmented, eval_transform(spec)) if both else augmented,
            self.training.batch_for(len(self.rows), ranks.size),
            self.steps,
            seed_for(self.seed, "batches"),
            compute.workers if data.images.files else 0,
            ranks.rank,
            ranks.size,
        )


def check_shares(training: TrainingSection, samples: int, workers: int) -> None:
    """Raise `UserError` if workers cannot share the batches of this many samples."""
    with within("student.training"):
        batch = training.batch_for(samples, workers)
        check_slices(batch, workers, training.accumulate, training.mixing.active)
