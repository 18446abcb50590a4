"""Launchers run the trainings of students, in this process or in others."""

from collections.abc import Sequence
from typing import Protocol

from cosup.data.loader import ImageRows, image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.models.classifier import Classifier, predict_network
from cosup.models.compute import Compute
from cosup.models.fitted import FittedHeads
from cosup.models.heads import HeadBank
from cosup.models.watch import OnStep
from cosup.probabilities import ProbTable
from cosup.student.jobs import HeadJob, NetworkJob

__all__ = ["Launcher", "LocalLauncher", "predict_images"]


class Launcher(Protocol):
    """Runs jobs, in this process or in others, with equal results.

    compute: this process's compute context. Other processes use their own, and keep the states of
    unfinished trainings in this one's `scratch`.
    """

    def heads(self, job: HeadJob, compute: Compute, on_step: OnStep | None) -> HeadBank:
        """Return the fitted heads, on the CPU."""
        ...

    def heads_together(
        self, jobs: Sequence[HeadJob], compute: Compute, on_step: OnStep | None
    ) -> list[HeadBank]:
        """Return the fitted heads of each job, on the CPU; on_step: reports the first job."""
        ...

    def room(self) -> int:
        """Return how many networks are trained at once, at least 1."""
        ...

    def networks(
        self,
        jobs: Sequence[NetworkJob],
        data: ImageData,
        compute: Compute,
        on_step: OnStep | None,
    ) -> list[Classifier]:
        """Return the classifier of each job, trained and on the CPU; on_step: reports the first.

        The jobs do not depend on each other, and may be trained side by side. Raises the error of
        the first that fails, after the others have ended.
        """
        ...

    def predict(self, network: Classifier, inputs: ImageRows, compute: Compute) -> ProbTable:
        """Return a network's class probabilities of images, as `predict_images` does."""
        ...


class LocalLauncher:
    """Runs jobs in this process, and of equal heads the first only.

    kept_bytes: memory for heads that later jobs may ask for again (`cosup.models.fitted`).
    """

    def __init__(self, kept_bytes: int = 0) -> None:
        self.fitted = FittedHeads(kept_bytes)

    def heads(self, job: HeadJob, compute: Compute, on_step: OnStep | None) -> HeadBank:
        """Return the fitted heads."""
        return self.heads_together([job], compute, on_step)[0]

    def heads_together(
        self, jobs: Sequence[HeadJob], compute: Compute, on_step: OnStep | None
    ) -> list[HeadBank]:
        """Return the fitted heads of each job; jobs that draw the same batches share a loop."""
        anew = any(job.recorded for job in jobs)
        return self.fitted.fit(jobs, compute, on_step, anew=anew)

    def room(self) -> int:
        """Return 1: networks are trained in turn."""
        return 1

    def networks(
        self,
        jobs: Sequence[NetworkJob],
        data: ImageData,
        compute: Compute,
        on_step: OnStep | None,
    ) -> list[Classifier]:
        """Return the classifiers, trained in turn."""
        return [
            job.run(data, compute, None if place else on_step) for place, job in enumerate(jobs)
        ]

    def predict(self, network: Classifier, inputs: ImageRows, compute: Compute) -> ProbTable:
        """Return a network's class probabilities of images."""
        return predict_images(network, inputs, compute)


def predict_images(network: Classifier, inputs: ImageRows, compute: Compute) -> ProbTable:
    """Return class probabilities of images, without augmentation, a row per image."""
    transform, size = eval_transform(network.input), compute.batch_size
    batches = image_batches(
        inputs.data, inputs.rows, transform, size, compute.workers, pinned=compute.pins
    )
    return predict_network(network, batches, compute)
