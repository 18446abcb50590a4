"""The meta stage of a student: from telling all base classes apart to telling a few by examples.

Chen et al., "Meta-Baseline", arXiv 2003.04390; with a weak teacher's supervision, Guo et al.,
"Vision Superalignment", arXiv 2402.03749, few-shot section. An episode's classes are those that its
images are annotated with (their labels, where the student may see them); the target of a query is
its annotation, narrowed to the episode's classes. The published code asks the teacher's own
embedding about the episode instead; here any teacher that annotates will do.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cosup.config.student import MetaSection
from cosup.data.episodes import EpisodePool, Episodes, EpisodeSize
from cosup.data.loader import TrainingBatches
from cosup.data.table import ImageData
from cosup.errors import RunError, UserError
from cosup.losses.base import Objective
from cosup.models.centroids import MetaLearner
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.images import training_transform
from cosup.models.ranks import ALONE
from cosup.models.section import AugmentSection
from cosup.models.train import Batch, TrainContext, train_network
from cosup.student.fit_network import Lesson

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetaStage:
    """How a student goes through the meta stage."""

    section: MetaSection
    augment: AugmentSection
    objective: Objective

    def train(
        self,
        classifier: Classifier,
        data: ImageData,
        lesson: Lesson,
        rows: Tensor,
        seed: int,
        compute: Compute,
        *,
        state: str = "",
        saved: Callable[[Path], None] | None = None,
    ) -> None:
        """Train the classifier's network in place on episodes of the lesson's samples `rows` [n].

        state, saved: as of `fit_network`. Raises `RunError` where too few of them are annotated
        with enough classes.
        """
        section = self.section
        labels = _plentiful(_labels(lesson, rows), section.shots + section.queries)
        try:
            size = EpisodeSize(section.ways, section.shots, section.queries)
            episodes = EpisodePool(labels.numpy()).draw(size, section.steps, seed)
        except UserError as error:
            raise RunError(f"student.meta: the annotations that were kept: {error}") from None
        places = torch.cat([episodes.support.flatten(1), episodes.query.flatten(1)], 1)
        loader = TrainingBatches(
            data,
            lesson.images[rows.numpy()],
            training_transform(self.augment, classifier.input),
            places.shape[1],
            section.steps,
            seed,
            compute.workers if data.images.files else 0,
            order=places.__getitem__,
        )

        def batches(start: int) -> Iterator[Batch]:
            with closing(loader(start)) as stream:
                for step, (images, _) in enumerate(stream, start):
                    yield _batch(images, lesson, rows, episodes, step)

        learner = MetaLearner(
            classifier, section.ways, section.shots, section.queries, section.scale
        )
        train_network(
            learner,
            batches,
            self.objective,
            section.training(),
            section.steps,
            TrainContext(
                seed=seed,
                compute=replace(compute, ranks=ALONE),
                state=compute.state_file(state),
                saved=saved,
                settings="student.meta",
            ),
            classifier.pixels,
        )
        classifier.cpu()


def _labels(lesson: Lesson, rows: Tensor) -> Tensor:
    """[n] the class that each sample counts as: its label where that is known, else annotated."""
    annotated, mass = lesson.targets.top()
    annotated = torch.where(mass > 0, annotated, -1)
    given = lesson.guidance.labels
    return (annotated if given is None else torch.where(given >= 0, given, annotated))[rows]


def _plentiful(labels: Tensor, least: int) -> Tensor:
    """[n] the labels, -1 for classes of fewer than `least` samples: a weak teacher may hardly ever
    name a class."""
    counts = torch.bincount(labels[labels >= 0])
    few = counts < least
    if bool((few & (counts > 0)).any()):
        log.warning(
            "meta stage: %d classes have fewer than %d annotated samples and are left out",
            int((few & (counts > 0)).sum()),
            least,
        )
    return torch.where((labels >= 0) & ~few[labels.clamp_min(0)], labels, -1)


def _batch(images: Tensor, lesson: Lesson, rows: Tensor, episodes: Episodes, step: int) -> Batch:
    """An episode: targets [N * Q, N] of its queries, over the classes of the episode."""
    classes = episodes.classes[step]
    query = rows[episodes.query[step].flatten()]
    targets = lesson.targets.dense(query)[:, classes]
    total = targets.sum(1, keepdim=True)
    labels = None
    if lesson.guidance.labels is not None:
        ways = torch.arange(len(classes))
        labels = ways[:, None].expand(-1, episodes.query.shape[2]).flatten()
    return Batch(
        images,
        targets / torch.where(total > 0, total, 1),
        lesson.weights[query],
        labels,
    )
