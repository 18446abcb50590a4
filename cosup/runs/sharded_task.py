"""What the rounds of a sharded run read: annotated shards, labelled samples, and the student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosup.config.schema import Config
from cosup.data.broken import MOST_NAMED, set_aside
from cosup.data.section import DataSection
from cosup.errors import UserError, within
from cosup.layout import SHARDS, Layout
from cosup.models.weights import hash_tensors
from cosup.progress import working_on
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.inputs import PROVENANCE
from cosup.sharded.evidence import ShardLevel
from cosup.sharded.folds import folds_of
from cosup.sharded.head import ShardHead
from cosup.sharded.image_work import (
    Restoring,
    annotation_product,
    annotation_works,
    extract_work,
)
from cosup.sharded.lesson import PREDICTIONS, LabelledRows, ShardStudent, Trained
from cosup.sharded.network import ShardNetwork
from cosup.sharded.rounds import ShardTask
from cosup.sharded.shards import Shards
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.tables import ShardTables
from cosup.sharded.taking import take_over
from cosup.sharded.work import CheckImages, Executor, FunctionWork, Samples, Work, in_order
from cosup.teachers.base import Teacher
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec, scopes, speakers
from cosup.teachers.table import TableTeacher

__all__ = ["ShardWorld", "shard_label_folds", "shard_student", "shard_world"]


@dataclass(frozen=True)
class ShardWorld:
    """What the rounds and the controls read.

    best_teacher: a level of the best single teacher alone. trained: the levels of the generalists
    that were trained for controls, by control. products: what was written of the shards before the
    rounds. samples: those of the shards that have a whole image.
    """

    task: ShardTask
    best_teacher: ShardLevel
    trained: Mapping[str, ShardLevel]
    products: tuple[Product, ...]
    samples: int


def shard_world(
    context: RunContext,
    prepared: Prepared,
    shards: Shards,
    features: FeatureCache,
    tables: ShardTables,
    others: Sequence[Path] = (),
) -> ShardWorld:
    """Annotate the shards and extract their features; return what rounds and controls read.

    others: folders of runs with other seeds, from which what depends on the images alone is taken
    over; from those with the same teachers their annotations too. Finishes the stage `SHARDS` once
    all of the first is there. Raises `UserError` if too many images are broken.
    """
    works = _Works.of(context, prepared, shards, others)
    samples, broken = _checked(context, works)
    annotated = prepared.annotated
    every = [*annotated.levels, *annotated.for_controls.values()]
    everyone = {one.name: one for level in every for one in level}
    teachers = list(everyone.values())
    products, extracted = _annotate(context, prepared, teachers, features, tables, samples, works)

    def level(index: int, members: Sequence[TeacherSpec]) -> ShardLevel:
        return ShardLevel(
            index,
            scopes(members, len(prepared.data.classes), len(prepared.data.domains)),
            samples,
            tuple(products[spec.name] for spec in members),
            extracted,
        )

    specs = speakers([[one.spec for one in level] for level in annotated.levels])
    levels = tuple(level(index, members) for index, members in enumerate(specs))
    provenance = tuple(level.provenance for level in prepared.task.levels)
    guide = None
    if context.config.rounds.first_guide == "student":
        guide = _guide(context, prepared, levels[0], works)
    task = ShardTask(levels, shards.shards, provenance, guide=guide)
    after, best = len(levels), everyone[prepared.teachers.floor.name].spec
    trained = {
        name: level(after, [one.spec for one in members])
        for name, members in annotated.for_controls.items()
    }
    written = (samples.checked, *products.values(), extracted, guide)
    return ShardWorld(
        with_rounds(task, context, prepared),
        level(after, [best]),
        trained,
        tuple(product for product in written if product is not None),
        shards.samples - broken,
    )


def _checked(context: RunContext, works: "_Works") -> tuple[Samples, int]:
    """Return the samples of the shards, and how many images are broken if the config checks them.

    Raises `UserError` if there are too many.
    """
    reader, store, section = works.shards.reader, works.store, context.config.data
    if section.check == "none":
        return Samples(reader, store), 0
    check = CheckImages(reader, store)
    works.do(check)
    return Samples(reader, store, check.product), _set_aside(section, check, works)


def _set_aside(section: DataSection, check: CheckImages, works: "_Works") -> int:
    """Return how many images of the shards are broken; raise `UserError` if there are too many."""
    count, reasons, work = 0, list[str](), FunctionWork("broken images", check.read)
    for found in in_order(works.executor.run(work, works.shards.shards), works.shards.shards):
        count += found.broken
        reasons += found.reasons[: MOST_NAMED - len(reasons)]
    with within("data"):
        set_aside(section, reasons, count, works.shards.samples)
    return count


def _annotate(
    context: RunContext,
    prepared: Prepared,
    teachers: Sequence[Teacher],
    features: FeatureCache,
    tables: ShardTables,
    samples: Samples,
    works: "_Works",
) -> tuple[dict[str, Product], Product]:
    """Annotate the shards, and extract their features, first what depends on the images alone.

    Returns the product of each teacher, and that of the features.
    """
    config, backend, compute = context.config, context.backend, prepared.compute
    restoring = Restoring(config.teachers, config.run.seed, works.shards.reader.blank())
    memory = config.execution.teachers.memory_gb * 1e9
    there = backend.compute_of("teachers", compute)
    device = backend.compute_of("features", compute).device
    read = [one for one in teachers if isinstance(one, TableTeacher)]
    others = [one for one in teachers if not isinstance(one, TableTeacher)]
    annotations = annotation_works(others, samples, restoring, there, memory, device)
    extract = extract_work(config.student.backbone, samples, features, device)
    for work in [extract, *(work for work in annotations if work.of_images_alone)]:
        works.do(work)
    context.run.finish(SHARDS, {"shards": len(works.shards)})
    for work in annotations:
        works.do(work)
    products = {product.name: product for work in annotations for product in work.products}
    of_tables = {teacher.name: annotation_product(teacher, samples) for teacher in read}
    tables.write(read, of_tables, samples)
    return products | of_tables, extract.products[0]


def with_rounds(task: ShardTask, context: RunContext, prepared: Prepared) -> ShardTask:
    """Return the task with what the rounds of a config read besides the shards.

    Raises `UserError` if labelled samples are to be learned, and there are none.
    """
    config = context.config
    return replace(
        task,
        folds=config.folds,
        labelled=_labelled(context, prepared) if config.rounds.labelled else None,
        labels=config.rounds.true_label_weight > 0,
    )


def _guide(context: RunContext, prepared: Prepared, level: ShardLevel, works: "_Works") -> Product:
    """Predict the shards with the untrained student; return the product."""
    head = shard_student(context, prepared)
    assert isinstance(head, ShardHead), "networks do not start from text features"
    state = head.untrained()
    about = level.samples.key, *vars(level.features).values(), hash_tensors(dict(state))
    product = Product.of(PREDICTIONS, "untrained", *about)
    works.do(head.predicting(level.samples, level.features, Trained(state), product))
    return product


def _labelled(context: RunContext, prepared: Prepared) -> LabelledRows:
    """Return the samples of teacher_train with a label.

    Raises `UserError` if there are none.
    """
    data, inputs = prepared.data, prepared.inputs.of_split(PROVENANCE)
    folds = context.config.folds or shard_label_folds(context.config)
    rows = data.labelled(data.rows(PROVENANCE))
    if not len(rows):
        raise UserError(
            "needs labelled samples in teacher_train, and there are none",
            key="rounds.labelled",
            value=True,
            allowed="false",
        )
    places = torch.from_numpy(np.flatnonzero(np.isin(data.rows(PROVENANCE), rows)))
    return LabelledRows(
        torch.from_numpy(rows),
        data.given(rows),
        folds_of(data.subset(rows), folds, context.seed),
        inputs[places] if isinstance(inputs, Tensor) else torch.zeros(len(rows), 0),
    )


def shard_label_folds(config: Config) -> int:
    """Return in how many folds a student is trained once more after the last round, so that the
    labels of the run hear one that was not trained on the sample; 0: the last student is heard.

    Networks are not, as that would take several times the training of the round.
    """
    return (config.folds or config.folds_for_labels) if config.student.mode == "head" else 0


@dataclass(frozen=True)
class _Works:
    """Does work on a run's shards. lenders: stores of other runs, which have products to take
    over."""

    executor: Executor
    store: ShardStore
    shards: Shards
    lenders: Sequence[ShardStore]

    @classmethod
    def of(
        cls, context: RunContext, prepared: Prepared, shards: Shards, others: Sequence[Path]
    ) -> "_Works":
        """Return those of a run. others: folders of the runs that lend."""
        backend = context.backend
        return cls(
            backend.executor(shards.reader, prepared.compute),
            ShardStore(backend.place_of(context.files.shards)),
            shards,
            [ShardStore(backend.place_of(Layout(other).shards)) for other in others],
        )

    def do(self, work: Work[Any]) -> None:
        """Take over what the lenders have, and do the work on shards that lack a product still."""
        store, shards = self.store, self.shards
        for product in work.products if self.lenders else ():
            take_over(product, store, self.lenders, shards.shards, self.executor)
        missing = {shard for product in work.products for shard in store.missing(product, shards)}
        with working_on(f"{work.name}: shard", len(missing)) as advance:
            for _ in self.executor.run(work, sorted(missing)):
                advance(1)


def shard_student(context: RunContext, prepared: Prepared) -> ShardStudent:
    """Return what learns from the shards: heads, or networks."""
    config, inputs, compute = context.config, prepared.inputs, prepared.compute
    test = inputs.test_inputs
    if config.student.mode == "head":
        training, prototypes = config.student.training, inputs.prototypes
        return ShardHead(inputs.head, training, test, prototypes, compute, inputs.prompts)
    return ShardNetwork(
        config.student,
        len(prepared.data.classes),
        prepared.data,
        test,
        context.backend.launcher,
        compute,
        context.backend.compute_of("features", compute),
    )
