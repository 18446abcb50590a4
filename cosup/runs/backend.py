"""Backends of a run: this process, or one that does the same work elsewhere.

A backend only works ahead: it puts trained teachers, annotations and features where the code of a
local run looks for them, and that code continues from there. So all give the same numbers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from cosup.config.schema import Config, ExecutionSection
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.runs.network_processes import CardLauncher, cards_for_trainings
from cosup.runs.side_by_side import SeedRun, places_for, usable_cards
from cosup.runs.teacher_processes import train_on_cards
from cosup.sharded.shards import ShardReader
from cosup.sharded.work import Executor, LocalExecutor, Processes
from cosup.student.launcher import Launcher, LocalLauncher
from cosup.teachers.annotate import OnShard, annotate
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.store import AnnotationStore

__all__ = ["Backend", "Local", "TeacherGroup", "teacher_memory"]

TeacherGroup = Sequence[TeacherSpec]
"""Teachers that are trained together."""

HEADS_BYTES = 2**28
"""Memory for heads that a run may need again."""


class Backend(Protocol):
    """Computes the parts of a run."""

    def side_by_side(
        self, config: Config, runs: Mapping[str, SeedRun]
    ) -> tuple[Mapping[str, SeedRun], list[dict[str, str]]]:
        """Return the runs of seeds for processes of their own, and the environment of each that may
        run at once. With one alone they are run in turn, by this backend."""
        ...

    @property
    def launcher(self) -> Launcher:
        """Return what trains the students of the current run."""
        ...

    def begin(self, config: Config, data: ImageData, features: FeatureCache) -> FeatureCache:
        """Start a run. Return the feature cache and compute context of its teachers and student."""
        ...

    def compute_of(self, processes: Processes, compute: Compute) -> Compute:
        """Return the compute context of a kind of processes: its device and precision. compute: of
        this process."""
        ...

    def executor(self, reader: ShardReader, compute: Compute) -> Executor:
        """Return what carries out work on shards. compute: of this process."""
        ...

    def place_of(self, path: Path) -> str:
        """Return the path or URI at which every process finds a path of the run's folder."""
        ...

    def computed_on(self) -> dict[str, list[str]]:
        """Return what each kind of processes, other than this one, has computed on."""
        ...

    def train(self, groups: Sequence[TeacherGroup], training: Training) -> None:
        """Train teachers that `training.directory` lacks, and store them there; may do nothing."""
        ...

    def annotate(
        self,
        teachers: Sequence[Teacher],
        data: ImageData,
        store: AnnotationStore,
        compute: Compute,
        on_shard: OnShard,
    ) -> None:
        """Add the annotations of these teachers that the store lacks."""
        ...


class Local:
    """Computes everything in this process."""

    def __init__(self) -> None:
        self.launcher: Launcher = LocalLauncher(HEADS_BYTES)
        self._memory = math.inf
        self._cards: list[str] = []
        self._stop_signal: str | None = None

    def side_by_side(
        self, config: Config, runs: Mapping[str, SeedRun]
    ) -> tuple[Mapping[str, SeedRun], list[dict[str, str]]]:
        """Return the runs as they are, and a place per GPU, or as many as there are cores."""
        return runs, places_for(config, len(runs))

    def begin(self, config: Config, data: ImageData, features: FeatureCache) -> FeatureCache:
        """Train networks on all cards of this machine; return the features as they are."""
        execution = config.execution
        self._cards = cards_for_trainings(execution, usable_cards(execution.device))
        self._stop_signal = execution.stop_signal
        if len(self._cards) > 1:
            self.launcher = CardLauncher(self._cards, execution.stop_signal, HEADS_BYTES)
        self._memory = teacher_memory(config.execution, features.compute.device)
        return features

    def compute_of(self, processes: Processes, compute: Compute) -> Compute:
        """Return that of this process."""
        return compute

    def executor(self, reader: ShardReader, compute: Compute) -> Executor:
        """Return one that works in this process."""
        return LocalExecutor(compute)

    def place_of(self, path: Path) -> str:
        """Return the path."""
        return str(path)

    def computed_on(self) -> dict[str, list[str]]:
        """Return nothing: this process is the only one."""
        return {}

    def train(self, groups: Sequence[TeacherGroup], training: Training) -> None:
        """Train networks on the cards of this machine, if there are several; the others are trained
        when they are needed."""
        if len(self._cards) > 1:
            train_on_cards(groups, training, self._cards, self._stop_signal)

    def annotate(
        self,
        teachers: Sequence[Teacher],
        data: ImageData,
        store: AnnotationStore,
        compute: Compute,
        on_shard: OnShard,
    ) -> None:
        """Annotate in one pass over the images for all teachers with the same inputs, as far as
        their weights are within the memory of the config."""
        annotate(teachers, data, store, compute, on_shard=on_shard, memory=self._memory)


def teacher_memory(execution: ExecutionSection, device: torch.device) -> float:
    """Return the bytes of weights of the teachers that a device holds at once. The CPU holds all
    teachers of a run in any case."""
    return math.inf if device.type == "cpu" else execution.teachers.memory_gb * 1e9
