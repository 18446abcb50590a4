"""The Ray backend of a run: pools of actors for teachers and features, Ray Train for students."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch

from cosup.cluster.actor import Setup, resolve_there
from cosup.cluster.decoded_apart import DecodedApart
from cosup.cluster.pool import Limits, Pool
from cosup.cluster.predictions import predict_with_pool
from cosup.cluster.rates import is_measured, rates_there, with_cpus_for
from cosup.cluster.room import (
    WHOLE,
    Allocation,
    Share,
    allocate,
    cpus_per_process,
    forget_wishes,
    gpus_per_process,
    wait_for_room,
)
from cosup.cluster.seeds import SeedRunOnCluster, places_on_cluster
from cosup.cluster.session import Closeable, find_nodes, joins
from cosup.cluster.sharded import ShardPool
from cosup.cluster.storage import RunStorage
from cosup.cluster.teachers import annotate_with_pool, features_by_pool, train_groups
from cosup.cluster.trainer import RayLauncher
from cosup.config.schema import Config, ExecutionSection, WorkersSection
from cosup.data.loader import ImageRows
from cosup.data.table import ImageData
from cosup.errors import within
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute, ComputedOn
from cosup.models.extraction import batch_for
from cosup.models.section import BackboneSection
from cosup.probabilities import ProbTable
from cosup.runs.backend import HEADS_BYTES, TeacherGroup
from cosup.runs.side_by_side import SeedRun
from cosup.sharded.opening import is_sharded
from cosup.sharded.shards import ShardReader
from cosup.sharded.work import Executor, Processes
from cosup.student.launcher import Launcher
from cosup.teachers.annotate import OnShard
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.store import AnnotationStore
from cosup.words import plural

__all__ = ["RayBackend"]

log = logging.getLogger(__name__)

GROWTH_SECONDS = 300.0
"""Time for an autoscaler to start nodes: a machine with a GPU takes minutes."""
TEACHER_GPU = 0.25
"""GPUs per teacher actor with `num_gpus: auto`."""
FEW_IMAGES = 500
"""Predicted here rather than by actors without a GPU: about what one CPU does in the time that an
actor needs to start."""
BLOCK_ROWS = 2048
"""Approximate number of images in a block of features or predictions (a multiple of the batch)."""
WHOLE_CLUSTER: Mapping[str, Share] = {}


class RayBackend(Closeable):
    """Trains teachers, annotates, extracts features and trains students on the connected cluster.

    Only one kind of processes runs at a time, so that each can use the whole cluster. Closing the
    backend ends them. The constructor waits for the nodes that the section asks for, and raises
    `UserError` if the cluster has no room for the processes by then. storage: where the run is
    written. sharded: whether it works shard by shard. shares: of the cluster, by kind of processes;
    of kinds that are not named it uses the whole.
    """

    def __init__(
        self,
        execution: ExecutionSection,
        storage: RunStorage,
        sharded: bool = False,
        shares: Mapping[str, Share] = WHOLE_CLUSTER,
    ) -> None:
        self.execution = execution
        self.storage = storage
        self.sharded = sharded
        self.shares = shares
        seconds = GROWTH_SECONDS if joins(execution) else 0.0
        if execution.wait_for_nodes != "auto":
            seconds = execution.wait_for_nodes
        wanted = {f"execution.{name}": one for name, one in self._allocate().items()}
        self._asked = wait_for_room(wanted, seconds)
        self.allocations = self._allocate()
        self._setups: dict[str, Setup] = {}
        self._pool: tuple[str, Pool] | None = None
        self._launcher: RayLauncher | None = None
        self._used: dict[str, set[ComputedOn]] = {}
        self._measured: set[str] = set()

    def _allocate(self) -> dict[str, Allocation]:
        """Return the processes of each kind, as the cluster has room for them now."""
        execution, nodes, found = self.execution, find_nodes(), {}
        kinds = (("teachers", TEACHER_GPU), ("features", 1.0), ("student", 1.0))
        for name, fraction in kinds:
            section, share = getattr(execution, name), self.shares.get(name, WHOLE)
            with within(f"execution.{name}"):
                gpus = gpus_per_process(section.num_gpus, execution.device, nodes, fraction)
            if isinstance(section, WorkersSection):
                cpus = cpus_per_process(section.num_cpus, gpus, nodes)
                found[name] = Allocation(section.workers, cpus, gpus, share=share)
            else:
                found[name] = allocate(section, nodes, gpus, share)
        if self.sharded:
            share = self.shares.get("shards", WHOLE)
            found["shards"] = allocate(execution.shards, nodes, 0.0, share)
        return found

    def side_by_side(
        self, config: Config, runs: Mapping[str, SeedRun]
    ) -> tuple[Mapping[str, SeedRun], list[dict[str, str]]]:
        """Return the runs of seeds that join this cluster, and a place for each of its shares.

        Sharded ones go side by side only where `side_by_side` is a number: the first seed does with
        its share what depends on the images alone, while the others wait.
        """
        if self.sharded and config.execution.side_by_side == "auto":
            return runs, [{}]
        context = ray.get_runtime_context()
        places = places_on_cluster(
            config, len(runs), context.gcs_address, find_nodes(), self.allocations
        )
        same = context.runtime_env.to_dict()
        own = {name: SeedRunOnCluster.of(run, self.storage, same) for name, run in runs.items()}
        return own, places

    def begin(self, config: Config, data: ImageData, features: FeatureCache) -> FeatureCache:
        """Start a run of this config; return a cache whose features are extracted by actors."""
        self.close()
        execution, known, cwd, there = self.execution, data.known(), os.getcwd(), {}
        self._used = {}
        sent = (ray.put(replace(data, shifted={})),) if is_sharded(config.data) else ()
        for name, wanted in self.allocations.items():
            there[name] = resolve_there(execution, wanted)
            one = there[name]
            decoding = plural(wanted.decoding_threads, "decoding thread")
            log.info("Ray: %s on %s, %s each", name, one, decoding)
            self._setups[name] = Setup(
                config, known, cwd, wanted.device, one.precision, one.threads, sent
            )
        if config.student.mode == "finetune":
            self._used["student"] = {there["student"]}
        self._launcher = RayLauncher(
            self._setups["student"],
            self.allocations["student"],
            self.storage,
            predict=lambda network, inputs: self._predict(data, network, inputs),
            free=self.close,
            tries=execution.tries,
            wait=execution.wait,
            kept_bytes=HEADS_BYTES,
        )
        setup = self._setups["features"]
        # A backbone is what its features are: those of the precision that actors compute in.
        features = FeatureCache(replace(features.compute, precision=setup.precision))

        def identity(section: BackboneSection) -> str:
            return features.source(section).backbone.identity

        return features.extracting_with(
            features_by_pool(
                lambda: self._use("features"),
                data,
                batch_for(execution.batch_size),
                BLOCK_ROWS,
                identity,
                setup.device,
                setup.threads,
            )
        )

    @property
    def launcher(self) -> Launcher:
        """Trains networks by Ray Train, and heads in this process."""
        assert self._launcher is not None, "launcher before begin"
        return self._launcher

    def compute_of(self, processes: Processes, compute: Compute) -> Compute:
        """Return the compute context of a kind of actors."""
        setup = self._setups[processes]
        return replace(compute, device=torch.device(setup.device), precision=setup.precision)

    def executor(self, reader: ShardReader, compute: Compute) -> Executor:
        """Return one whose work is done by actors."""
        return ShardPool(self._use, self._apart, reader)

    def place_of(self, path: Path) -> str:
        """Return the URI of a path, if the run is written to one; else the path."""
        return self.storage.uri_of(path) if self.storage.uri else str(path.absolute())

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
        memory = self.execution.teachers.memory_gb * 1e9
        annotate_with_pool(
            lambda: self._use("teachers"), teachers, data, store, compute, on_shard, memory
        )
        self.close()

    def _predict(self, data: ImageData, network: Classifier, inputs: ImageRows) -> ProbTable | None:
        """Return a network's probabilities; None if this process is to predict.

        It predicts a few images itself where actors have no GPU, as they take longer to start, and
        those that actors do not have (of novel classes).
        """
        gpu, split = self.allocations["features"].num_gpus > 0, data.name_of(inputs.data, "test")
        if split is None or not len(inputs) or (len(inputs) < FEW_IMAGES and not gpu):
            return None
        pool, size = lambda: self._use("features"), self.execution.batch_size
        return predict_with_pool(pool, network, inputs, split, size, BLOCK_ROWS)

    def _apart(self, processes: Processes) -> DecodedApart | None:
        """Return what has images decoded apart from actors of this kind, if that is wanted."""
        allocation, execution = self.allocations[processes], self.execution
        if execution.decode == "actors" or (execution.decode == "auto" and not allocation.num_gpus):
            return None
        self.close()
        return DecodedApart(self._setups[processes], allocation, execution.shard_timeout)

    def _use(self, name: str) -> Pool:
        """Return the pool of this name; start it if needed."""
        if self._pool is not None and self._pool[0] == name:
            return self._pool[1]
        self.close()
        self._measure(name)
        allocation, execution = self.allocations[name], self.execution
        limits = Limits(execution.tries, execution.shard_timeout, execution.wait)
        used = self._used.setdefault(name, set())
        pool = Pool(self._setups[name], allocation, limits, name, ready=used.add)
        self._pool = (name, pool)
        return pool

    def _measure(self, name: str) -> None:
        """Set the CPUs of a kind of actors by the rates of decoding and computing, once."""
        setup, allocation = self._setups[name], self.allocations[name]
        section = getattr(self.execution, name)
        if name in self._measured or not is_measured(setup.config, name, section, allocation):
            return
        self._measured.add(name)
        rates = rates_there(setup, name, allocation, self.execution.wait)
        if rates is not None:
            self.allocations[name] = with_cpus_for(rates, section, allocation, find_nodes())

    def close(self) -> None:
        """End all processes."""
        if self._pool is not None:
            _, pool = self._pool
            self._pool = None
            pool.close()

    def computed_on(self) -> dict[str, list[str]]:
        """Return what each kind of processes has computed on."""
        return {name: sorted(map(str, found)) for name, found in self._used.items()}

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._launcher is not None:
            self._launcher.forget_ended()
        if self._asked:
            forget_wishes()
