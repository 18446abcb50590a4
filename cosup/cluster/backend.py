"""The Ray backend of a run: pools of actors for teachers and features, Ray Train for students."""

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from cosup.cluster.actor import Setup
from cosup.cluster.pool import Limits, Pool
from cosup.cluster.session import (
    Allocation,
    Closeable,
    Node,
    allocate,
    check_capacity,
    gpus_per_process,
)
from cosup.cluster.storage import RunStorage
from cosup.cluster.teachers import annotate_with_pool, features_by_pool, train_groups
from cosup.cluster.trainer import RayLauncher
from cosup.config.schema import Config, ExecutionSection
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.models.extraction import batch_for
from cosup.models.section import BackboneSection
from cosup.runs.backend import HEADS_BYTES, TeacherGroup
from cosup.student.jobs import Launcher
from cosup.teachers.annotate import OnShard
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.store import AnnotationStore

__all__ = ["RayBackend"]

TEACHER_GPU = 0.25
"""GPUs per teacher actor with `num_gpus: auto`."""
BLOCK_ROWS = 2048
"""Approximate number of images in a block of features (a multiple of the batch)."""


class RayBackend(Closeable):
    """Trains teachers, annotates, extracts features and trains students on the connected cluster.

    Only one kind of processes runs at a time, so that each can use the whole cluster. Closing the
    backend ends them. storage: where the run is written. The constructor raises `UserError` if the
    cluster lacks the resources that the section asks for.
    """

    def __init__(
        self, execution: ExecutionSection, nodes: Sequence[Node], storage: RunStorage
    ) -> None:
        self.execution = execution
        self.storage = storage
        teachers, features, student = execution.teachers, execution.features, execution.student
        gpus = {
            "teachers": gpus_per_process(teachers.num_gpus, execution.device, nodes, TEACHER_GPU),
            "features": gpus_per_process(features.num_gpus, execution.device, nodes, 1.0),
            "student": gpus_per_process(student.num_gpus, execution.device, nodes, 1.0),
        }
        self.allocations = {
            "teachers": allocate(teachers, nodes, gpus["teachers"]),
            "features": allocate(features, nodes, gpus["features"]),
            "student": Allocation(student.workers, student.num_cpus, gpus["student"]),
        }
        for name, wanted in self.allocations.items():
            check_capacity(f"execution.{name}", wanted, nodes)
        self._pool: tuple[str, Pool] | None = None
        self._launcher: RayLauncher | None = None

    def begin(self, config: Config, data: ImageData, features: FeatureCache) -> FeatureCache:
        """Start a run of this config; return a cache whose features are extracted by actors."""
        self.close()
        self.setup = Setup(
            config=config,
            known=data.known(),
            cwd=os.getcwd(),
            threads=torch.get_num_threads(),
            device="cpu",  # replaced by the device of each allocation
            precision=features.compute.precision,
        )
        execution = self.execution
        self._launcher = RayLauncher(
            self.setup,
            self.allocations["student"],
            self.storage,
            tries=execution.tries,
            wait=execution.wait,
            kept_bytes=HEADS_BYTES,
        )

        def identity(section: BackboneSection) -> str:
            return features.source(section).backbone.identity

        batch, device = batch_for(execution.batch_size), self.allocations["features"].device
        return features.extracting_with(
            features_by_pool(
                lambda: self._use("features"), data, batch, BLOCK_ROWS, identity, device
            )
        )

    @property
    def launcher(self) -> Launcher:
        """Trains networks by Ray Train, and heads in this process."""
        assert self._launcher is not None, "launcher before begin"
        return self._launcher

    def train(self, groups: Sequence[TeacherGroup], training: Training) -> None:
        """Train in parallel the teachers that `training.directory` lacks."""
        train_groups(lambda: self._use("teachers"), groups, training)

    def annotate(
        self,
        teachers: Sequence[Teacher],
        data: ImageData,
        store: AnnotationStore,
        compute: Compute,
        on_shard: OnShard,
    ) -> None:
        """Fill the store: actors annotate, this process writes."""
        annotate_with_pool(lambda: self._use("teachers"), teachers, data, store, compute, on_shard)
        self.close()

    def _use(self, name: str) -> Pool:
        """Return the pool of this name; start it if needed."""
        if self._pool is not None and self._pool[0] == name:
            return self._pool[1]
        self.close()
        allocation, execution = self.allocations[name], self.execution
        setup = replace(self.setup, device=allocation.device)
        limits = Limits(execution.tries, execution.shard_timeout, execution.wait)
        pool = Pool(setup, allocation, limits, name)
        self._pool = (name, pool)
        return pool

    def close(self) -> None:
        """End all processes."""
        if self._pool is not None:
            _, pool = self._pool
            self._pool = None
            pool.close()
