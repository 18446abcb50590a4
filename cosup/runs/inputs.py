"""The inputs of a run's student: features or images to train on, splits or episodes to test on."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cosup.config.needs import assigner_needs, filter_needs
from cosup.config.schema import Assigners, Config
from cosup.controls import LABELS, TEAM
from cosup.data.episodes import EpisodeRows, episode_rows
from cosup.data.loader import ImageRows
from cosup.data.shifted import shifted_split
from cosup.data.table import ImageData
from cosup.errors import within
from cosup.models.centroids import episode_probs
from cosup.models.clip_text import learnt_prompts, prompts_of, text_features
from cosup.models.compute import Compute
from cosup.models.learnt_prompts import LearntPrompts
from cosup.models.section import HeadSection
from cosup.probabilities import ProbTable
from cosup.progress import working_on
from cosup.protocols import Inputs, TestInputs, TestSets
from cosup.runs.losses import candidates
from cosup.runs.summary import TestSplit
from cosup.seeds import seed_for
from cosup.teachers.base import Teacher
from cosup.teachers.features import FeatureCache, cached_part
from cosup.teachers.store import AnnotationStore
from cosup.words import plural

log = logging.getLogger(__name__)

PROVENANCE = "teacher_train"
FEATURE_ORDER = ("student_train", "test", "validation", PROVENANCE)


@dataclass(frozen=True)
class Evaluation:
    """The samples on which students and teachers are evaluated.

    part: the name of the split, or of the novel classes. inputs: what the student reads of them.
    split: their true labels, domains and groups. sample_ids: the names of the images, in order.
    episodes: the episodes of novel classes, for few-shot learning; None for a split that teachers
    annotate.
    """

    part: str
    inputs: TestInputs
    split: TestSplit
    sample_ids: list[str]
    episodes: EpisodeRows | None = None

    def answers(self, teacher: Teacher, store: AnnotationStore, compute: Compute) -> ProbTable:
        """Return a teacher's annotations; in episodes, the nearest centroids of its embeddings."""
        if self.episodes is None:
            return store.level(self.part, [teacher.name]).table(teacher.name)
        found = self.episodes
        batches = teacher.inputs(found.data, found.used, compute)
        embeddings = torch.cat([teacher.embed(batch) for batch in batches])
        return episode_probs(embeddings, found.support, found.query)


@dataclass(frozen=True)
class StudentInputs:
    """What the student of a run reads, and how it starts.

    train: its inputs of student_train. features, provenance: [n, D] features of student_train and
    of teacher_train, if the assigner needs them; those of a fine-tuned student's network before the
    first round. head: the settings of its head, with the logit scale of its backbone. prototypes:
    [C, D] text features that the head starts from, or None. of_split: its inputs of any split for
    which they were computed. split_features: the features by split. shifted: the shifted test sets,
    by name. prompts: that the head learns, or None.
    """

    train: Inputs
    test: Evaluation
    validation: Evaluation | None
    features: Tensor | None
    provenance: Tensor | None
    head: HeadSection
    prototypes: Tensor | None
    of_split: Callable[[str], Inputs]
    split_features: Mapping[str, Tensor]
    shifted: Mapping[str, Evaluation] = field(default_factory=dict)
    prompts: LearntPrompts | None = None

    @property
    def test_inputs(self) -> TestInputs:
        """Return the inputs of the test samples, and of the shifted sets after them."""
        if not self.shifted:
            return self.test.inputs
        return TestSets((self.test.inputs, *(one.inputs for one in self.shifted.values())))


def student_inputs(config: Config, data: ImageData, cache: FeatureCache) -> StudentInputs:
    """Compute the features for a head, or list the images for a network.

    Features are read from the cache where it has them. Raises `UserError` for episodes that cannot
    be drawn.
    """
    prototypes = _prototypes(config, data, cache)
    features = _features(config, data, cache)
    head = config.student.mode == "head"

    def read(split: str) -> Inputs:
        return features[split] if head and split in features else _images(data, split)

    if data.novel is not None:
        test = _episodes("novel", data.novel, config)
        others = data.novel_validation
        validation = None if others is None else _episodes("novel_validation", others, config)
    else:
        test = _split("test", read("test"), data)
        validation = None
        if len(data.rows("validation")):
            validation = _split("validation", read("validation"), data)
    shifted = {
        name: _shifted(name, part, features.get(shifted_split(name)) if head else None)
        for name, part in data.shifted.items()
    }
    return StudentInputs(
        train=read("student_train"),
        test=test,
        validation=validation,
        features=features.get("student_train"),
        provenance=features[PROVENANCE]
        if "provenance" in assigner_needs(config.teachers, config.rounds)
        else None,
        head=_head(config, cache),
        prototypes=prototypes,
        of_split=read,
        split_features=features,
        shifted=shifted,
        prompts=_learnt_prompts(config, data, cache),
    )


def split_of(data: ImageData, split: str) -> TestSplit:
    """Return the true labels, domains and groups of a split."""
    rows = data.rows(split)
    truth = data.truth(rows)
    groups = torch.from_numpy(data.groups(rows))
    few = data.applied.split == split
    return TestSplit(truth.labels, truth.domains, groups, data.classes, data.domains, few=few)


def _images(data: ImageData, split: str) -> Inputs:
    return ImageRows(data, data.rows(split))


def _episodes(part: str, novel: ImageData, config: Config) -> Evaluation:
    section = config.data.few_shot
    assert section is not None
    drawn = episode_rows(novel, section, seed_for(config.run.seed, part))
    split = TestSplit(
        drawn.way,
        torch.zeros(len(drawn), dtype=torch.int64),
        drawn.group,
        novel.classes,
        ("all",),
        kinds=drawn.class_of,
    )
    queries = drawn.episodes.query.flatten().numpy()
    return Evaluation(part, drawn, split, novel.sample_ids(queries), drawn)


def _split(part: str, inputs: Inputs, data: ImageData) -> Evaluation:
    return Evaluation(part, inputs, split_of(data, part), data.sample_ids(data.rows(part)))


def _shifted(name: str, data: ImageData, features: Tensor | None) -> Evaluation:
    """Return a shifted set. features: of a head; a network reads images."""
    inputs = _images(data, "test") if features is None else features
    ids = data.sample_ids(data.rows("test"))
    return Evaluation(shifted_split(name), inputs, split_of(data, "test"), ids)


def measured_on(config: Config, data: ImageData) -> str | None:
    """Return what accuracies are measured on, in words; None if nothing is measured."""
    section = config.data.few_shot
    if data.applied.split == "test":
        return f"on {plural(data.applied.measuring, 'reviewed image')}"
    if section is None:
        return "on the test split" if len(data.rows("test")) else None
    kind = f"{section.ways}-way {section.shots}-shot"
    return f"over {section.episodes} {kind} episodes of novel classes"


def feature_splits(config: Config, data: ImageData) -> list[str]:
    """Return the splits whose features a head, the assigner, the team or a control reads."""
    rounds, splits = config.rounds, set[str]()
    needs = assigner_needs(config.teachers, rounds) | filter_needs(rounds)
    team = fitting_samples(config, data).split
    if rounds.choose is not None:  # what the recipes read, and what they are compared on
        splits = set(FEATURE_ORDER)
    elif config.student.mode == "head":
        splits = {"student_train", "test", *(["validation"] if candidates(rounds.loss) else [])}
        splits |= {PROVENANCE} if trains_on_labels(config, data) else set()
        splits |= {team} if team else set()
    elif needs & {"features", "provenance"}:
        splits = {"student_train", *(["test"] if team or TEAM in config.controls else [])}
        splits |= {team} if team else set()
    head = config.student.mode == "head"
    labelled = rounds.labelled and head
    splits |= {PROVENANCE} if "provenance" in needs or labelled else set()
    return [split for split in FEATURE_ORDER if split in splits]


@dataclass(frozen=True)
class FittingSamples:
    """The labelled samples by which student and team are combined.

    split: `validation`, or `teacher_train`, which teachers answer that were trained without them;
    None where there is no team, or no such samples, for this reason.
    """

    split: str | None
    reason: str = ""


def fitting_samples(config: Config, data: ImageData) -> FittingSamples:
    """Return the samples by which student and team are combined, or why there are none.

    A few reviewed images serve where there is nothing else.
    """
    teachers, assigner = config.teachers, Assigners.settings(config.rounds.assignment)
    costly = any(one.trained and not one.cross_fits for one in teachers.setups)
    reason = ""
    if config.data.few_shot is not None:
        reason = "the student is for new classes, which the teachers do not know"
    elif teachers.hierarchy is None:
        reason = "all teachers are annotation tables, which cannot answer new images"
    elif assigner.needs & {"truth", "domains"}:
        reason = f"the assigner {config.rounds.assignment.name} needs what is unknown of new images"
    if reason:
        return FittingSamples(None, reason)
    validation = bool((data.given(data.rows("validation")) >= 0).any())
    if validation and data.applied.split != "validation":
        return FittingSamples("validation")
    if data.share_train:
        reason = "there is no validation split, and teachers and student share their samples"
    elif not bool((data.given(data.rows(PROVENANCE)) >= 0).any()):
        reason = "there is no validation split, and no label of teacher_train is known"
    elif costly:
        reason = "there is no validation split, and training the teachers again costs too much"
    elif config.rounds.labelled and not config.folds:
        reason = "there is no validation split, and the student is not cross-fitted on the labels"
    if not reason:
        return FittingSamples(PROVENANCE)
    return FittingSamples("validation") if validation else FittingSamples(None, reason)


def trains_on_labels(config: Config, data: ImageData) -> bool:
    """Return whether a control trains the student on the teachers' labelled samples."""
    trained = config.teachers.trains_on_labels
    return LABELS in config.controls and trained and len(data.rows(PROVENANCE)) > 0


def _features(config: Config, data: ImageData, features: FeatureCache) -> dict[str, Tensor]:
    """Compute the features [n, D] float16 of each split that a head or the assigner reads."""
    splits = feature_splits(config, data)
    if not splits:
        return {}
    with within("student.backbone"):
        source = features.source(config.student.backbone)
    log.debug("features are cached in %s", features.compute.cache)
    found = {}
    for split in splits:
        name = source.backbone.name
        with working_on(f"features of {name}: image", len(cached_part(data, split))) as show:
            found[split] = source.of_split(data, split, _steps(show))
        if len(found[split]):
            log.info("features of %s: %s, %d samples", name, split, len(found[split]))
    for set_name, part in data.shifted.items() if "test" in splits else ():
        name, split = source.backbone.name, shifted_split(set_name)
        with working_on(f"features of {name}: image", len(part)) as show:
            found[split] = source.of_split(part, "test", _steps(show))
        log.info("features of %s: %s, %d samples", name, split, len(found[split]))
    return found


def _head(config: Config, features: FeatureCache) -> HeadSection:
    """Return the head's settings; prototypes on CLIP take its logit scale unless one is given."""
    section = config.student
    if section.mode != "head" or section.head.kind != "prototype" or section.head.scale:
        return section.head
    scale = features.source(section.backbone).backbone.logit_scale
    return section.head.model_copy(update={"scale": scale})


def _prototypes(config: Config, data: ImageData, features: FeatureCache) -> Tensor | None:
    """Return the text features [C, D] of the classes, for a head that starts from them."""
    section = config.student
    if section.mode != "head" or section.head.init != "text":
        return None
    with within("student.head"):
        prompts = prompts_of(section.backbone, section.head, data.classes)
    with within("student.backbone"):
        features.source(section.backbone)  # its errors come before those of the text encoder
        compute = Compute(features.compute.device, cache=features.compute.cache)
        return text_features(section.backbone, prompts, compute)


def _learnt_prompts(
    config: Config, data: ImageData, features: FeatureCache
) -> LearntPrompts | None:
    """Return the prompts of the classes, for a head that learns them."""
    section = config.student
    if section.mode != "head" or section.head.init != "prompts":
        return None
    with within("student.head"):
        prompts = prompts_of(section.backbone, section.head, data.classes)
    with within("student.backbone"):
        features.source(section.backbone)
        return learnt_prompts(section.backbone, prompts, section.head.context)


def _steps(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Turn a count of all that is done into a count of what is newly done."""
    last = 0

    def report(done: int) -> None:
        nonlocal last
        advance(done - last)
        last = done

    return report
