"""What a sharded run works on: listed samples and shards, and teachers with annotation tables."""

from cosup.config.schema import Config
from cosup.data.shifted_sets import with_shifted
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.runs.check import check_assigner
from cosup.sharded.opening import open_shards
from cosup.sharded.shards import Shards
from cosup.sharded.tables import ShardTables
from cosup.teachers.hierarchy import Hierarchy, plan_hierarchy
from cosup.teachers.simulated import check_truth
from cosup.teachers.tables.scan import open_scanned

__all__ = ["open_samples", "plan_teachers"]


def open_samples(
    config: Config, compute: Compute, *, looks: bool = True
) -> tuple[ImageData, Shards]:
    """Return the listed samples, with the shifted sets, and the shards.

    looks: check the listed images, as the config has it. Raises `UserError`.
    """
    section, seed = config.data, config.run.seed
    if not looks:
        section = section.model_copy(update={"check": "none"})
    cache = compute.cache if looks else None
    data, shards = open_shards(
        section,
        seed,
        config.execution.shard_size,
        teacher_train=config.wants_teacher_train,
        workers=compute.workers,
        cache=cache,
    )
    return with_shifted(data, section, seed, compute.workers, cache), shards


def plan_teachers(config: Config, data: ImageData, shards: Shards) -> tuple[Hierarchy, ShardTables]:
    """Return the hierarchy, and what reads its tables for the listed samples and for shards.

    Raises `UserError` for errors in the teachers, for simulated annotators without labels, and for
    an assigner that cannot use the teachers or hold so many samples.
    """
    section, seed = config.teachers, config.run.seed
    hierarchy = plan_hierarchy(section, data.classes, data.domains, seed, open_scanned)
    teachers = [spec for level in hierarchy for spec in level]
    if any(spec.simulated for spec in teachers):
        check_truth(shards.known)
    check_assigner(config.rounds, hierarchy, data, shards.samples)
    return hierarchy, ShardTables(teachers, data, shards)
