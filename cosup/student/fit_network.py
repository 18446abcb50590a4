"""Fitting a whole network to annotations: what a student is given, as batches to train on."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.data.loader import TrainingBatches
from cosup.data.table import ImageData
from cosup.errors import inside
from cosup.losses.base import Objective
from cosup.losses.features import FeatureLoss
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.fit import OnStep
from cosup.models.images import training_transform
from cosup.models.ranks import ALONE, Ranks, check_slices
from cosup.models.section import TrainingSection
from cosup.models.train import Batch, TrainContext, Trainee, train_network
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance
from cosup.seeds import seed_for


@dataclass(frozen=True)
class Lesson:
    """N samples and what they are annotated with.

    images: their rows [N] of the sample table. targets: N rows; weights [N] (0: left out).
    guidance: what else teaches.
    """

    images: NDArray[np.int64]
    targets: ProbTable
    weights: Tensor
    guidance: Guidance

    def batch(self, images: Tensor, rows: Tensor) -> Batch:
        """The batch of these rows [B], whose augmented images these are."""
        labels, teacher = self.guidance.labels, self.guidance.teacher
        return Batch(
            images,
            self.targets.dense(rows),
            self.weights[rows],
            None if labels is None else labels[rows],
            None if teacher is None else teacher[rows],
        )


def fit_network(
    classifier: Classifier,
    data: ImageData,
    lesson: Lesson,
    rows: Tensor,
    objective: Objective,
    training: TrainingSection,
    steps: int,
    compute: Compute,
    seed: int,
    *,
    live_annotations: bool = False,
    state: str = "",
    on_step: OnStep | None = None,
    ranks: Ranks = ALONE,
    saved: Callable[[Path], None] | None = None,
) -> None:
    """Train the classifier in place on the lesson's samples `rows` [n] of the data.

    state: the name of the file in `compute.scratch` that keeps an unfinished training; saved: told
    when it was written. ranks: of several processes that train the same classifier together. Raises
    `UserError` for feature maps that can't be paired and for batches that the ranks can't share,
    `RunError` for a loss that is not finite.
    """
    check_shares(training, len(rows), ranks.size)
    live = lesson.guidance.live
    connector = None
    if isinstance(objective.loss, FeatureLoss):
        assert live is not None, "a loss on feature maps needs networks as teachers"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "connector"))
            connector = objective.loss.connect(classifier.shapes(), live.shapes)
    loader = TrainingBatches(
        data,
        lesson.images[rows.numpy()],
        training_transform(training.augment, classifier.input),
        training.batch_for(len(rows), ranks.size),
        steps,
        seed_for(seed, "batches"),
        compute.workers if data.images.files else 0,
        ranks.rank,
        ranks.size,
    )

    def batches(start: int) -> Iterator[Batch]:
        with closing(loader(start)) as stream:
            for images, positions in stream:
                yield lesson.batch(images, rows[positions])

    context = TrainContext(
        seed=seed,
        compute=replace(compute, ranks=ranks),
        report=on_step,
        state=compute.state_file(state),
        saved=saved,
        identity=_identity(data, lesson, rows),
        live=live if connector is not None or live_annotations else None,
        live_annotations=live_annotations,
        settings="student.training",
    )
    module = Trainee(classifier, connector)
    train_network(module, batches, objective, training, steps, context, classifier.pixels)


def check_shares(training: TrainingSection, samples: int, workers: int) -> None:
    """Raise `UserError` where so many workers can't share the batches of so many samples."""
    with inside("student.training"):
        batch = training.batch_for(samples, workers)
        check_slices(batch, workers, training.accumulate, training.mixing.active)


def _identity(data: ImageData, lesson: Lesson, rows: Tensor) -> str:
    """A hash of what is learnt: a state that was kept for other targets is not gone on with."""
    digest = hashlib.sha256(data.fingerprint.encode())
    tensors = {**lesson.targets.tensors(), "weights": lesson.weights, "rows": rows}
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
