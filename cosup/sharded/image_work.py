"""Annotations and features of shards, by models that read decoded images."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.data.transforms import Transform, eval_transform
from cosup.models.compute import Compute, Precision
from cosup.models.extraction import Conditions, batch_for, feature_blocks
from cosup.models.section import BackboneSection
from cosup.models.weights import check_identity
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Done, ImageWork, Samples, Work, parts
from cosup.teachers.annotate import annotate_batches, groups_within
from cosup.teachers.base import ImageTeacher, Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.linear import FEATURES_PER_BATCH, FeatureTeacher
from cosup.teachers.sent import SentTeacher
from cosup.teachers.simulated import SimulatedTeacher

__all__ = [
    "Annotate",
    "AnnotateFeatures",
    "Extract",
    "Restoring",
    "annotation_product",
    "annotation_works",
    "extract_work",
]

ANNOTATIONS, FEATURES = "annotations", "features"
FORMAT = "2"


@dataclass(frozen=True)
class Restoring:
    """What restores teachers in any process. section: `teachers`. seed: of the run. blank: data of
    the run's classes and domains, without samples."""

    section: TeachersSection
    seed: int
    blank: ImageData

    def teachers(
        self, sent: Sequence[SentTeacher], compute: Compute, data: ImageData | None = None
    ) -> list[Teacher]:
        """Return teachers on the device of this process. data: the samples of those that answer by
        sample."""
        data = self.blank if data is None else data
        training = Training(self.section, data, self.seed, FeatureCache(compute))
        return [one.restore(training) for one in sent]


@dataclass(frozen=True)
class Annotate(ImageWork):
    """Annotations by teachers with equal inputs; a file per teacher and shard."""

    processes = "teachers"
    name: str
    samples: Samples
    transform: Transform
    batch: int
    products: tuple[Product, ...]
    teachers: tuple[SentTeacher, ...]
    restoring: Restoring

    def begin_images(self, compute: Compute) -> Callable[[int, Iterator[Tensor]], Done]:
        """Return the function of a shard's number and its images."""
        teachers = self.restoring.teachers(self.teachers, compute)
        return lambda number, batches: write_annotations(
            self.samples.store, self.products, teachers, number, batches
        )


@dataclass(frozen=True)
class Extract(ImageWork):
    """Features of a backbone, float16 [n, D] in the column `features`.

    identity: the backbone's on the driver, which must be that of every process; None is not
    checked.
    """

    processes = "features"
    of_images_alone = True
    name: str
    samples: Samples
    transform: Transform
    batch: int
    products: tuple[Product, ...]
    section: BackboneSection
    identity: str | None = None

    def begin_images(self, compute: Compute) -> Callable[[int, Iterator[Tensor]], Done]:
        """Return the function of a shard's number and its images."""
        backbone = FeatureCache(compute).source(self.section).backbone
        if self.identity is not None:
            check_identity(backbone.identity, self.identity, f"backbone '{self.section.name}'")
        (product,) = self.products
        empty = torch.empty(0, backbone.num_features, dtype=torch.float16)

        def process(number: int, batches: Iterator[Tensor]) -> Done:
            features = torch.cat([empty, *feature_blocks(backbone, batches)])
            record = self.samples.store.write(product, number, {"features": features})
            return Done(len(features), (record,))

        return process


@dataclass(frozen=True)
class AnnotateFeatures(Work[Done]):
    """Annotations by teachers that are heads on features, which an `Extract` has written."""

    processes = "teachers"
    name: str
    samples: Samples
    products: tuple[Product, ...]
    features: Product
    teachers: tuple[SentTeacher, ...]
    restoring: Restoring

    def begin(self, compute: Compute) -> Callable[[Shard], Done]:
        """Return the function of a shard."""
        teachers = self.restoring.teachers(self.teachers, compute)
        store = self.samples.store

        def process(shard: Shard) -> Done:
            features = store.tensor(self.features, shard.number, "features")
            batches = parts(features, FEATURES_PER_BATCH)
            return write_annotations(store, self.products, teachers, shard.number, batches)

        return process


@dataclass(frozen=True)
class AnnotateSimulated(Work[Done]):
    """Annotations by simulated annotators, who answer by the id and the true label of a sample."""

    name: str
    samples: Samples
    products: tuple[Product, ...]
    teachers: tuple[SentTeacher, ...]
    restoring: Restoring

    def begin(self, compute: Compute) -> Callable[[Shard], Done]:
        """Return the function of a shard."""

        def process(shard: Shard) -> Done:
            data = self.samples.read(shard)
            teachers = self.restoring.teachers(self.teachers, compute, data)
            batches = teachers[0].inputs(data, np.arange(len(data)), compute)
            store = self.samples.store
            return write_annotations(store, self.products, teachers, shard.number, batches)

        return process


def write_annotations(
    store: ShardStore,
    products: Sequence[Product],
    teachers: Sequence[Teacher],
    number: int,
    batches: Iterator[Tensor],
) -> Done:
    """Annotate the inputs of a shard, and write a file per teacher."""
    tables = annotate_batches(teachers, batches)
    pairs = zip(products, tables, strict=True)
    records = tuple(store.write_probs(product, number, table) for product, table in pairs)
    return Done(len(tables[0]), records)


def annotation_works(
    teachers: Sequence[Teacher],
    samples: Samples,
    restoring: Restoring,
    compute: Compute,
    memory: float = math.inf,
    device: torch.device | None = None,
) -> list[Work[Done]]:
    """Return the work that annotates shards by these teachers, to be done in this order.

    compute: of the processes that annotate; its `batch_size` and precision decide the batches and
    keys. memory: bytes of the weights of the teachers that annotate together. device: that features
    are extracted on; None is that of `compute`. None of them is an annotation table
    (`cosup.sharded.tables`).
    """
    works: list[Work[Done]] = []
    for group in groups_within(teachers, memory):
        works += _group_works(group, samples, restoring, compute, device or compute.device)
    return works


def annotation_product(
    teacher: Teacher, samples: Samples, precision: Precision = "float32"
) -> Product:
    """Return the product of a teacher's annotations, by networks in this precision."""
    about = [FORMAT, teacher.identity, teacher.reads, samples.key]
    about += [precision] if precision != "float32" else []
    return Product.of(ANNOTATIONS, teacher.name, *about)


def extract_work(
    section: BackboneSection, samples: Samples, features: FeatureCache, device: torch.device
) -> Extract:
    """Return the work that extracts a backbone's features. device: that it is done on.

    Raise `UserError` if the backbone is not available.
    """
    backbone, compute = features.describe(section), features.compute
    transform = eval_transform(backbone.input)
    conditions = Conditions.of(device, compute.batch_size, here=False)
    product = Product.of(
        FEATURES,
        backbone.name,
        FORMAT,
        backbone.identity,
        transform.key,
        conditions.key,
        samples.key,
    )
    return Extract(
        f"features of {backbone.name}",
        samples,
        transform,
        batch_for(compute.batch_size),
        (product,),
        section,
        backbone.identity,
    )


def _group_works(
    group: Sequence[Teacher],
    samples: Samples,
    restoring: Restoring,
    compute: Compute,
    device: torch.device,
) -> list[Work[Done]]:
    """Return the work of teachers with equal inputs."""
    first, names = group[0], ", ".join(teacher.name for teacher in group)
    name = f"annotations by {names}"
    sent = tuple(map(SentTeacher.of, group))
    products = tuple(annotation_product(teacher, samples, compute.precision) for teacher in group)
    if isinstance(first, FeatureTeacher):
        cache = first.source.cache
        extract = extract_work(first.source.section, samples, cache, device)
        (features,) = extract.products
        return [extract, AnnotateFeatures(name, samples, products, features, sent, restoring)]
    if isinstance(first, ImageTeacher):
        batch = first.images_at_once or compute.batch_size
        return [Annotate(name, samples, first.transform, batch, products, sent, restoring)]
    assert isinstance(first, SimulatedTeacher), f"teacher '{first.name}' has no work on shards"
    return [AnnotateSimulated(name, samples, products, sent, restoring)]
