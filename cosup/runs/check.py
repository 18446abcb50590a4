"""Check a config against its samples, files and networks, before anything is trained.

Each function is an entry of `cosup.runs.checks.SAMPLE_CHECKS`, and raises `UserError` with all that
it finds.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from cosup.config.rounds import RoundsSection
from cosup.config.schema import (
    Assigners,
    Config,
    ExecutionSection,
    Losses,
    MetaSection,
    RunSection,
    StudentSection,
)
from cosup.config.teachers import TeachersSection
from cosup.data.broken import try_images
from cosup.data.episodes import episode_rows
from cosup.data.load import Listed, list_source, load_data
from cosup.data.noise import transitions
from cosup.data.section import DataSection
from cosup.data.shifted_sets import with_shifted
from cosup.data.sources.base import Names
from cosup.data.table import ImageData
from cosup.errors import Mistakes, UserError, about, raise_all, within
from cosup.losses.features import FeatureLoss
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.clip_text import check_prompts
from cosup.models.compute import Compute
from cosup.models.images import training_transform
from cosup.models.optimize import build_network_optimizer
from cosup.models.ranks import BATCH_NORMS
from cosup.models.training_section import TrainingSection
from cosup.runs.choose import learns_labels
from cosup.runs.losses import check_candidates
from cosup.runs.prepare import make_compute
from cosup.runs.recipes import candidates
from cosup.sections import Choice
from cosup.seeds import seed_for
from cosup.teachers import train
from cosup.teachers.base import Training, training_rows
from cosup.teachers.features import FeatureCache, FeatureSource
from cosup.teachers.hierarchy import Hierarchy, plan_hierarchy, scopes, speakers
from cosup.teachers.tables import checks as tables
from cosup.words import plural


def listed(run: RunSection, data: DataSection, names: Names) -> Listed:
    """Return the samples of the source. names: found, so that folders and files are there."""
    with within("data"):
        return list_source(data, seeds_of(run)[0])


def split(run: RunSection, data: DataSection, source: Listed, teacher_train: bool) -> ImageData:
    """Return the samples with their splits; no image is decoded."""
    section = data.model_copy(update={"check": "none"})
    seed = seeds_of(run)[0]
    try:
        found = load_data(section, seed, 1, None, teacher_train=teacher_train, listed=source)
    except UserError as error:
        if any(single.key[:2] != ("data", "noise") for single in error.errors):
            raise
        section = section.model_copy(update={"noise": None})  # `check_noise` tells it
        found = load_data(section, seed, 1, None, teacher_train=teacher_train, listed=source)
    return with_shifted(found, section, seed, 1, None)


def check_noise(data: DataSection, samples: ImageData) -> None:
    """Check that label noise is of the classes of the samples."""
    if data.noise is not None:
        with within("data.noise"):
            transitions(data.noise, samples.classes)


def check_images(data: DataSection, source: Listed) -> None:
    """Decode some of the images, and check that they can be read."""
    with within("data"):
        try_images(data, source.samples)


def check_tables(data: DataSection, teachers: TeachersSection, source: Listed) -> None:
    """Check annotation tables against the classes and the ids of the samples."""
    samples, left_out = source
    if data.few_shot is not None or len(samples.classes) < 2:  # told by others
        return
    ids = [*map(str, samples.table["sample_id"]), *left_out]
    raise_all(tables.check_tables(teachers, samples.classes, ids))


def seeds_of(run: RunSection) -> Sequence[int]:
    """Return the seeds that the config is run with."""
    return run.seeds or [run.seed]


def find_compute(run: RunSection, execution: ExecutionSection, device: str) -> Compute:
    """Return the device that the run computes on, its precision and its threads.

    device: the name, which is one of a device, whether this machine has it or not.
    """
    return make_compute(run, execution)


def open_features(run: RunSection, execution: ExecutionSection) -> FeatureCache:
    """Return the cache of the run's features; its backbones are loaded on the CPU."""
    try:
        compute = make_compute(run, execution)
    except UserError:  # told by `find_compute`
        return FeatureCache(Compute())
    return FeatureCache(replace(compute, device=torch.device("cpu")), device=compute.device)


def planned(run: RunSection, teachers: TeachersSection, samples: ImageData) -> Hierarchy:
    """Return the hierarchy of teachers for the classes and domains of the samples."""
    return plan_hierarchy(teachers, samples.classes, samples.domains, seeds_of(run)[0])


def check_teachers(
    run: RunSection,
    teachers: TeachersSection,
    samples: ImageData,
    hierarchy: Hierarchy,
    features: FeatureCache,
) -> None:
    """Check the samples of scopes, networks, weights, functions, and tables against the samples."""
    training = Training(teachers, samples, seeds_of(run)[0], features)
    train.check_teachers(hierarchy, training)


def load_backbone(student: StudentSection, features: FeatureCache) -> FeatureSource | None:
    """Return the features of a student that is a head, and reads text; None for others.

    A head's backbone is loaded, unless it was before: it takes seconds.
    """
    if student.mode != "head":
        return None
    with within("student.backbone"):
        if student.head.reads_text:
            return features.source(student.backbone)
        features.describe(student.backbone)
    return None


def build_student(student: StudentSection, samples: ImageData) -> Classifier | None:
    """Return the network of a student that is fine-tuned; None for a head."""
    if student.mode != "finetune":
        return None
    backbone = student.backbone
    with within("student.backbone"):
        return build_classifier(
            backbone.name,
            len(samples.classes),
            backbone.weights,
            backbone.image_size,
            drop_path=student.training.drop_path,
        )


def check_student(student: StudentSection, samples: ImageData, network: Classifier | None) -> None:
    """Check that the student can be trained with its settings."""
    if network is None:
        return
    training, mistakes = student.training, Mistakes()
    with mistakes.caught(), within("student.training"):
        training_transform(training.augment, network.input)
    with mistakes.caught(), within("student.training"):
        build_network_optimizer(network, training)
    with mistakes.caught(), within("student.training"):
        check_norms(network, training, len(samples.rows("student_train")))
    if student.meta is not None:
        with mistakes.caught(), within("student.meta"):
            build_network_optimizer(network, student.meta.training())
    mistakes.raise_all()


def check_meta_stage(student: StudentSection, rounds: RoundsSection, samples: ImageData) -> None:
    """Check that the episodes of the meta stage can be drawn."""
    if student.meta is not None:
        with within("student.meta"):
            check_meta(student.meta, rounds.true_label_weight > 0, samples)


def check_episodes(run: RunSection, data: DataSection, samples: ImageData) -> None:
    """Check that the episodes that measure can be drawn."""
    parts = {"novel": samples.novel, "novel_validation": samples.novel_validation}
    for part, images in parts.items():
        if images is not None:
            assert data.few_shot is not None
            episode_rows(images, data.few_shot, seed_for(seeds_of(run)[0], part))


def check_text(student: StudentSection, samples: ImageData, backbone: FeatureSource | None) -> None:
    """Check the prompts of the class names, and that none is cut."""
    if backbone is not None and student.head.reads_text:
        with within("student.head"):
            check_prompts(student.backbone, student.head, samples.classes)


def check_labels(rounds: RoundsSection, samples: ImageData) -> None:
    """Check that labels are known if the student or the assigner is to use them."""
    check_known(rounds, bool((samples.given(samples.rows("student_train")) >= 0).any()))


def check_known(rounds: RoundsSection, known: bool) -> None:
    """Raise `UserError` if the student or the assigner is to use labels of student_train. known:
    whether any is known."""
    mistakes = Mistakes()

    def refuse(wrong: bool, key: str, value: object, allowed: str) -> None:
        if wrong and not known:
            problem = "needs labels of student_train, and none is known"
            mistakes.add([UserError(problem, key=key, value=value, allowed=allowed)])

    weight, assignment = rounds.true_label_weight, rounds.assignment
    refuse(bool(weight), "rounds.true_label_weight", weight, "0")
    reads = rounds.choose is None and "truth" in Assigners.settings(assignment).needs
    refuse(reads, "rounds.assignment", assignment.name, "one that reads no true label")
    mistakes.raise_all()


def check_losses(rounds: RoundsSection, samples: ImageData) -> None:
    """Check that what a loss chooses can be chosen, and that several losses can be compared."""
    check_candidates(rounds, samples)
    if rounds.losses is not None and samples.novel is None and not len(samples.rows("test")):
        raise UserError(
            "compares losses by test accuracy, and there is no test split",
            key="rounds.losses",
            value=[choice.name for choice in rounds.losses],
            allowed="null",
        )


def check_pairs(config: Config, samples: ImageData, network: Classifier | None) -> None:
    """Check that losses on feature maps can compare those of student and teachers."""
    mistakes = Mistakes()
    for choice in config.rounds.losses or [config.rounds.loss]:
        with mistakes.caught():
            _check_pair(choice, config.teachers, samples, network)
    mistakes.raise_all()


def _check_pair(
    choice: Choice, teachers: TeachersSection, samples: ImageData, network: Classifier | None
) -> None:
    loss = Losses.build(choice)
    if network is None or not isinstance(loss, FeatureLoss):
        return
    for setup in teachers.setups:
        model = setup.model
        with within(setup.model_key):
            teacher = build_classifier(model.name, len(samples.classes), None, model.image_size)
        with about(f"rounds.loss {choice.name}"):
            loss.connect(network.shapes(), teacher.shapes())


def check_assigner(
    rounds: RoundsSection, hierarchy: Hierarchy, samples: ImageData, in_shards: int | None = None
) -> None:
    """Check that the assigner can use the teachers of every level, and hold the samples. in_shards:
    their number, if those of student_train are not listed."""
    if rounds.choose is not None:
        return
    assigner = Assigners.build(rounds.assignment)
    levels = list(enumerate(speakers(hierarchy)))
    for number, level in levels[-1:] if assigner.fuses else levels:
        with about(f"rounds.assignment, level {number}"):
            of_level = scopes(level, len(samples.classes), len(samples.domains))
            assigner.check(of_level)
            if in_shards is not None:
                assigner.check_parts(in_shards, of_level)


def check_recipes(config: Config, hierarchy: Hierarchy, samples: ImageData) -> None:
    """Check the recipes that a run chooses from."""
    if config.rounds.choose is None:
        return
    mistakes = Mistakes()
    for candidate in candidates(config, hierarchy, learns_labels(config, samples)):
        with mistakes.caught(), about(f"rounds.choose, '{candidate.name}'"):
            check_assigner(candidate.config.rounds, hierarchy, samples)
    mistakes.raise_all()


def check_seeds(config: Config, samples: ImageData, hierarchy: Hierarchy) -> None:
    """Check what differs between `run.seeds`: splits, blocks of classes, samples of scopes."""
    section = config.data.model_copy(update={"check": "none"})
    for seed in seeds_of(config.run)[1:]:
        with about(f"seed {seed}"):
            data = load_data(section, seed, 1, None, teacher_train=config.wants_teacher_train)
            specs = plan_hierarchy(config.teachers, data.classes, data.domains, seed)
            for spec in (spec for level in specs for spec in level if spec.trained):
                training_rows(spec, data)


def check_norms(classifier: Classifier, training: TrainingSection, samples: int) -> None:
    """Check that a network with batch norms gets at least two images at a time."""
    size = min(training.batch_size, samples) // training.accumulate
    if size < 2 and any(isinstance(module, BATCH_NORMS) for module in classifier.modules()):
        parts = f" (in {training.accumulate} parts)" if training.accumulate > 1 else ""
        raise UserError(
            f"gives '{classifier.name}' one image at a time{parts}; "
            "its batch norms need at least 2",
            key="batch_size",
            value=training.batch_size,
        )


def check_meta(section: MetaSection, with_labels: bool, data: ImageData) -> None:
    """Check that episodes of the base classes can be drawn, as far as labels are known."""
    base, each = len(data.classes), section.shots + section.queries
    if section.ways > base:
        raise UserError(
            f"there are only {plural(base, 'base class')}", key="ways", value=section.ways
        )
    labels = data.given(data.rows("student_train"))
    if with_labels and bool((labels >= 0).all()):
        counts = torch.bincount(labels, minlength=base)
        if int((counts >= each).sum()) < section.ways:
            raise UserError(
                f"with shots {section.shots} an episode takes {each} images of each of "
                f"{section.ways} classes, and student_train has at most "
                f"{int(counts.sort(descending=True).values[section.ways - 1])}",
                key="queries",
                value=section.queries,
            )
    elif section.ways * each > len(labels):
        raise UserError(
            f"with ways {section.ways} and shots {section.shots} an episode takes "
            f"{section.ways * each} images, and student_train has {len(labels)}",
            key="queries",
            value=section.queries,
        )
