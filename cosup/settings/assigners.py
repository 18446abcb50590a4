"""Settings of assigners, and their registry."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cosup.settings import (
    MOST_ITERATIONS,
    MOST_WEIGHT,
    Entry,
    Settings,
    between,
    one_of,
    positive_share,
    share,
    temperature,
)

MOST_STRENGTH = 1e9
"""Beyond so many answers per class the simpler model alone counts."""
MOST_RATE = 1000.0
"""Weights of a simplex are at its corner after one step of such a rate."""
MOST_SAMPLES = 10_000_000
"""A fit holds the features of its samples: 15 GB for so many of 384 columns."""


class AssignerSettings(Settings):
    """Base of the settings of an assigner."""

    mixes: ClassVar[bool] = True
    """Whether the assigned annotation is the mixture of the annotations by the weights."""

    fuses: ClassVar[bool] = False
    """Whether it weighs all sources at once: every round is then one of the finest level."""

    @property
    def guided(self) -> bool:
        """Whether the assignment depends on the student; if not, a round depends on no other."""
        return True

    @property
    def reads_student(self) -> bool:
        """Whether it takes the student for a source, whose predictions must be cross-fitted."""
        return False

    @property
    def needs(self) -> frozenset[str]:
        """Inputs needed beyond probabilities: "features", "truth", "domains", "provenance"."""
        return frozenset()

    @property
    def uses(self) -> frozenset[str]:
        """Inputs that it reads where there are any: those it needs, and others that help."""
        return self.needs


class UnguidedSettings(AssignerSettings):
    """Base of the settings of an assigner that never reads the student: annotations, features,
    the truth or chance decide."""

    @property
    def guided(self) -> bool:
        """False: a round depends on no other."""
        return False


@dataclass
class SingleSettings(UnguidedSettings):
    """One teacher annotates every sample."""

    teacher: str | None = None
    """Name of the teacher; null takes the only teacher of the level."""


@dataclass
class MeanSettings(UnguidedSettings):
    """Equal weights over the teachers that answer."""


@dataclass
class RandomSettings(UnguidedSettings):
    """One of the answering teachers, drawn uniformly for each sample."""


@dataclass
class OracleSettings(UnguidedSettings):
    """ORACLE: the teachers whose scope contains the true class and domain of the sample."""

    hard: bool = False
    """Use the first such teacher only, instead of all of them with equal weights."""

    @property
    def needs(self) -> frozenset[str]:
        """The true labels and domains."""
        return frozenset({"truth"})


@dataclass
class LossOracleSettings(UnguidedSettings):
    """ORACLE: the teacher with the least cross-entropy on the true label of the sample."""

    @property
    def needs(self) -> frozenset[str]:
        """The true labels."""
        return frozenset({"truth"})


@dataclass
class BlockSettings(AssignerSettings):
    """The teacher whose scope contains the class predicted by the student."""

    soft_mass: bool = False
    """Choose the teacher in whose scope the student puts the most probability, instead of the one
    whose scope contains its predicted class. Meant for scopes that do not overlap: a wider scope
    never has less probability."""


@dataclass
class AgreementSettings(AssignerSettings):
    """The teacher whose annotation is nearest to the prediction of the student."""

    measure: Literal["kl", "ce"] = "kl"
    """`kl`: KL(student || teacher); `ce`: cross-entropy of the student with the class given by the
    teacher (of several teachers that give the same class, the most confident one)."""
    hard: bool = True
    """One teacher per sample, instead of a softmax of -divergence / temperature."""
    temperature: float = 1.0
    """Temperature of the softmax when not hard; smaller values are closer to hard."""

    def __post_init__(self) -> None:
        one_of(("kl", "ce"), measure=self.measure)
        temperature(temperature=self.temperature)


@dataclass
class ConfidenceSettings(UnguidedSettings):
    """The teacher whose annotation is the most confident."""

    measure: Literal["max_prob", "margin", "entropy"] = "max_prob"
    """The largest probability, its distance to the second largest, or the negative entropy (nats).
    """
    hard: bool = True
    """One teacher per sample, instead of a softmax of confidence / temperature."""
    temperature: float = 1.0
    """Temperature of the softmax when not hard; smaller values are closer to hard."""

    def __post_init__(self) -> None:
        one_of(("max_prob", "margin", "entropy"), measure=self.measure)
        temperature(temperature=self.temperature)


@dataclass
class DawidSkeneSettings(AssignerSettings):
    """The teacher that is most probably right, by confusion matrices estimated with EM."""

    iterations: int = 30
    """Maximum number of EM iterations. Each one reads all annotations, and takes N T C^2
    multiplications when they are soft."""
    tolerance: float = 1e-4
    """Stop when the log-posterior of the confusion matrices, per sample (nats), increases by less;
    without smoothing it is the log-likelihood."""
    annotations: Literal["soft", "hard"] = "soft"
    """Use the probabilities of an annotation, or its most probable class only."""
    student_prior: bool = False
    """Use the prediction of the student, as it is, as the prior of each sample, instead of the
    frequencies of the classes. It harms where the student is surer than right."""
    smoothing: float = 0.01
    """Count added to every cell of every confusion matrix."""
    hard: bool = True
    """One teacher per sample, instead of weights in proportion to the probabilities."""

    def __post_init__(self) -> None:
        between(1, MOST_ITERATIONS, iterations=self.iterations)
        between(0, MOST_WEIGHT, tolerance=self.tolerance, smoothing=self.smoothing)
        one_of(("soft", "hard"), annotations=self.annotations)

    @property
    def guided(self) -> bool:
        """True if the student is the prior."""
        return self.student_prior


@dataclass
class GateSettings(AssignerSettings):
    """A linear gate on the features of the student, fitted by EM without true labels."""

    prior: Literal["uniform", "provenance"] = "uniform"
    """Start from equal weights, or from a classifier of the training inputs of the teachers."""
    hard: bool = True
    """One teacher per sample, instead of the probabilities of the gate."""
    sharpening: float = 2.0
    """Exponent of the responsibilities, from 0.01 to 100 (all alike, or one): 1 is plain EM."""
    iterations: int = 20
    """Maximum number of EM iterations."""
    tolerance: float = 0.002
    """Stop when an iteration changes a smaller share of the responsibilities."""
    steps: int = 8
    """L-BFGS iterations of each M-step (the first fit, to provenance, takes five times as many)."""
    weight_decay: float = 0.1
    """Penalty of weight_decay / 2 on the squared weights, relative to the mean loss per sample."""
    provenance_strength: float = 1.0
    """Total weight of the training inputs of the teachers in an M-step, relative to all samples; 0
    uses them for the start only."""
    standardize: bool = True
    """Scale each feature to mean 0 and variance 1 over the samples."""
    max_samples: int = 30_000
    """Maximum number of samples to fit, drawn at random; bounds the memory. At most
    10 million, whose features (384 columns) are 15 GB."""

    def __post_init__(self) -> None:
        one_of(("uniform", "provenance"), prior=self.prior)
        between(0.01, 100, sharpening=self.sharpening)
        between(0, MOST_WEIGHT, weight_decay=self.weight_decay, tolerance=self.tolerance)
        between(0, MOST_WEIGHT, provenance_strength=self.provenance_strength)
        between(1, MOST_ITERATIONS, iterations=self.iterations, steps=self.steps)
        between(1, MOST_SAMPLES, max_samples=self.max_samples)

    @property
    def needs(self) -> frozenset[str]:
        """The features, and the provenance if it is the prior."""
        return frozenset({"features", "provenance"} if self.prior == "provenance" else {"features"})


@dataclass
class FusedSettings(AssignerSettings):
    """The posterior of the true class from all sources at once, by EM."""

    mixes: ClassVar[bool] = False
    fuses: ClassVar[bool] = True

    regions: Literal["auto", "provenance", "domain", "learnt", "none"] = "auto"
    """Where the reliability of a source is estimated on its own. `provenance`: where samples
    resemble the training inputs of the same specialists; `domain`: the domain of the sample, which
    is known; `learnt`: a gate fitted by EM; `none`: everywhere alike; `auto`: `provenance` where
    there are trained specialists, else `none`."""
    student: bool = True
    """Take the student for one more source, from the second round on (`student.cross_fit`)."""
    strength: float | None = None
    """Answers per class by which a confusion matrix is drawn towards its simpler model; null is 5
    times the number of classes, 0 is plain Dawid-Skene."""
    iterations: int = 15
    """Maximum number of EM iterations. Each one reads all annotations."""
    tolerance: float = 1e-4
    """Stop when the mean log-likelihood per sample (nats) increases by less."""
    temperatures: bool = True
    """Fit an exponent for the probabilities of soft sources, where others say how far they can be
    trusted; otherwise they count as they are."""
    group_above: float = 0.3
    """Hard sources err together, and count as one, if they agree by this share more than their
    confusion matrices explain (copies: 1). Soft sources are one group. 1 turns groups off."""
    confidence_weight: bool = False
    """Weigh the loss of a sample by the probability of its most probable class."""
    max_samples: int = 30_000
    """Maximum number of samples, drawn at random, for exponents and groups; bounds the memory."""

    def __post_init__(self) -> None:
        one_of(("auto", "provenance", "domain", "learnt", "none"), regions=self.regions)
        if self.strength is not None:
            between(0, MOST_STRENGTH, strength=self.strength)
        between(0, MOST_WEIGHT, tolerance=self.tolerance)
        between(1, MOST_ITERATIONS, iterations=self.iterations)
        between(1, MOST_SAMPLES, max_samples=self.max_samples)
        positive_share(group_above=self.group_above)

    @property
    def guided(self) -> bool:
        """True if the student is a source."""
        return self.student

    @property
    def reads_student(self) -> bool:
        """Whether the student is a source."""
        return self.student

    @property
    def needs(self) -> frozenset[str]:
        """The features and the provenance, or the domains, as the regions need them."""
        by_regions = {
            "provenance": {"features", "provenance"},
            "domain": {"domains"},
            "learnt": {"features"},
        }
        return frozenset(by_regions.get(self.regions, set()))

    @property
    def uses(self) -> frozenset[str]:
        """What it needs; with `auto` also features and provenance, where there are any."""
        return self.needs | ({"features", "provenance"} if self.regions == "auto" else set())


@dataclass
class RavenSettings(UnguidedSettings):
    """Weights over all teachers, learned together with a linear probe that is taught by their
    mixture."""

    fuses: ClassVar[bool] = True

    per_sample: bool = False
    """Learn a vector of weights for each sample, instead of one for all."""
    easy: float = 0.2
    """Share of the epochs, the first ones, in which weights rest and only samples count on which
    all teachers agree (published: a setting, off in its configs)."""
    epochs: int = 30
    """Passes over the samples, in batches of 128 (published: 30 or 100)."""
    lr: float = 0.001
    """Adam's rate for the probe, which falls to 0 (published: 0.001, or 0.0001 for 100 epochs)."""
    weight_lr: float = 0.001
    """Rate of the gradient steps of the weights; 0 leaves them equal. With `per_sample` a step is
    taken on the sample's own loss, once an epoch, and needs a rate some hundred times as large."""
    standardize: bool = True
    """Scale each feature to mean 0 and variance 1 over the samples."""
    max_samples: int = 30_000
    """Maximum number of samples to learn from, drawn at random; bounds the memory. At most
    10 million, as for `gate`."""

    def __post_init__(self) -> None:
        share(easy=self.easy)
        between(1, MOST_ITERATIONS, epochs=self.epochs)
        between(0, MOST_RATE, lr=self.lr, weight_lr=self.weight_lr)
        between(1, MOST_SAMPLES, max_samples=self.max_samples)

    @property
    def needs(self) -> frozenset[str]:
        """The features."""
        return frozenset({"features"})


@dataclass
class CrowdLayerSettings(UnguidedSettings):
    """The prediction of a linear probe that is trained on all annotations through a confusion
    matrix per teacher."""

    mixes: ClassVar[bool] = False
    fuses: ClassVar[bool] = True

    annotations: Literal["soft", "hard"] = "soft"
    """Learn the probabilities of an annotation, or its most probable class only (published)."""
    epochs: int = 50
    """Passes over the samples, in batches of 64 (published: 50)."""
    lr: float = 0.001
    """Adam's rate for probe and matrices, which stays (published: 0.001)."""
    standardize: bool = True
    """Scale each feature to mean 0 and variance 1 over the samples."""
    max_samples: int = 30_000
    """Maximum number of samples to learn from, drawn at random; bounds the memory. At most
    10 million, as for `gate`."""

    def __post_init__(self) -> None:
        one_of(("soft", "hard"), annotations=self.annotations)
        between(1, MOST_ITERATIONS, epochs=self.epochs)
        between(0, MOST_RATE, lr=self.lr)
        between(1, MOST_SAMPLES, max_samples=self.max_samples)

    @property
    def needs(self) -> frozenset[str]:
        """The features."""
        return frozenset({"features"})


@dataclass
class CrowdKitSettings(UnguidedSettings):
    """The posterior of an aggregator of crowd-kit, from the most probable classes of all teachers
    (an extra: `pip install 'cosup[crowd]'`)."""

    mixes: ClassVar[bool] = False
    fuses: ClassVar[bool] = True

    method: Literal["one_coin", "mace", "glad", "wawa", "zero_based_skill"] = "one_coin"
    """An accuracy per teacher (`one_coin`); an accuracy, and the answers where it guesses (`mace`);
    an ability, and a difficulty per sample (`glad`, by far the slowest); votes weighted by their
    agreement with the majority (`wawa`), or with the weighted vote (`zero_based_skill`)."""

    def __post_init__(self) -> None:
        one_of(("one_coin", "mace", "glad", "wawa", "zero_based_skill"), method=self.method)


ASSIGNERS: dict[str, Entry] = {
    "single": Entry(SingleSettings, "cosup.assignment.baselines:Single"),
    "mean": Entry(MeanSettings, "cosup.assignment.baselines:Mean"),
    "random": Entry(RandomSettings, "cosup.assignment.baselines:Random"),
    "oracle": Entry(OracleSettings, "cosup.assignment.baselines:Oracle"),
    "loss_oracle": Entry(LossOracleSettings, "cosup.assignment.baselines:LossOracle"),
    "block": Entry(BlockSettings, "cosup.assignment.block:Block"),
    "agreement": Entry(AgreementSettings, "cosup.assignment.agreement:Agreement"),
    "confidence": Entry(ConfidenceSettings, "cosup.assignment.confidence:Confidence"),
    "dawid_skene": Entry(DawidSkeneSettings, "cosup.assignment.dawid_skene:DawidSkene"),
    "gate": Entry(GateSettings, "cosup.assignment.gate:Gate"),
    "raven": Entry(RavenSettings, "cosup.assignment.raven:Raven"),
    "crowd_layer": Entry(CrowdLayerSettings, "cosup.assignment.crowd_layer:CrowdLayer"),
    "crowd_kit": Entry(CrowdKitSettings, "cosup.assignment.crowd_kit:CrowdKit"),
    "fused": Entry(FusedSettings, "cosup.assignment.fused:Fused"),
}
