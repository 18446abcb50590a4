"""The Ray actor that trains teachers, annotates samples and extracts features.

An actor reads the images itself, as configured; it is sent names and ranges of rows only. It keeps
the data and backbones that it has loaded, and the teachers of the last groups within
`execution.teachers.memory_gb`. Its results are equal to those of a local run to the last bit.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from torch import Tensor

from cosup.cluster.kept_teachers import KeptTeachers, RemoteTeacher
from cosup.cluster.room import Allocation
from cosup.cluster.session import describe_nodes, find_nodes, free_resources
from cosup.config.schema import Config, ExecutionSection
from cosup.data.load import load_data
from cosup.data.loader import ImageRows, image_batches
from cosup.data.shifted_sets import with_shifted
from cosup.data.sources import SPLITS
from cosup.data.table import ImageData, Known
from cosup.data.transforms import eval_transform
from cosup.errors import RunError, UserError, in_short
from cosup.models.classifier import Classifier
from cosup.models.compute import (
    Compute,
    ComputedOn,
    Precision,
    device_name,
    resolve_precision,
)
from cosup.models.extraction import batch_for, feature_blocks
from cosup.models.section import BackboneSection
from cosup.models.watch import recorded
from cosup.models.weights import check_identity
from cosup.sharded.shards import Shard
from cosup.student.launcher import predict_images
from cosup.teachers.annotate import annotate_rows
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.sent import SentTeacher
from cosup.teachers.train import train_group

__all__ = [
    "Arrays",
    "LossRecords",
    "PoolActor",
    "Setup",
    "pack",
    "resolve_there",
    "unpack",
]

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Time for a process to start and look at its GPU, beyond `execution.wait` for a place."""
TELL_SECONDS = 20.0
"""Time after which it is told that a GPU is waited for."""

Arrays = dict[str, NDArray[Any]]
"""Tensors by name, as they are sent: Ray shares arrays without copying them."""
LossRecords = list[tuple[str, int, float, int]]
"""Name of the teacher, step and loss of the recorded steps, and the number of all steps."""


@dataclass(frozen=True)
class Setup:
    """What every process on the cluster needs to compute as the driver does.

    known: facts about the samples that the driver has found. cwd: the driver's working directory,
    which relative paths of the config start from. device: `cuda` in a process that reserved a GPU,
    else `cpu`, whatever the driver has. precision: of forward passes. threads: of torch, which the
    last digits of sums depend on. sent: holds a reference to the samples, if they are sent rather
    than listed again: of a sharded run, the labelled ones. Shifted sets are always listed again.
    """

    config: Config
    known: Known
    cwd: str
    device: str = "cpu"
    precision: Precision = "float32"
    threads: int = 1
    sent: tuple[Any, ...] = ()

    def apply(self) -> None:
        """Set the working directory and the number of threads of this process."""
        if os.path.isdir(self.cwd):
            os.chdir(self.cwd)
            sys.path.append(self.cwd)
        torch.set_num_threads(self.threads)

    def load_data(self) -> ImageData:
        """Return the run's samples, without shifted sets; raise `RunError` if those listed differ
        from the driver's."""
        if self.sent:
            found: ImageData = ray.get(self.sent[0])
            return found
        config = self.config
        return load_data(
            config.data,
            config.run.seed,
            1,
            None,
            self.known,
            teacher_train=config.wants_teacher_train,
        )

    def with_shifted(self, data: ImageData) -> ImageData:
        """Return the run's samples with its shifted sets; raise as `load_data`."""
        section, seed = self.config.data, self.config.run.seed
        return with_shifted(data, section, seed, 1, None, self.known.shifted)

    def compute(self, device: torch.device | None = None, scratch: Path | None = None) -> Compute:
        """Return the compute context of this process; one thread per reserved CPU decodes images.

        device: `self.device` by default. scratch: folder for the state of a training.
        """
        context: Any = ray.get_runtime_context()
        execution = self.config.execution
        return Compute(
            torch.device(self.device) if device is None else device,
            self.precision,
            max(1, int(context.get_assigned_resources().get("CPU", 1))),
            execution.batch_size,
            None if execution.cache is None else Path(execution.cache),
            scratch=scratch,
        )


class PoolActor:
    """Actor of a `Pool`. `node_id` and `prepare` are called first, then methods of work items."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.kept = KeptTeachers(setup.config.execution.teachers.memory_gb * 1e9)
        self.network: tuple[str, Classifier] | None = None
        self.work: tuple[str, Callable[[Shard], Any]] | None = None

    def node_id(self) -> str:
        """Return the id of the node that the actor was placed on."""
        return str(ray.get_runtime_context().get_node_id())

    def prepare(self) -> ComputedOn:
        """Load the data; return what this actor computes on. Raise `UserError` or `RunError` if
        this node cannot do the work."""
        self.setup.apply()
        assert len(self.data)
        device = device_name(torch.device(self.setup.device))
        return ComputedOn(device, self.setup.precision, self.setup.threads)

    def train(
        self, specs: Sequence[TeacherSpec], directory: str
    ) -> tuple[list[SentTeacher], LossRecords]:
        """Train a group of teachers; return them and their recorded losses.

        directory: keeps the state of an interrupted training, if it exists on this node.
        """
        losses: LossRecords = []

        def record(name: str, step: int, loss: float, steps: int) -> None:
            if recorded(step, steps):
                losses.append((name, step, loss, steps))

        folder = Path(directory) if os.path.isdir(directory) else None
        section = self.setup.config.teachers
        training = Training(section, self.data, self._seed, self.features, record, folder)
        return [SentTeacher.of(teacher) for teacher in train_group(specs, training)], losses

    def annotate(
        self,
        group: Sequence[RemoteTeacher],
        positions: Sequence[int],
        split: str,
        start: int,
        stop: int,
    ) -> list[Arrays]:
        """Annotate a range of a split's rows with the teachers at these positions of a group."""
        teachers = [self._teacher(group, position) for position in positions]
        data, rows = self._part(split)
        tables = annotate_rows(teachers, data, rows[start:stop], self.features.compute)
        return [pack(table.tensors()) for table in tables]

    def extract(
        self, section: BackboneSection, identity: str | None, split: str, start: int, stop: int
    ) -> NDArray[np.float16]:
        """Return features [stop - start, D] of a range of the rows that are cached with a split."""
        source = self.features.source(section)
        if identity is not None:
            check_identity(source.backbone.identity, identity, f"backbone '{section.name}'")
        data, rows = self._part(split)
        rows = np.arange(start, stop) if data.drawn else rows[start:stop]
        transform, compute = eval_transform(source.backbone.input), self.features.compute
        batch = batch_for(compute.batch_size)
        images = image_batches(data, rows, transform, batch, compute.workers, pinned=compute.pins)
        return torch.cat(list(feature_blocks(source.backbone, images))).numpy()

    def predict(
        self, key: str, network: Sequence[Any], split: str, rows: NDArray[np.int64]
    ) -> Arrays:
        """Return a network's class probabilities of rows of the samples that a split is of.

        key: of the network, which the actor keeps until it gets another one. network: holds a
        reference to it.
        """
        if self.network is None or self.network[0] != key:
            self.network = None  # not two at once
            self.network = key, ray.get(network[0])
        data, _ = self._part(split)
        found = predict_images(self.network[1], ImageRows(data, rows), self.features.compute)
        return pack(found.tensors())

    def work_on(self, key: str, work: Sequence[Any], shard: Shard) -> Any:
        """Return the result of a work on a shard.

        key: of the work, which the actor keeps until it gets another one. work: holds a reference
        to it.
        """
        if self.work is None or self.work[0] != key:
            self.work = None  # not two at once
            self.work = key, ray.get(work[0]).begin(self.features.compute)
        return self.work[1](shard)

    @cached_property
    def data(self) -> ImageData:
        return self.setup.load_data()

    @cached_property
    def data_with_shifted(self) -> ImageData:
        return self.setup.with_shifted(self.data)

    @cached_property
    def features(self) -> FeatureCache:
        return FeatureCache(self.setup.compute())

    @property
    def _seed(self) -> int:
        return self.setup.config.run.seed

    def _part(self, split: str) -> tuple[ImageData, NDArray[np.int64]]:
        """Return the samples that a split is of, and its rows, as `ImageData.part`."""
        return (self.data if split in SPLITS else self.data_with_shifted).part(split)

    def _teacher(self, group: Sequence[RemoteTeacher], position: int) -> Teacher:
        """Return a teacher of a group, restored unless it is kept."""
        kept, wanted = self.kept.of(group), group[position]
        if wanted.identity not in kept:
            kept[wanted.identity] = self._restore(wanted)
        return kept[wanted.identity]

    def _restore(self, remote: RemoteTeacher) -> Teacher:
        section = self.setup.config.teachers
        training = Training(section, self.data, self._seed, self.features)
        state = unpack(ray.get(remote.state))
        return SentTeacher(remote.spec, remote.steps, remote.identity, state).restore(training)


def resolve_there(execution: ExecutionSection, wanted: Allocation) -> ComputedOn:
    """Return what processes that reserve so much compute with, every `auto` resolved.

    A GPU is asked: a process that reserves one is started for it. All processes of a kind get its
    precision, so that their results agree where the cluster has different cards.

    Raise `RunError` if no GPU is free in `execution.wait`, `UserError` for one that torch cannot
    use.
    """
    threads = max(1, int(wanted.num_cpus)) if execution.threads == "auto" else execution.threads
    if not wanted.num_gpus:
        cpu = torch.device("cpu")
        return ComputedOn("cpu", resolve_precision(execution.precision, cpu), threads)
    name, precision = _ask_gpu(execution, wanted)
    return ComputedOn(name, precision, threads)


def _ask_gpu(execution: ExecutionSection, wanted: Allocation) -> tuple[str, Precision]:
    """Return what `_look_at_gpu` does in a process that reserves a GPU."""
    task: Any = ray.remote(_look_at_gpu)
    options = {"num_cpus": wanted.num_cpus, "num_gpus": wanted.num_gpus, "max_retries": 3}
    asked, limit = task.options(**options).remote(execution.precision), execution.wait
    if not ray.wait([asked], timeout=TELL_SECONDS)[0]:
        free = free_resources()
        log.info("Ray: waiting for a GPU: %s are asked for, %s are free", wanted, free)
    while True:
        try:
            found: tuple[str, Precision] = ray.get(asked, timeout=limit + LOOK_SECONDS)
        except GetTimeoutError:
            if wanted.waits(find_nodes()):
                continue  # another seed holds it
            ray.cancel(asked, force=True)
            raise RunError(
                f"no process found a GPU within {limit + LOOK_SECONDS:g} s (execution.wait); it "
                f"needs {wanted}; the cluster has {describe_nodes(find_nodes())}, of which "
                f"{free_resources()} are free"
            ) from None
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if isinstance(cause, UserError):
                raise cause from None
            raise RunError(f"no process can look at a GPU: {in_short(cause)}") from error
        return found


def _look_at_gpu(precision: str) -> tuple[str, Precision]:
    """Return the name of this process's GPU, and the precision that it computes in."""
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
        raise UserError(
            f"torch on node {socket.gethostname()} cannot use the GPU that Ray has there "
            f"(torch {torch.__version__} {built}; nvidia-smi there shows the driver)",
            key="execution.device",
            value="cuda",
            allowed="cpu until it can",
        )
    device = torch.device("cuda")
    return device_name(device), resolve_precision(precision, device)


def pack(tensors: Mapping[str, Tensor]) -> Arrays:
    """Convert tensors to arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def unpack(arrays: Arrays) -> dict[str, Tensor]:
    """Copy arrays to tensors; arrays from Ray are read-only views of shared memory."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
