"""The teachers of a sharded run, and the annotation tables of those who have one."""

from cosup.config.schema import Config
from cosup.data.table import ImageData
from cosup.sharded.shards import Shards
from cosup.sharded.tables import ShardTables
from cosup.teachers.hierarchy import Hierarchy, plan_hierarchy
from cosup.teachers.simulated import check_truth
from cosup.teachers.tables.scan import open_scanned

__all__ = ["plan_teachers"]


def plan_teachers(config: Config, data: ImageData, shards: Shards) -> tuple[Hierarchy, ShardTables]:
    """Return the hierarchy, and what reads its tables for the listed samples and for shards.

    Raises `UserError` for errors in the teachers, and for simulated annotators without labels.
    """
    section, seed = config.teachers, config.run.seed
    hierarchy = plan_hierarchy(section, data.classes, data.domains, seed, open_scanned)
    teachers = [spec for level in hierarchy for spec in level]
    if any(spec.simulated for spec in teachers):
        check_truth(shards.known)
    return hierarchy, ShardTables(teachers, data, shards)
