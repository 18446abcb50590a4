"""A Ray actor that trains teachers, annotates, and extracts features: one process, one task a time.

It reads the images itself, by the config; what is sent to it are names and ranges of rows. It keeps
what it has loaded, the teachers of its last two crews included. What it computes is what the local
run would, bit for bit.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.config.schema import Config
from cosup.config.teachers import TeachersSection
from cosup.data.loader import image_batches
from cosup.data.table import ImageData, Known, load_data
from cosup.data.transforms import eval_transform
from cosup.errors import RunError
from cosup.models.compute import Compute, Precision
from cosup.models.features import feature_blocks
from cosup.models.fit import recorded
from cosup.models.section import BackboneSection
from cosup.teachers.annotate import annotate_rows
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.train import kind_of, train_group

__all__ = ["Arrays", "Losses", "Sent", "Setup", "Trained", "Worker", "pack", "unpack"]

Arrays = dict[str, NDArray[Any]]
"""Tensors by name, as they travel: Ray moves arrays without copying them."""
Losses = list[tuple[str, int, float]]
"""Names, step and loss of the steps that are recorded."""

HELD = 2
"""Crews whose teachers a worker holds."""


@dataclass(frozen=True)
class Setup:
    """What every worker is started with.

    known: what the driver found out about the samples. cwd: the driver's folder, which relative
    paths of the config begin at. threads: the driver's torch threads, on which the last digits of
    sums depend. device, precision: of models.
    """

    config: Config
    known: Known
    cwd: str
    threads: int
    device: str
    precision: Precision

    def enter(self) -> None:
        """Be as the driver is: its folder, its threads."""
        if os.path.isdir(self.cwd):
            os.chdir(self.cwd)
            sys.path.append(self.cwd)
        torch.set_num_threads(self.threads)

    def load(self) -> ImageData:
        """All samples, read by the config."""
        return load_data(self.config.data, self.config.run.seed, 1, None, self.known)

    def decoders(self) -> int:
        """Threads that decode images: one per CPU that is reserved for this process."""
        context: Any = ray.get_runtime_context()
        return max(1, int(context.get_assigned_resources().get("CPU", 1)))


@dataclass(frozen=True)
class Sent:
    """A teacher as it is sent. state: a reference to its arrays, fetched by who doesn't hold it."""

    spec: TeacherSpec
    steps: int
    identity: str
    state: Any


@dataclass(frozen=True)
class Trained:
    """A teacher as a worker gives it back."""

    spec: TeacherSpec
    steps: int
    identity: str
    state: Arrays


class Worker:
    """Its methods are what units name; `hello` and `ready` come first."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.crews: dict[Any, dict[str, Teacher]] = {}

    def hello(self) -> str:
        """It has a place: the node's id."""
        return str(ray.get_runtime_context().get_node_id())

    def ready(self) -> None:
        """Load the data. Raises `UserError` or `RunError` where this node can't do the work."""
        self.setup.enter()
        assert len(self.data)

    def train(
        self, specs: Sequence[TeacherSpec], section: TeachersSection, directory: str
    ) -> tuple[list[Trained], Losses]:
        """A group of teachers, trained anew, and the losses on the way. directory: keeps the state
        of a training that is cut, if this node sees it."""
        losses: Losses = []

        def record(name: str, step: int, loss: float) -> None:
            if recorded(step):
                losses.append((name, step, loss))

        folder = Path(directory) if os.path.isdir(directory) else None
        training = Training(section, self.data, self._seed, self.features, record, folder)
        teachers = train_group(specs, training)
        return [Trained(t.spec, t.steps, t.identity, pack(t.state())) for t in teachers], losses

    def annotate(
        self, crew: Sequence[Sent], wanted: Sequence[int], split: str, start: int, stop: int
    ) -> list[Arrays]:
        """What the wanted ones of a crew say about these samples of a split."""
        teachers = [self._teacher(crew, place) for place in wanted]
        rows = self.data.rows(split)[start:stop]
        tables = annotate_rows(teachers, self.data, rows, self.features.compute)
        return [pack(table.tensors()) for table in tables]

    def extract(
        self, section: BackboneSection, identity: str | None, split: str, start: int, stop: int
    ) -> NDArray[np.float16]:
        """Features of these rows of what is cached together with a split."""
        source = self.features.source(section)
        if identity is not None:
            _same(source.backbone.identity, identity, f"backbone '{section.name}'")
        rows = np.arange(start, stop)
        if not self.data.drawn:
            rows = self.data.rows(split)[start:stop]
        transform, compute = eval_transform(source.backbone.input), self.features.compute
        images = image_batches(self.data, rows, transform, compute.batch_size, compute.workers)
        return torch.cat(list(feature_blocks(source.backbone, images))).numpy()

    @cached_property
    def data(self) -> ImageData:
        return self.setup.load()

    @cached_property
    def features(self) -> FeatureCache:
        """Backbones, and the driver's compute context but for device and decoders."""
        execution = self.setup.config.execution
        return FeatureCache(
            Compute(
                torch.device(self.setup.device),
                self.setup.precision,
                self.setup.decoders(),
                execution.batch_size,
                Path(execution.cache or os.devnull),
            )
        )

    @property
    def _seed(self) -> int:
        return self.setup.config.run.seed

    def _teacher(self, crew: Sequence[Sent], place: int) -> Teacher:
        """One of a crew, restored unless it is held."""
        key = tuple(sent.identity for sent in crew)
        held = self.crews.pop(key, {})
        self.crews[key] = held  # the last one
        while len(self.crews) > HELD:
            del self.crews[next(iter(self.crews))]
        sent = crew[place]
        if sent.identity not in held:
            held[sent.identity] = self._restore(sent)
        return held[sent.identity]

    def _restore(self, sent: Sent) -> Teacher:
        section = self.setup.config.teachers
        training = Training(section, self.data, self._seed, self.features)
        kind = kind_of(sent.spec, section)
        teacher = kind.restore(sent.spec, training, unpack(ray.get(sent.state)), sent.steps)
        _same(teacher.identity, sent.identity, f"teacher '{sent.spec.name}'")
        return teacher


def pack(tensors: Mapping[str, Tensor]) -> Arrays:
    """Tensors as arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def unpack(arrays: Arrays) -> dict[str, Tensor]:
    """Arrays as tensors of their own: those that came are read-only, and hold shared memory."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _same(found: str, expected: str, what: str) -> None:
    """Raises `RunError` if this node's is not the driver's."""
    if found != expected:
        node = os.uname().nodename
        raise RunError(
            f"{what} is another on node {node} than where the run was started: the files (weights, "
            "code) and the versions of libraries must be the same on every node"
        )
