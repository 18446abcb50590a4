"""Settings of losses, and their registry."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from cosup.settings import (
    MOST_WEIGHT,
    Entry,
    Settings,
    between,
    one_of,
    require,
    share,
    temperature,
)

LEAST_FLOOR = 1e-30
"""Smaller ones are 0 in float32."""
MOST_EXPONENT = 100.0
"""A greater exponent leaves one class alone."""
MOST_STAGES, MOST_CHANNELS = 1000, 4096
"""More than networks have; a convolution of so many channels takes 600 MB."""


class LossSettings(Settings):
    """Base of the settings of a loss."""

    reads_labels: ClassVar[bool] = False
    """Whether the loss uses true labels when they are given (`with_labels`)."""
    one_class: ClassVar[bool] = False
    """Whether the loss singles out one target class per sample, which mixed images do not have."""
    reads_features: ClassVar[bool] = False
    """Whether the loss compares feature maps or embeddings of student and teacher."""
    fixed: ClassVar[bool] = False
    """Whether it is a smooth function of the logits, the same in every step, as L-BFGS needs: no
    weight follows the student or the progress of the training."""

    @property
    def softens(self) -> tuple[str, float] | None:
        """The setting with its value by which annotations are softened (their less probable classes
        count for more), or None."""
        return None

    @property
    def starts_random(self) -> bool:
        """Whether a linear head that starts at zero would never learn, and starts at random."""
        return False

    def candidates(self) -> "list[tuple[float, LossSettings]]":
        """Return the losses from which a run chooses one on its validation split, each with the
        value that distinguishes it; empty if there is nothing to choose."""
        return []


@dataclass
class CrossEntropySettings(LossSettings):
    """Cross-entropy with the annotation: the plain weak-to-strong loss."""

    fixed: ClassVar[bool] = True


@dataclass
class DistillationSettings(LossSettings):
    """Knowledge distillation: KL divergence of the student from the softened annotation."""

    fixed: ClassVar[bool] = True

    tau: float = 2.0
    """Temperature of teacher and student; above 1, less probable classes count for more."""
    teacher_tau: float | None = None
    """Temperature of the teacher; null is `tau`."""
    form: Literal["kl", "cross_entropy"] = "kl"
    """KL divergence, or cross-entropy: larger by the entropy of the teacher, with the same
    gradient."""

    def __post_init__(self) -> None:
        temperature(tau=self.tau)
        if self.teacher_tau is not None:
            temperature(teacher_tau=self.teacher_tau)
        one_of(("kl", "cross_entropy"), form=self.form)

    @property
    def softens(self) -> tuple[str, float] | None:
        """The temperature of the teacher, above 1."""
        if self.teacher_tau is not None:
            return ("teacher_tau", self.teacher_tau) if self.teacher_tau > 1 else None
        return ("tau", self.tau) if self.tau > 1 else None


@dataclass
class BinaryDistillationSettings(LossSettings):
    """Binary cross-entropy of each class's logit with its probability in the annotation."""

    fixed: ClassVar[bool] = True


@dataclass
class AugmentedConfidenceSettings(LossSettings):
    """Cross-entropy with the annotation and, increasingly, with the student's own class."""

    max_weight: float = 0.5
    """Weight of the student's own class at the end of the ramp."""
    ramp: float = 0.2
    """Share of the training over which the weight rises from 0 to `max_weight`."""
    balanced: bool = False
    """Choose the student's own classes so that a batch has as many samples of each class as the
    annotations have (slower, especially with many classes)."""
    tau: float = 1.0
    """Temperature of teacher and student in the teacher's term, times its square (Guo et al., whose
    `ramp` is 0.3)."""
    form: Literal["cross_entropy", "kl"] = "cross_entropy"
    """The teacher's term: cross-entropy, or the KL divergence, with the same gradient."""

    def __post_init__(self) -> None:
        share(max_weight=self.max_weight, ramp=self.ramp)
        temperature(tau=self.tau)
        one_of(("cross_entropy", "kl"), form=self.form)

    @property
    def softens(self) -> tuple[str, float] | None:
        """The temperature above 1."""
        return ("tau", self.tau) if self.tau > 1 else None


@dataclass
class ReverseCrossEntropySettings(LossSettings):
    """Cross-entropy of the annotation with the student's answer: seeks one class that the teacher
    allows, in place of copying its doubt."""

    floor: float = 1e-4
    """Least probability of a class in the annotation, so that a class that the teacher rules out
    costs a finite amount."""
    warmup: float = 0.1
    """Share of the training with plain cross-entropy (published: none, for students that know the
    task). A class that the student gives up at the start has no gradient later: from a zero start
    and with a large learning rate, most classes are lost without it."""

    def __post_init__(self) -> None:
        between(LEAST_FLOOR, 0.5, floor=self.floor)
        share(warmup=self.warmup)


@dataclass
class ProductSettings(LossSettings):
    """Cross-entropy with the normalised product of the student's and the teacher's
    probabilities."""

    alpha: float = 1.0
    """Exponent of the teacher's probabilities."""
    beta: float = 1.0
    """Exponent of the student's probabilities; 0 leaves the annotation alone."""
    warmup: float = 0.1
    """Share of the training in which the target is the annotation alone. (The published code
    declares it and does not use it.)"""

    def __post_init__(self) -> None:
        between(0, MOST_EXPONENT, alpha=self.alpha, beta=self.beta)
        share(warmup=self.warmup)

    @property
    def softens(self) -> tuple[str, float] | None:
        """The exponent of the teacher, below 1."""
        return ("alpha", self.alpha) if 0 < self.alpha < 1 else None


AdaptiveWeight = Literal[
    "adaptive", "complement", "half", "half_where_agree", "constant", "best_constant"
]


@dataclass
class AdaptiveConfidenceSettings(LossSettings):
    """Follow the teacher or the student's own class, weighted per sample by their confidence."""

    temperature: float = 0.5
    """Temperature of the adaptive weight; at small values it falls quickly where the two disagree.
    """
    tau: float = 1.0
    """Temperature of teacher and student in the teacher's term (form `code` only)."""
    form: Literal["code", "paper"] = "code"
    """`code`: as in the published code. `paper`: as printed, with cross-entropy for the teacher's
    KL divergence, and temperature 1."""

    weight: AdaptiveWeight = "adaptive"
    """Weight of the student's own class: a (`adaptive`), 1 - a (`complement`), 1/2 (`half`), 1/2
    where student and teacher give the same class and 0 elsewhere (`half_where_agree`), `constant`,
    or the one of `constants` with which the student is best on validation (`best_constant`)."""
    constant: float = 0.25
    """The weight when `weight` is `constant`."""
    constants: tuple[float, ...] = (0.0, 0.1, 0.25, 0.4, 0.5)
    """The weights from which `best_constant` chooses."""
    ramp: float = 0.0
    """Share of the training over which the weight rises from 0 to its full size (published for
    few-shot learning and noisy labels: 0.25, in steps of an epoch)."""

    def __post_init__(self) -> None:
        self.constants = tuple(self.constants)
        temperature(temperature=self.temperature, tau=self.tau)
        share(constant=self.constant, ramp=self.ramp)
        one_of(("code", "paper"), form=self.form)
        one_of(get_args(AdaptiveWeight), weight=self.weight)
        shares = bool(self.constants) and all(0 <= value <= 1 for value in self.constants)
        require("constants", list(self.constants), shares, "one or more numbers in 0 .. 1")

    @property
    def softens(self) -> tuple[str, float] | None:
        """The temperature above 1, of the form that has one."""
        return ("tau", self.tau) if self.form == "code" and self.tau > 1 else None

    def candidates(self) -> list[tuple[float, LossSettings]]:
        """Return the losses from which `best_constant` chooses: one for each of `constants`."""
        if self.weight != "best_constant":
            return []
        return [
            (value, replace(self, weight="constant", constant=value)) for value in self.constants
        ]


@dataclass
class DecoupledDistillationSettings(LossSettings):
    """Distillation with separate weights for the target class and for the other classes."""

    reads_labels: ClassVar[bool] = True
    one_class: ClassVar[bool] = True

    alpha: float = 1.0
    """Weight of the target class against all others: the true label where it may be used and is
    known, else the most probable class of the annotation."""
    beta: float = 8.0
    """Weight of the other classes among each other."""
    tau: float = 4.0
    """Temperature of teacher and student."""
    ramp: float = 0.0
    """Share of the training over which the loss rises from 0 to its full weight (published: 20 of
    240 epochs)."""

    def __post_init__(self) -> None:
        between(0, MOST_WEIGHT, alpha=self.alpha, beta=self.beta)
        temperature(tau=self.tau)
        share(ramp=self.ramp)

    @property
    def softens(self) -> tuple[str, float] | None:
        """The temperature above 1."""
        return ("tau", self.tau) if self.tau > 1 else None


@dataclass
class EvidentialSettings(LossSettings):
    """The logits as evidence of a Dirichlet distribution: learn the annotation's classes and the
    student's own, and take away evidence for others."""

    gamma: float = 0.5
    """Weight of the student's own class against the annotation."""
    evidence: Literal["relu", "softplus"] = "relu"
    """Evidence for a class: its logit where that is above 0 (published), which learns nothing where
    all logits are 0, so that a linear head starts at random; or its softplus, which starts at zero
    as others do."""

    def __post_init__(self) -> None:
        share(gamma=self.gamma)
        one_of(("relu", "softplus"), evidence=self.evidence)

    @property
    def starts_random(self) -> bool:
        """True for `relu`, which has no gradient where all logits are 0."""
        return self.evidence == "relu"


@dataclass
class FeatureLossSettings(LossSettings):
    """Base of the settings of a loss with a part on feature maps or embeddings.

    Subclasses declare both fields again, because only the docstrings of a class's own attributes
    are shown to the user.
    """

    reads_features: ClassVar[bool] = True

    weight: float = 1.0
    """Weight of the part on features."""
    annotation: float = 1.0
    """Weight of cross-entropy with the annotation."""

    def __post_init__(self) -> None:
        between(0, MOST_WEIGHT, weight=self.weight, annotation=self.annotation)


@dataclass
class FitNetSettings(FeatureLossSettings):
    """Cross-entropy with the annotation, and regression of a feature map of the teacher."""

    weight: float = 100.0
    """Weight of the feature maps."""
    annotation: float = 1.0
    """Weight of cross-entropy with the annotation."""
    hint_stage: int | None = None
    """Index of the feature map in each network, from 0 at its input, or from -1 at its output; null
    is the middle one (of n: number n // 2)."""
    stages: int | None = None
    """In place of one map: so many of each network, counted from the last, each regressed by a 1x1
    convolution alone, and the errors added up (Guo et al.: 4, with weight 1 and annotation 0)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages is not None:
            between(1, MOST_STAGES, stages=self.stages)
            single = self.hint_stage is None
            require("hint_stage", self.hint_stage, single, "null, where stages are given")


@dataclass
class RelationalDistillationSettings(FeatureLossSettings):
    """Cross-entropy with the annotation, and distances and angles between embeddings."""

    weight: float = 1.0
    """Weight of distances and angles together."""
    annotation: float = 1.0
    """Weight of cross-entropy with the annotation."""
    distance: float = 25.0
    """Weight of distances."""
    angle: float = 50.0
    """Weight of angles; 0 saves the B x B x (B + D) numbers they take for a batch of B images with
    D-dimensional embeddings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        between(0, MOST_WEIGHT, distance=self.distance, angle=self.angle)


@dataclass
class KnowledgeReviewSettings(FeatureLossSettings):
    """Cross-entropy with the annotation, and each stage of the teacher compared with all stages of
    the student at the same depth or deeper."""

    weight: float = 1.0
    """Weight of the feature maps."""
    annotation: float = 1.0
    """Weight of cross-entropy with the annotation."""
    stages: int | None = None
    """Number of feature maps of each network to pair, counted from the last; null pairs all, and
    both networks must have the same number."""
    channels: int | None = None
    """Channels of the fused maps of the student; null is those of its deepest map, at most 512."""
    ramp: float = 1 / 12
    """Share of the training over which the part on feature maps rises from 0 to its full weight
    (published: 20 of 240 epochs)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        share(ramp=self.ramp)
        if self.stages is not None:
            between(1, MOST_STAGES, stages=self.stages)
        if self.channels is not None:
            between(1, MOST_CHANNELS, channels=self.channels)


LOSSES: dict[str, Entry] = {
    "cross_entropy": Entry(CrossEntropySettings, "cosup.losses.cross_entropy:CrossEntropy"),
    "reverse_cross_entropy": Entry(
        ReverseCrossEntropySettings, "cosup.losses.reverse_cross_entropy:ReverseCrossEntropy"
    ),
    "product": Entry(ProductSettings, "cosup.losses.product:Product"),
    "distillation": Entry(DistillationSettings, "cosup.losses.distillation:Distillation"),
    "bkd": Entry(BinaryDistillationSettings, "cosup.losses.bkd:BinaryDistillation"),
    "augmented_confidence": Entry(
        AugmentedConfidenceSettings, "cosup.losses.augmented_confidence:AugmentedConfidence"
    ),
    "adaptive_confidence": Entry(
        AdaptiveConfidenceSettings, "cosup.losses.adaptive_confidence:AdaptiveConfidence"
    ),
    "dkd": Entry(DecoupledDistillationSettings, "cosup.losses.dkd:DecoupledDistillation"),
    "evidential": Entry(EvidentialSettings, "cosup.losses.evidential:Evidential"),
    "fitnet": Entry(FitNetSettings, "cosup.losses.fitnet:FitNet"),
    "rkd": Entry(RelationalDistillationSettings, "cosup.losses.rkd:RelationalDistillation"),
    "reviewkd": Entry(KnowledgeReviewSettings, "cosup.losses.reviewkd:KnowledgeReview"),
}
