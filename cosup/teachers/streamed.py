"""Train a linear teacher on the features of augmented images, which are computed step by step.

The features of an image that is cropped at random are new in every step, so that none are cached:
each step decodes its images, runs the backbone and updates the head. A killed training starts
again.
"""

from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.data.loader import TrainingBatches
from cosup.losses.base import Objective
from cosup.models.head_steps import HeadMonitor, finished, take_step, weighted_mean
from cosup.models.heads import HeadBank, build_heads
from cosup.models.images import training_transform
from cosup.models.optimize import build_optimizer, set_rate
from cosup.models.samples import Draws, one_hot
from cosup.models.section import HeadSection
from cosup.progress import working_on
from cosup.seeds import seed_for, torch_generator
from cosup.teachers.base import ScopedCrossEntropy, Training, learned_classes
from cosup.teachers.features import FeatureSource
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.rows import drawn_rows

__all__ = ["fit_streamed"]


def fit_streamed(
    spec: TeacherSpec, source: FeatureSource, training: Training, steps: int
) -> HeadBank:
    """Fit the head of one teacher for so many steps; return a bank of it on the CPU.

    Raises `UserError` for an augmentation that cannot be made, `RunError` for an unreadable image
    and for a loss that is not finite.
    """
    setting, compute, data = spec.training, training.compute, training.data
    seed, classes = seed_for(training.seed, "teachers", spec.name), len(data.classes)
    batches = _batches(spec, source, training, steps, seed)
    labels = data.given(batches.rows)
    start, features = HeadSection(start=spec.model.start), source.backbone.num_features
    bank = build_heads(start, 1, features, classes, seed).to(compute.device)
    objective = Objective(ScopedCrossEntropy(learned_classes(spec, classes)[None]))
    optimizer = build_optimizer(bank, setting)
    monitor = HeadMonitor(setting, steps, compute)
    monitor.on_heads = lambda step, loss: training.report(spec.name, step, float(loss), steps)
    what = f"training {spec.name} on augmented images: step"
    with closing(batches()) as stream, working_on(what, steps) as advance:
        for step, (images, positions) in enumerate(stream):
            set_rate(optimizer, setting, step, steps)
            wanted = one_hot(labels[positions].to(compute.device), classes)[None]
            losses, metrics = objective(
                bank(_features(source, images)), wanted, step / max(1, steps - 1)
            )
            by_head = weighted_mean(losses, None)
            take_step(bank, optimizer, monitor, step, by_head, metrics)
            advance(1)
    monitor.end()
    return finished(bank, setting, steps)


def _features(source: FeatureSource, images: Tensor) -> Tensor:
    """Return the features [B, D] of images, outside inference mode, so that a head learns."""
    with torch.no_grad():
        found: Tensor = source.backbone(images)
    return found


def _batches(
    spec: TeacherSpec, source: FeatureSource, training: Training, steps: int, seed: int
) -> TrainingBatches:
    """Return the augmented images of each step."""
    setting = spec.training
    rows, chances = drawn_rows(spec, training.data, training.rows)
    size, independent = setting.batch_for(len(rows)), setting.sampling == "independent"
    return TrainingBatches(
        training.data,
        rows,
        training_transform(setting.augment, source.backbone.input),
        size,
        steps,
        seed,
        training.compute.workers,
        order=_Independent(torch.from_numpy(chances), size, seed) if independent else None,
    )


@dataclass(frozen=True)
class _Independent:
    """Positions that are drawn anew in each step. chances: [N] of the samples."""

    chances: Tensor
    size: int
    seed: int

    def __call__(self, step: int) -> Tensor:
        """Return the positions [size] of a step (from 0)."""
        generator = torch_generator(self.seed, "batches", step)
        return Draws(torch.arange(len(self.chances)), generator, self.chances).draw(self.size)
