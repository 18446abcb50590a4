"""Trainings of a student as things that can be handed to another process, and who carries them out.

A job holds all that its training reads but the images, which every process reads for itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from cosup.data.table import ImageData
from cosup.losses.base import Objective
from cosup.losses.features import FeatureLoss
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.fit import HeadFit, OnStep, fit_heads
from cosup.models.heads import HeadBank
from cosup.models.ranks import ALONE, Ranks
from cosup.models.section import TrainingSection
from cosup.student.fit_network import Lesson, check_shares, fit_network
from cosup.student.meta_stage import MetaStage

__all__ = ["HeadJob", "Launcher", "LocalLauncher", "NetworkJob"]

Saved = Callable[[Path], None]
"""Told when the state of an unfinished training was written."""


class HeadJob(HeadFit):
    """Heads of a student to be fitted together; the fields are those of `HeadFit`."""

    def check(self, workers: int) -> None:
        """Raise `UserError` for batches that so many workers can't share."""
        check_shares(self.training, self.largest, workers)

    def run(
        self, device: torch.device, ranks: Ranks = ALONE, on_step: OnStep | None = None
    ) -> HeadBank:
        """Return the fitted heads, on the CPU. Raises `RunError` for a loss that is not finite."""
        return fit_heads(self, Compute(device, ranks=ranks), on_step)


@dataclass(frozen=True)
class NetworkJob:
    """A network to be trained; the fields as of `fit_network`.

    classifier: as it starts. meta: the stage to train it by instead; an episode is one batch, so
    the first rank does that alone.
    """

    classifier: Classifier
    lesson: Lesson
    rows: Tensor
    objective: Objective
    training: TrainingSection
    steps: int
    seed: int
    state: str
    live_annotations: bool = False
    meta: MetaStage | None = None

    @property
    def asks_live(self) -> bool:
        """Whether the level's teachers are asked while it trains."""
        return self.live_annotations or isinstance(self.objective.loss, FeatureLoss)

    def check(self, workers: int) -> None:
        """Raise `UserError` for batches that so many workers can't share."""
        if self.meta is None:
            check_shares(self.training, len(self.rows), workers)

    def run(
        self,
        data: ImageData,
        compute: Compute,
        ranks: Ranks = ALONE,
        on_step: OnStep | None = None,
        saved: Saved | None = None,
    ) -> Classifier:
        """The classifier, trained in place and on the CPU. Raises as the training does."""
        if self.meta is not None:
            if ranks.rank == 0:
                self.meta.train(
                    self.classifier,
                    data,
                    self.lesson,
                    self.rows,
                    self.seed,
                    compute,
                    state=self.state,
                    saved=saved,
                )
            return self.classifier.cpu()
        fit_network(
            self.classifier,
            data,
            self.lesson,
            self.rows,
            self.objective,
            self.training,
            self.steps,
            compute,
            self.seed,
            live_annotations=self.live_annotations,
            state=self.state,
            on_step=on_step,
            ranks=ranks,
            saved=saved,
        )
        return self.classifier.cpu()


class Launcher(Protocol):
    """Who carries out trainings, in this process or elsewhere; the same ones either way."""

    def heads(self, job: HeadJob, device: torch.device, on_step: OnStep | None) -> HeadBank:
        """The fitted heads, on the CPU; `device` is this process's."""
        ...

    def network(
        self, job: NetworkJob, data: ImageData, compute: Compute, on_step: OnStep | None
    ) -> Classifier:
        """The job's classifier, trained and on the CPU; `compute` is this process's, but its
        `scratch` keeps the state wherever the training is."""
        ...


class LocalLauncher:
    """In this process."""

    def heads(self, job: HeadJob, device: torch.device, on_step: OnStep | None) -> HeadBank:
        """The fitted heads."""
        return job.run(device, on_step=on_step)

    def network(
        self, job: NetworkJob, data: ImageData, compute: Compute, on_step: OnStep | None
    ) -> Classifier:
        """The trained classifier."""
        return job.run(data, compute, on_step=on_step)
