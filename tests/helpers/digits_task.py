"""Small real task: scikit-learn's digits, pixels as features, class specialists.

It has two levels: a weak generalist, and two specialists of five classes each.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from cosup.assignment import Agreement, Assigner
from cosup.config.schema import StudentSection
from cosup.consistency import Chain, Filter
from cosup.evidence import Scopes, Truth
from cosup.levels import ArrayAnnotations, Level, Task
from cosup.losses import CrossEntropy, Objective
from cosup.models.compute import Compute
from cosup.models.section import BackboneSection
from cosup.models.training_section import TrainingSection
from cosup.protocols import Student
from cosup.recipe import NewStudent, Recipe
from cosup.student.head import HeadStudent
from cosup.student.setup import StudentSetup

BLOCKS: list[list[int] | None] = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
CLASSES = 10


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels [1797, 64] in 0 .. 1 and labels, shuffled once."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return pixels[order].astype(np.float32) / 16, labels[order]


def weak_inputs(pixels: np.ndarray) -> np.ndarray:
    """Return the inputs of weak teachers: digits of 4 x 4 pixels."""
    return pixels.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(len(pixels), 16)


def annotate(block: list[int] | None, train: slice, rows: slice) -> Tensor:
    """Return probabilities [n, 10] of a logistic regression trained on a block's samples."""
    pixels, labels = digits()
    inside = np.isin(labels[train], block if block is not None else range(CLASSES))
    model = LogisticRegression(max_iter=300, C=10.0)
    model.fit(weak_inputs(pixels[train])[inside], labels[train][inside])
    probs = np.zeros((len(pixels[rows]), CLASSES), dtype=np.float32)
    probs[:, model.classes_] = model.predict_proba(weak_inputs(pixels[rows]))
    return torch.from_numpy(probs)


@cache
def digits_task(samples: int = 900) -> tuple[Task, Tensor]:
    """Return the task and its test labels; 300 samples train the teachers."""
    pixels, labels = digits()
    train, rows, test = slice(0, 300), slice(300, 300 + samples), slice(1300, 1797)
    features = torch.from_numpy(pixels)
    levels = []
    for index, blocks in enumerate(([None], BLOCKS)):
        stacked = torch.stack([annotate(block, train, rows) for block in blocks], 1)
        scopes = Scopes.of(blocks, CLASSES)
        truth = Truth(torch.from_numpy(labels[train]), torch.zeros(300, dtype=torch.int64))
        provenance = (features[train], scopes.hold(truth).float())
        levels.append(Level(index, scopes, ArrayAnnotations(stacked), provenance))
    truth = Truth(torch.from_numpy(labels[rows]), torch.zeros(samples, dtype=torch.int64))
    inputs = features[rows]
    task = Task(tuple(levels), inputs, features[test], truth, CLASSES, inputs, truth.labels)
    return task, torch.from_numpy(labels[test])


def student_section(**changes: object) -> StudentSection:
    """Return the settings of a linear head trained for 150 steps."""
    settings = {
        "backbone": BackboneSection(name="none"),
        "training": TrainingSection(steps=150, batch_size=64, lr=0.03),
        **changes,
    }
    return StudentSection.model_validate(settings)


def class_prototypes() -> Tensor:
    """Return prototypes [10, 64] in place of text features: class means of five images."""
    pixels, labels = digits()
    rows = [np.flatnonzero(labels[:300] == label)[:5] for label in range(CLASSES)]
    return torch.from_numpy(np.stack([pixels[found].mean(0) for found in rows]))


def new_student(
    folds: Tensor | None = None, prototypes: Tensor | None = None, **changes: object
) -> NewStudent:
    """Return a function that builds head students."""

    def make(objective: Objective, seed: int) -> Student:
        section = student_section(**changes)
        device = torch.device("cpu")
        setup = StudentSetup(section, CLASSES, Compute(device), folds)
        return HeadStudent(setup, objective, seed, prototypes)

    return make


def recipe(
    make: NewStudent,
    assigner: Assigner | None = None,
    filters: Mapping[str, Filter] | None = None,
    objective: Objective | None = None,
    **settings: Any,
) -> Recipe:
    """Return a recipe: by default agreement, no filter and cross-entropy."""
    filters = filters or {}
    return Recipe(
        assigner=assigner or Agreement(),
        objective=objective or Objective(CrossEntropy()),
        new_student=make,
        filters=Chain(list(filters), list(filters.values())),
        **settings,
    )
