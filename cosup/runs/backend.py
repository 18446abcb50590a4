"""Where a run computes: in this process, or wherever another backend does the same work.

A backend only does work ahead: what it trains, annotates and extracts lands where the code of a
local run looks for it, and that code goes on from there. So both give the same numbers.
"""

from collections.abc import Sequence
from typing import Protocol

from cosup.config.schema import Config
from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.student.jobs import Launcher, LocalLauncher
from cosup.teachers.annotate import OnShard, annotate
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.store import AnnotationStore

__all__ = ["Backend", "Local", "TeacherGroup"]

TeacherGroup = tuple[Sequence[TeacherSpec], TeachersSection]
"""Teachers that are trained at once, and with what."""


class Backend(Protocol):
    """Who computes."""

    @property
    def launcher(self) -> Launcher:
        """Who trains students, of the run that has begun."""
        ...

    def begin(self, config: Config, data: ImageData, features: FeatureCache) -> FeatureCache:
        """A run of this config begins; what its teachers and its student compute with."""
        ...

    def train(self, groups: Sequence[TeacherGroup], training: Training) -> None:
        """Train teachers that `training.directory` lacks, and store them there; may do nothing."""
        ...

    def annotate(
        self,
        teachers: Sequence[Teacher],
        data: ImageData,
        store: AnnotationStore,
        compute: Compute,
        on_shard: OnShard,
    ) -> None:
        """Fill the store with what it misses of these teachers."""
        ...


class Local:
    """All in this process."""

    launcher: Launcher = LocalLauncher()

    def begin(self, config: Config, data: ImageData, features: FeatureCache) -> FeatureCache:
        """As they are."""
        return features

    def train(self, groups: Sequence[TeacherGroup], training: Training) -> None:
        """Nothing ahead: each level trains its own when it is asked for."""

    def annotate(
        self,
        teachers: Sequence[Teacher],
        data: ImageData,
        store: AnnotationStore,
        compute: Compute,
        on_shard: OnShard,
    ) -> None:
        """One pass over the images for all that read the same."""
        annotate(teachers, data, store, compute, on_shard=on_shard)
