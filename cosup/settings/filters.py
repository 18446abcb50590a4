"""Settings of consistency filters, and their registry."""

import math
from dataclasses import dataclass
from typing import Literal

from cosup.settings import (
    MOST_CLASSES,
    Entry,
    Settings,
    between,
    one_of,
    positive_share,
    require,
    share,
)

LARGEST_DIVERGENCE = math.log(2)
"""The largest Jensen-Shannon divergence, in nats."""


class FilterSettings(Settings):
    """Base of the settings of a filter."""

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Evidence` needed beyond the student and the annotations: "coarse_probs",
        "global_probs", "local_probs", "features", "labels"."""
        return frozenset()

    @property
    def compares(self) -> bool:
        """Whether annotations are judged by the guiding student, or by a coarser one."""
        return False

    @property
    def trains_students(self) -> bool:
        """Whether the filter trains students on the samples kept by the other filters."""
        return False

    @property
    def needs_all(self) -> bool:
        """Whether samples are compared (a rank, a share), so that all are needed at once."""
        return self.trains_students


@dataclass
class TeacherStudentSettings(FilterSettings):
    """Keep annotations that are probable under the student."""

    mode: Literal["rank", "mask"] = "rank"
    """`rank`: keep the annotations with the least loss, as many as `mask` keeps. `mask`: keep those
    whose class is in the top k of the student."""
    k: int = 3
    """Number of top classes of the student that count as consistent."""
    class_balanced: bool = False
    """Rank within each annotated class and keep the same share of each (at least one sample)."""

    def __post_init__(self) -> None:
        one_of(("rank", "mask"), mode=self.mode)
        between(1, MOST_CLASSES, k=self.k)
        balanced = self.class_balanced
        possible = not balanced or self.mode == "rank"
        require("class_balanced", balanced, possible, "false for mode 'mask'")

    @property
    def compares(self) -> bool:
        """True: with the student that guides the round."""
        return True

    @property
    def needs_all(self) -> bool:
        """True if annotations are ranked."""
        return self.mode == "rank"


@dataclass
class LocalGlobalSettings(FilterSettings):
    """Keep annotations on which a student of part of the samples and a broader one agree."""

    against: Literal["global", "coarser"] = "global"
    """`global`: compare the local student of the teacher with the global student. `coarser`:
    compare the annotated class with the student trained on the level above."""
    divergence: float | None = None
    """For `global`: the largest Jensen-Shannon divergence that is kept, in nats (at most 0.693);
    null compares the most probable classes instead."""
    k: int = 3
    """For `coarser`: the annotated class must be among this many top classes."""

    def __post_init__(self) -> None:
        one_of(("global", "coarser"), against=self.against)
        between(1, MOST_CLASSES, k=self.k)
        if self.divergence is not None:
            inside = 0 <= self.divergence <= LARGEST_DIVERGENCE
            require("divergence", self.divergence, inside, "in 0 .. 0.693, or null")
            used = self.against == "global"
            require("divergence", self.divergence, used, "null unless against: global")

    @property
    def needs(self) -> frozenset[str]:
        """The probabilities of the two students that are compared."""
        if self.against == "coarser":
            return frozenset({"coarse_probs"})
        return frozenset({"local_probs", "global_probs"})

    @property
    def compares(self) -> bool:
        """True if the annotation is compared with a student of the level above."""
        return self.against == "coarser"

    @property
    def trains_students(self) -> bool:
        """True if local students are compared with a global one."""
        return self.against == "global"


@dataclass
class ConfidenceThresholdSettings(FilterSettings):
    """Keep annotations whose largest probability is high."""

    threshold: float = 0.5
    """Smallest confidence that is kept (0: no threshold)."""
    keep_share: float | None = None
    """Keep at most this share of the annotated samples, the most confident ones; null: no limit."""

    def __post_init__(self) -> None:
        share(threshold=self.threshold)
        if self.keep_share is not None:
            positive_share(keep_share=self.keep_share)

    @property
    def needs_all(self) -> bool:
        """True if a share is kept."""
        return self.keep_share is not None


@dataclass
class UnanimitySettings(FilterSettings):
    """Keep annotations on whose class the answering teachers of the level agree."""

    share: float = 1.0
    """Required share of the answering teachers whose most probable class is the annotated one."""

    def __post_init__(self) -> None:
        positive_share(share=self.share)


@dataclass
class GivenLabelSettings(FilterSettings):
    """Keep samples whose given label is among the most probable classes of the annotation."""

    k: int = 1
    """Number of top classes of the annotation that count as agreement."""

    def __post_init__(self) -> None:
        between(1, MOST_CLASSES, k=self.k)

    @property
    def needs(self) -> frozenset[str]:
        """The given labels."""
        return frozenset({"labels"})


@dataclass
class NeighboursSettings(FilterSettings):
    """Keep samples whose given label is confirmed by their neighbours in the student's features."""

    k: int = 250
    """Number of neighbours (at most all other samples)."""
    quantile: float = 0.5
    """How many samples of each given class are kept: this quantile, over the classes, of the
    numbers of samples whose label is the most frequent one of their neighbours (published: 0.5 for
    CIFAR-10; 0.75 and 0.25 for symmetric and asymmetric noise on CIFAR-100)."""

    def __post_init__(self) -> None:
        between(1, MOST_CLASSES, k=self.k)
        share(quantile=self.quantile)

    @property
    def needs(self) -> frozenset[str]:
        """The given labels and the features of the student."""
        return frozenset({"labels", "features"})

    @property
    def needs_all(self) -> bool:
        """True: neighbours are found among all samples."""
        return True


FILTERS: dict[str, Entry] = {
    "teacher_student": Entry(
        TeacherStudentSettings, "cosup.consistency.teacher_student:TeacherStudent"
    ),
    "local_global": Entry(LocalGlobalSettings, "cosup.consistency.local_global:LocalGlobal"),
    "confidence": Entry(
        ConfidenceThresholdSettings, "cosup.consistency.samplewise:ConfidenceThreshold"
    ),
    "unanimity": Entry(UnanimitySettings, "cosup.consistency.samplewise:Unanimity"),
    "given_label": Entry(GivenLabelSettings, "cosup.consistency.samplewise:GivenLabel"),
    "neighbours": Entry(NeighboursSettings, "cosup.consistency.neighbours:Neighbours"),
}
