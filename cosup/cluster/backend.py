"""The Ray backend of a run: what is computed ahead, and by which actors."""

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from cosup.cluster.actor import Setup
from cosup.cluster.pool import Pool
from cosup.cluster.session import Closing, Node, Places, check_room, places, reserved
from cosup.cluster.teachers import annotate, feature_blocks, train_groups
from cosup.cluster.trainer import RayLauncher
from cosup.config.schema import Config, ExecutionSection, GPUs
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.models.section import BackboneSection
from cosup.runs.backend import TeacherGroup
from cosup.student.jobs import Launcher
from cosup.teachers.annotate import OnShard
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.store import AnnotationStore

__all__ = ["RayBackend"]

TEACHER_GPU = 0.25
"""GPUs of a teacher's actor where the config leaves it open."""
BLOCK_ROWS = 2048
"""Images of a block of features, about: a multiple of the batch."""


class RayBackend(Closing):
    """Teachers, features and students on the cluster that this process is connected to.

    One kind of actors is up at a time: what the cluster has goes to who works. Leaving it ends
    them. Raises `UserError` if the cluster lacks what the section asks for.
    """

    def __init__(self, execution: ExecutionSection, nodes: Sequence[Node]) -> None:
        self.execution = execution
        teachers, features, student = execution.teachers, execution.features, execution.student

        def gpus(asked: GPUs, fraction: float) -> float:
            return reserved(asked, execution.device, nodes, fraction)

        self.places = {
            "teachers": places(teachers, nodes, gpus(teachers.num_gpus, TEACHER_GPU)),
            "features": places(features, nodes, gpus(features.num_gpus, 1.0)),
            "student": Places(student.workers, student.num_cpus, gpus(student.num_gpus, 1.0)),
        }
        for name, wanted in self.places.items():
            check_room(f"execution.{name}", wanted, nodes)
        self._pool: tuple[str, Pool] | None = None
        self._launcher: RayLauncher | None = None

    def begin(self, config: Config, data: ImageData, features: FeatureCache) -> FeatureCache:
        """A run of this config begins; features are extracted by actors from here on."""
        self.close()
        self.setup = Setup(
            config=config,
            known=data.known(),
            cwd=os.getcwd(),
            threads=torch.get_num_threads(),
            device="cpu",
            precision=features.compute.precision,
        )
        self._launcher = RayLauncher(
            self.setup, self.places["student"], tries=self.execution.tries, wait=self.execution.wait
        )

        def identity(section: BackboneSection) -> str:
            return features.source(section).backbone.identity

        batch_size = features.compute.batch_size
        return features.extracting_with(
            feature_blocks(lambda: self._use("features"), data, batch_size, BLOCK_ROWS, identity)
        )

    @property
    def launcher(self) -> Launcher:
        """Ray Train; its workers start with the first training."""
        assert self._launcher is not None, "launcher before begin"
        return self._launcher

    def train(self, groups: Sequence[TeacherGroup], training: Training) -> None:
        """Train those that `training.directory` doesn't keep, side by side."""
        train_groups(lambda: self._use("teachers"), groups, training)

    def annotate(
        self,
        teachers: Sequence[Teacher],
        data: ImageData,
        store: AnnotationStore,
        compute: Compute,
        on_shard: OnShard,
    ) -> None:
        """Fill the store; actors annotate, this process writes."""
        annotate(lambda: self._use("teachers"), teachers, data, store, compute, on_shard)
        self.close()

    def _use(self, name: str) -> Pool:
        """The pool of this kind, started if it isn't up."""
        if self._pool is not None and self._pool[0] == name:
            return self._pool[1]
        self.close()
        wanted, execution = self.places[name], self.execution
        pool = Pool(
            replace(self.setup, device=wanted.device),
            wanted.count,
            wanted.num_cpus,
            wanted.num_gpus,
            tries=execution.tries,
            timeout=execution.shard_timeout,
            wait=execution.wait,
            name=name,
        )
        self._pool = (name, pool)
        return pool

    def close(self) -> None:
        """End what is up."""
        if self._launcher is not None:
            self._launcher.close()
        if self._pool is not None:
            _, pool = self._pool
            self._pool = None
            pool.close()
