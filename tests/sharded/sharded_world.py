"""What the tests of shards share: an opened manifest, and teachers trained on its labelled rows."""

from collections.abc import Callable
from dataclasses import dataclass

from cosup.config.schema import Config
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.sharded.image_work import Restoring
from cosup.sharded.shards import Shards
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.teachers.train import train_level

ROWS, LABELLED, SHARD = 700, 300, 84
COMPUTE = Compute(batch_size=32)


@dataclass(frozen=True)
class World:
    """A config of a manifest, and what is opened of it."""

    config: Config
    labelled: ImageData
    shards: Shards
    compute: Compute = COMPUTE

    def teachers(self) -> list[Teacher]:
        """Train the generalist and two specialists of classes on teacher_train."""
        section = self.config.teachers
        levels = plan_hierarchy(section, self.labelled.classes, self.labelled.domains, 0)
        training = Training(section, self.labelled, 0, FeatureCache(self.compute))
        return [teacher for specs in levels for teacher in train_level(specs, training)]

    def restoring(self) -> Restoring:
        """Return what restores these teachers elsewhere."""
        return Restoring(self.config.teachers, 0, self.shards.reader.blank())


Open = Callable[..., World]
