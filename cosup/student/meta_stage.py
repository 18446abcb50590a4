"""The meta stage of few-shot learning: the student learns to tell a few classes apart by examples.

Chen et al., "Meta-Baseline", arXiv 2003.04390; with a weak teacher's supervision, Guo et al.,
"Vision Superalignment", arXiv 2402.03749, few-shot section. The classes of an episode are those
that its images are annotated with (their labels, where the student may use them). The target of a
query is its annotation, restricted to the episode's classes, so that any teacher will do; or, as in
the published code, the answer of a network by its own embedding of the episode
(`cosup.student.episode_teacher`).
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

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
from cosup.models.loop_state import States
from cosup.models.train import Batch, Batches, TrainContext, train_network
from cosup.models.training_section import AugmentSection
from cosup.models.watch import OnStep
from cosup.seeds import seed_for
from cosup.student.episode_teacher import EpisodeTeacher, meta_trained, single_network
from cosup.student.jobs import Lesson, NetworkJob
from cosup.teachers.live import LiveTeachers

__all__ = ["MetaJob", "MetaStage"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetaStage:
    """Settings of the meta stage: its section, image augmentation and objective."""

    section: MetaSection
    augment: AugmentSection
    objective: Objective

    def job(self, classifier: Classifier, lesson: Lesson, rows: Tensor, seed: int) -> "MetaJob":
        """Return the job that trains the classifier on the lesson's samples `rows` [n]."""
        training, name = self.section.training(), f"{seed}-meta"
        steps, meta_seed = self.section.steps, seed_for(seed, "meta")
        return MetaJob(
            classifier, lesson, rows, self.objective, training, steps, meta_seed, name, stage=self
        )


@dataclass(frozen=True)
class MetaJob(NetworkJob):
    """Trains a whole network on episodes of a lesson.

    An episode is one batch that workers cannot share, so one trains alone.
    """

    stage: MetaStage = field(kw_only=True)

    def workers(self, most: int) -> int:
        """Return 1."""
        return 1

    @property
    def asks_live(self) -> bool:
        """Whether the teacher answers the episodes itself; controls without teachers have none."""
        live = self.lesson.guidance.live
        return self.stage.section.teacher != "annotations" and live is not None

    def identity(self, data: ImageData) -> str:
        """Hash what is learned, and who answers the episodes."""
        found = super().identity(data)
        return f"{found}-{self.stage.section.teacher}" if self.asks_live else found

    def run(
        self,
        data: ImageData,
        compute: Compute,
        on_step: OnStep | None = None,
        states: States | None = None,
    ) -> Classifier:
        """Train the classifier in place; return it on the CPU.

        Raises `RunError` if too few samples are annotated with enough classes.
        """
        section, pixels = self.stage.section, self.classifier.pixels
        batches = self._episode_batches(data, compute)
        context = TrainContext(
            seed=self.seed,
            compute=compute,
            states=states or self.own_states(data, compute),
            identity=self.identity(data),
            settings="student.meta",
        )
        counts = section.ways, section.shots, section.queries
        if self.asks_live:
            teacher = EpisodeTeacher(self._teacher(batches, context), *counts)
            context = replace(context, live=teacher, live_annotations=True)
        learner = MetaLearner(self.classifier, *counts, section.scale)
        train_network(learner, batches, self.objective, self.training, self.steps, context, pixels)
        return self.classifier.cpu()

    def _teacher(self, batches: Batches, context: TrainContext) -> LiveTeachers:
        """Return the teacher that answers the episodes, after its own meta stage if it has one."""
        section, live = self.stage.section, self.lesson.guidance.live
        assert live is not None
        teacher = single_network(live)
        if section.teacher == "centroids":
            return teacher.to(context.compute.device)

        def labelled(start: int) -> Iterator[Batch]:
            for batch in batches(start):
                yield replace(batch, labels=self._ways(), weights=None)

        learner = section.ways, section.shots, section.queries, section.scale
        return meta_trained(teacher, labelled, self.training, self.steps, context, learner)

    def _ways(self) -> Tensor:
        """Return the way of each query of a step."""
        section = self.stage.section
        ways = torch.arange(section.ways).repeat_interleave(section.queries)
        return ways.repeat(section.episodes_per_step)

    def _episode_batches(self, data: ImageData, compute: Compute) -> Batches:
        """Return the function of a step that yields the batches from there on."""
        episodes = self._episodes()
        loader = self._episode_loader(data, compute, episodes)
        known = self.lesson.guidance.labels is not None
        ways, count = self._ways() if known else None, self.stage.section.episodes_per_step

        def batches(start: int) -> Iterator[Batch]:
            with closing(loader(start)) as stream:
                for step, (images, _) in enumerate(stream, start):
                    own = range(step * count, (step + 1) * count)
                    yield _batch(images, self.lesson, self.rows, episodes, own, ways)

        return batches

    def _episodes(self) -> Episodes:
        section = self.stage.section
        classes = _sample_classes(self.lesson, self.rows)
        labels = _drop_rare(classes, section.shots + section.queries)
        try:
            size = EpisodeSize(section.ways, section.shots, section.queries)
            count = section.steps * section.episodes_per_step
            return EpisodePool(labels.numpy()).draw(size, count, self.seed)
        except UserError as error:
            raise RunError(f"student.meta: the annotations that were kept: {error}") from None

    def _episode_loader(
        self, data: ImageData, compute: Compute, episodes: Episodes
    ) -> TrainingBatches:
        places = torch.cat([episodes.support.flatten(1), episodes.query.flatten(1)], 1)
        places = places.view(self.steps, -1)
        return TrainingBatches(
            data,
            self.lesson.images[self.rows.numpy()],
            training_transform(self.stage.augment, self.classifier.input),
            places.shape[1],
            self.steps,
            self.seed,
            compute.workers if data.images.files else 0,
            order=places.__getitem__,
        )


def _sample_classes(lesson: Lesson, rows: Tensor) -> Tensor:
    """Return the class [n] of each sample: its label where known, else the annotated class."""
    annotated, mass = lesson.targets.top()
    annotated = torch.where(mass > 0, annotated, -1)
    given = lesson.guidance.labels
    return (annotated if given is None else torch.where(given >= 0, given, annotated))[rows]


def _drop_rare(labels: Tensor, least: int) -> Tensor:
    """Return the labels [n], with -1 for classes of fewer than `least` samples.

    A weak teacher may hardly ever predict some class.
    """
    counts = torch.bincount(labels[labels >= 0])
    few = counts < least
    if bool((few & (counts > 0)).any()):
        log.warning(
            "meta stage: %d classes have fewer than %d annotated samples and are left out",
            int((few & (counts > 0)).sum()),
            least,
        )
    return torch.where((labels >= 0) & ~few[labels.clamp_min(0)], labels, -1)


def _batch(
    images: Tensor,
    lesson: Lesson,
    rows: Tensor,
    episodes: Episodes,
    own: range,
    ways: Tensor | None,
) -> Batch:
    """Return the batch of a step: targets [e * N * Q, N] of the queries of its own e episodes, over
    the classes of each.

    ways: labels of the queries, where the student may use them.
    """
    targets, weights = [], []
    for number in own:
        query = rows[episodes.query[number].flatten()]
        inside = lesson.targets.dense(query)[:, episodes.classes[number]]
        total = inside.sum(1, keepdim=True)
        targets.append(inside / torch.where(total > 0, total, 1))
        weights.append(lesson.weights[query])
    first = torch.zeros(len(images), dtype=torch.int64)
    return Batch(images, torch.cat(targets), torch.cat(weights), ways, first)
