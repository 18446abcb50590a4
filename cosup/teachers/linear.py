"""What linear teachers share: those of a level that have the same budget are fitted together."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cosup.data.table import ImageData
from cosup.errors import about
from cosup.models.fit import fit_heads
from cosup.models.heads import HeadBank
from cosup.models.section import HeadSection
from cosup.probabilities import ProbTable
from cosup.seeds import seed_for
from cosup.teachers.base import Rows, Training, training_rows
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.scoped_loss import ScopedCrossEntropy

__all__ = ["Fitted", "fit_level", "labels_as_targets"]

Fitted = tuple[HeadBank, int]
"""A bank of one head, and the steps it was trained for."""


def fit_level(
    specs: Sequence[TeacherSpec], rows: Rows, features: Tensor, training: Training
) -> list[Fitted]:
    """One linear head per teacher, each on its scope's samples.

    rows: [N] rows of teacher_train, ascending; features: [N, D] of them. Teachers with the same
    number of steps share one batched loop, so a teacher's numbers depend on its companions.
    """
    members = [
        torch.from_numpy(np.searchsorted(rows, training_rows(spec, training.data)))
        for spec in specs
    ]
    groups: dict[int, list[int]] = defaultdict(list)
    for position, own in enumerate(members):
        groups[training.section.training.total_steps(len(own))].append(position)
    targets = labels_as_targets(training.data, rows)
    fitted: dict[int, Fitted] = {}
    for steps, positions in groups.items():
        chosen = [specs[position] for position in positions]
        with about(f"teachers {', '.join(spec.name for spec in chosen)}"):
            parts = [members[position] for position in positions]
            bank = _fit(chosen, parts, features, targets, steps, training)
        fitted.update((p, (bank.select(h), steps)) for h, p in enumerate(positions))
    return [fitted[position] for position in range(len(specs))]


def labels_as_targets(data: ImageData, rows: Rows) -> ProbTable:
    """The given labels of labelled samples, one-hot and compact."""
    labels = data.given(rows)
    count, classes = len(labels), len(data.classes)
    parts = []
    for start in range(0, count, 65536):
        part = labels[start : start + 65536]
        parts.append(ProbTable.compress(torch.nn.functional.one_hot(part, classes).float()))
    return ProbTable.concat(parts)


def _fit(
    specs: Sequence[TeacherSpec],
    members: list[Tensor],
    features: Tensor,
    targets: ProbTable,
    steps: int,
    training: Training,
) -> HeadBank:
    names = "+".join(spec.name for spec in specs)
    classes = targets.num_classes
    support = torch.stack(
        [
            torch.isin(torch.arange(classes), torch.tensor(spec.classes or range(classes)))
            for spec in specs
        ]
    )
    return fit_heads(
        features,
        targets,
        members=members,
        head=HeadSection(kind="linear"),
        training=training.section.training,
        loss=ScopedCrossEntropy(support),
        num_classes=classes,
        seed=seed_for(training.seed, "teachers", names),
        steps=steps,
        device=training.resources.device,
        on_step=lambda step, loss, _: training.report(names, step, loss),
    )
