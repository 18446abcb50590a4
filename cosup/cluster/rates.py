"""How many CPUs keep an actor's card busy with decoded images (`num_cpus: auto`).

Measured on images of the run, where the actors run: how many images a CPU decodes in a second, and
how many the network of the actors computes. The numbers of a run do not depend on it.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from torch import Tensor

from cosup.cluster.actor import Setup
from cosup.cluster.room import Allocation, allocate
from cosup.cluster.session import Node
from cosup.config.schema import ActorsSection, Config
from cosup.config.teacher_model import TeacherModelSection
from cosup.data.table import ImageData
from cosup.data.transforms import Transform, eval_transform
from cosup.errors import in_short
from cosup.models.classifier import build_classifier
from cosup.models.compute import Compute
from cosup.settings.teachers import NetworkKind
from cosup.teachers.features import FeatureCache

__all__ = ["Rates", "is_measured", "measure", "rates_there", "with_cpus_for"]

log = logging.getLogger(__name__)

IMAGES = 64
"""Images that are decoded, spread over all samples."""
SECONDS = 2.0
"""Time for each of the two measurements, about."""
WARM_UP, BATCHES = 3, 4
"""Batches that are computed before the time is taken, and between two looks at the clock."""
START_SECONDS = 120.0
"""Time for the process that measures to start and list the samples, beyond that for a place."""


@dataclass(frozen=True)
class Rates:
    """Images in a second: that one CPU decodes, and that a card (or the CPU) computes."""

    decoded: float
    computed: float

    def cpus(self, gpus: float, share: float) -> float:
        """Return the whole CPUs that decode as fast as an actor computes, at most its share of the
        node and at least 1. gpus: that it reserves: a part of a card computes a part as fast."""
        needed = math.ceil(min(1.0, gpus) * self.computed / self.decoded)
        return float(min(share, max(1, needed)))


def is_measured(config: Config, name: str, section: ActorsSection, allocation: Allocation) -> bool:
    """Return whether the CPUs of a kind of actors (`teachers`, `features`) follow the rates: those
    with a GPU and `num_cpus: auto`, whose network is known before it is trained."""
    if not allocation.num_gpus or section.num_cpus != "auto":
        return False
    return name == "features" or _teacher(config) is not None


def with_cpus_for(
    rates: Rates, section: ActorsSection, allocation: Allocation, nodes: Sequence[Node]
) -> Allocation:
    """Return the allocation of a kind of actors, each with the CPUs for these rates."""
    cpus = rates.cpus(allocation.num_gpus, allocation.num_cpus)
    asked = section.model_copy(update={"num_cpus": cpus})
    found = allocate(asked, nodes, allocation.num_gpus, allocation.share)
    log.info(
        "Ray: a CPU decodes %.0f images/s, the device computes %.0f: %g of at most %g CPUs each",
        rates.decoded,
        rates.computed,
        found.num_cpus,
        allocation.num_cpus,
    )
    return found


def rates_there(setup: Setup, name: str, allocation: Allocation, wait: float) -> Rates | None:
    """Return the rates of a kind of actors, measured in a process with the resources of one; None
    if they cannot be measured, which is logged. wait: seconds to wait for a place."""
    task: Any = ray.remote(measure)
    place = task.options(num_cpus=1, num_gpus=allocation.num_gpus, max_retries=3)
    asked = place.remote(setup, name)
    try:
        found: Rates = ray.get(asked, timeout=wait + START_SECONDS)
    except RayError as error:
        ray.cancel(asked, force=True)  # it may still wait for a place
        log.warning("Ray: the rates of %s are not measured: %s", name, in_short(error))
        return None
    return found


def measure(setup: Setup, name: str) -> Rates:
    """Measure the rates of a kind of actors in this process."""
    setup.apply()
    torch.set_num_threads(1)  # one CPU decodes
    data, execution = setup.load_data(), setup.config.execution
    compute = Compute(torch.device(setup.device), setup.precision, 1, execution.batch_size)
    transform, network = _network(setup.config, name, len(data.classes), compute)
    decoded, images = _decode(data, transform)
    torch.set_num_threads(setup.threads)
    batch = images.repeat(math.ceil(compute.batch_size / len(images)), 1, 1, 1)
    return Rates(decoded, _computed(network, batch[: compute.batch_size]))


def _network(
    config: Config, name: str, num_classes: int, compute: Compute
) -> tuple[Transform, Callable[[Tensor], Tensor]]:
    """Return what actors of a kind compute: the transform of images, and a network. Its weights do
    not matter to its speed."""
    if name == "features":
        backbone = FeatureCache(compute).source(config.student.backbone).backbone
        return eval_transform(backbone.input), backbone
    model = _teacher(config)
    assert model is not None, "teachers that are no network are not measured"
    network = build_classifier(model.name, num_classes, None, model.image_size).to(compute.device)

    def answer(images: Tensor) -> Tensor:
        with compute.autocast():
            found: Tensor = network(images)
        return found

    return eval_transform(network.input), answer


def _teacher(config: Config) -> TeacherModelSection | None:
    """Return the model of the first teachers that are networks built here, or None."""
    models = (setup.model for setup in config.teachers.setups)
    return next((model for model in models if issubclass(model.traits, NetworkKind)), None)


def _decode(data: ImageData, transform: Transform) -> tuple[float, Tensor]:
    """Return how many images a CPU decodes in a second, and some of them."""
    rows = np.linspace(0, len(data) - 1, min(len(data), IMAGES)).astype(int)
    transform(data.read(int(rows[0])))  # imports what reads them
    images, started = [], time.perf_counter()
    for row in rows:
        images.append(transform(data.read(int(row))))
        if time.perf_counter() - started > SECONDS:
            break
    return len(images) / (time.perf_counter() - started), torch.stack(images)


@torch.inference_mode()
def _computed(network: Callable[[Tensor], Tensor], batch: Tensor) -> float:
    """Return how many images are computed in a second, with the way to the device."""
    for _ in range(WARM_UP):
        network(batch).sum().item()  # waits for the device
    done, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < SECONDS:
        for _ in range(BATCHES):
            found = network(batch)
        found.sum().item()
        done += BATCHES * len(batch)
    return done / seconds
