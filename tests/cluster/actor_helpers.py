"""A small real task, its teachers, and pools of actors for them."""

from pathlib import Path
from typing import Any

import torch
from cluster_helpers import CPUS
from safetensors import safe_open

from cosup.cluster.actor import PoolActor, Setup
from cosup.cluster.pool import Limits, Pool
from cosup.cluster.room import Allocation
from cosup.config.schema import Config
from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec, plan_hierarchy
from cosup.teachers.train import save_group, teacher_groups, train_group

SHARD = 50
"""Samples per shard, not a multiple of the batch of 16."""
SAVE_EVERY = 5
TWICE = {"by": "domain", "levels": [1, 2]}
TINY = {"name": "cifar_resnet8", "weights": None, "image_size": 16}
NETWORKS = {
    "hierarchy": TWICE,
    "model": TINY,
    "training": {"steps": 80, "batch_size": 16, "lr": 0.01, "save_every": SAVE_EVERY},
}
LINEAR = {
    "hierarchy": {"by": "class", "levels": [1, 2]},
    "model": {"name": "linear_pixels"},
    "training": {"steps": 100, "lr": 0.03},
}

STREAMED = {
    "hierarchy": {"by": "class", "levels": [5]},
    "model": {"name": "linear_features", "backbone": TINY},
    "training": {"steps": 5, "batch_size": 16, "augment": {"crop": "resized", "flip": 0.5}},
}
"""The features of augmented images are computed where a teacher is trained."""


def config(teachers: dict[str, Any]) -> Config:
    content = {
        "data": {
            "source": "digits",
            "rotations": [0, 90],
            "limit": 420,
            "splits": {"teacher_train": 0.4, "student_train": 0.4, "test": 0.2},
            "shifted": {
                "noisy": {"corruption": "noise", "limit": 20},
                "turned": {"source": {"name": "digits", "rotations": [45]}, "limit": 60},
            },
        },
        "teachers": teachers,
        "student": {"mode": "head", "backbone": TINY},
        "execution": {"device": "cpu", "batch_size": 16, "shard_size": SHARD},
    }
    return Config.model_validate(content)


def actors(
    data: ImageData,
    config: Config,
    cwd: str = "",
    count: int = 2,
    tries: int = 3,
    actor: type = PoolActor,
) -> Pool:
    setup = Setup(config, data.known(), cwd, "cpu", "float32", torch.get_num_threads())
    allocation = Allocation(count, CPUS, 0)  # one actor per node
    return Pool(setup, allocation, Limits(tries, timeout=60, wait=60), "teachers", actor)


Groups = list[list[TeacherSpec]]


def plan(data: ImageData, teachers: dict[str, Any]) -> Groups:
    section = config(teachers).teachers
    levels = plan_hierarchy(section, data.classes, data.domains, 0)
    return [group for level in levels for group in teacher_groups(level)]


def train_here(
    groups: Groups, data: ImageData, features: FeatureCache, folder: Path
) -> list[Teacher]:
    made = []
    training = Training(TeachersSection(), data, 0, features, directory=folder)
    for specs in groups:
        made += train_group(specs, training)
        save_group(made[-len(specs) :], training)
    return made


def assert_same_files(folder: Path, expected: Path) -> None:
    """Assert that both folders have the same files with the same content."""
    ours, theirs = files(folder), files(expected)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def files(folder: Path) -> dict[str, Any]:
    """Return the content of every file; safetensors writes its metadata in any order."""
    found: dict[str, Any] = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            with safe_open(path, "numpy") as file:
                bits = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
                found[name] = (file.metadata(), bits)
        else:
            found[name] = path.read_bytes()
    return found
