"""Small training jobs of students on real digits."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.config.student import MetaSection
from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.table import ImageData
from cosup.losses import CrossEntropy, Objective
from cosup.losses.fitnet import FitNet
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.compute import Compute
from cosup.models.heads import HeadBank
from cosup.models.training_section import AugmentSection, TrainingSection
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance
from cosup.student.jobs import Lesson, NetworkJob
from cosup.student.meta_stage import MetaStage
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.live import LiveTeachers
from cosup.teachers.network import NetworkTeacher

CPU = torch.device("cpu")
EVERYTHING = {
    "ema": 0.9,
    "clip": 1.0,
    "accumulate": 2,
    "save_every": 3,
    "mixing": {"mixup": 0.4, "cutmix": 1.0},
    "augment": {"crop": "padded", "padding": 1, "flip": 0.5, "erase": 0.5},
}

DIGITS = {
    "source": "digits",
    "rotations": [0],
    "splits": {"teacher_train": 0.3, "student_train": 0.4, "test": 0.3},
}
DATA: ImageData = load_data(DataSection.model_validate(DIGITS), 0, 1, None)


def pixels(row: int) -> NDArray[np.uint8]:
    """Return a digit as the input of a network, [3, 16, 16]."""
    return np.asarray(DATA.read(row).convert("RGB").resize((16, 16))).transpose(2, 0, 1).copy()


def lesson(samples: int | None = None) -> Lesson:
    """Return digits of student_train with their labels and unequal weights."""
    rows = DATA.rows("student_train")[:samples]
    labels = DATA.truth(rows).labels
    weights = (torch.arange(len(rows)) % 3 + 1).float() / 3
    return Lesson(rows, ProbTable.one_hot(labels, 10), weights, Guidance(labels))


def training(**changes: Any) -> TrainingSection:
    return TrainingSection.model_validate({"steps": 8, "batch_size": 32, "lr": 0.01, **changes})


def network_job(
    name: str = "cifar_resnet8", samples: int | None = None, **changes: Any
) -> NetworkJob:
    found = lesson(samples)
    setting = training(**changes)
    classifier = build_classifier(name, 10, None, 16, 1)
    rows = torch.arange(len(found.images))
    objective = Objective(CrossEntropy())
    return NetworkJob(
        classifier, found, rows, objective, setting, setting.total_steps(len(rows)), 5, "net"
    )


def meta_job() -> NetworkJob:
    section = MetaSection(steps=3, ways=3, shots=2, queries=4, lr=0.05)
    stage = MetaStage(section, AugmentSection(), Objective(CrossEntropy()))
    job = network_job()
    return replace(stage.job(job.classifier, job.lesson, job.rows, 0), seed=5, name="meta")


def live_job() -> NetworkJob:
    """Return a job that reads feature maps and annotations of two networks in every step."""
    teachers = [
        NetworkTeacher(
            TeacherSpec(name, 0, classes),
            build_classifier("cifar_resnet8", 10, None, 16, seed),
            Compute(),
            0,
        )
        for seed, (name, classes) in enumerate({"low": (0, 1, 2, 3, 4), "all": None}.items())
    ]
    live = LiveTeachers(teachers, Compute())
    job = network_job()
    guidance = Guidance(job.lesson.guidance.labels, torch.arange(len(job.rows)) % 2, live)
    lesson = replace(job.lesson, guidance=guidance)
    return replace(job, lesson=lesson, objective=Objective(FitNet()), live_annotations=True)


def state(found: Classifier | HeadBank) -> dict[str, Tensor]:
    """Return copies of the tensors."""
    module = found.model if isinstance(found, Classifier) else found
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether the tensors are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
