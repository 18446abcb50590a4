"""Check a config against the data, before any training."""

import torch

from cosup.config.schema import Assigners, Config, Losses, MetaSection
from cosup.data.table import ImageData
from cosup.errors import UserError, about, within
from cosup.losses.features import FeatureLoss
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.clip_text import check_prompts
from cosup.models.images import training_transform
from cosup.models.networks import BATCH_NORMS
from cosup.models.optimize import build_network_optimizer
from cosup.models.section import TrainingSection
from cosup.runs.losses import check_candidates
from cosup.runs.recipes import candidates
from cosup.teachers.hierarchy import Hierarchy, scopes, speakers
from cosup.words import plural


def check_task(config: Config, hierarchy: Hierarchy, data: ImageData) -> None:
    """Raise `UserError` for settings that the data or the teachers do not allow."""
    check_candidates(config, data)
    check_labels(config, data)
    check_network(config, data)
    check_text(config, data)
    if config.rounds.choose is not None:
        for candidate in candidates(config, hierarchy):
            with about(f"rounds.choose, '{candidate.name}'"):
                check_assigner(candidate.config, hierarchy, data)
    else:
        check_assigner(config, hierarchy, data)


def check_assigner(config: Config, hierarchy: Hierarchy, data: ImageData) -> None:
    """Raise `UserError` for an assigner that the teachers of a level do not allow."""
    assigner = Assigners.build(config.rounds.assignment)
    for number, level in enumerate(speakers(hierarchy)):
        with about(f"rounds.assignment, level {number}"):
            assigner.check(scopes(level, len(data.classes), len(data.domains)))


def check_labels(config: Config, data: ImageData) -> None:
    """Raise `UserError` if the student is to use labels and none is known."""
    known = data.given(data.rows("student_train")) >= 0
    if config.rounds.true_label_weight and not bool(known.any()):
        raise UserError(
            "needs labels of student_train, and none is known",
            key="rounds.true_label_weight",
            value=config.rounds.true_label_weight,
            allowed="0",
        )


def check_text(config: Config, data: ImageData) -> None:
    """Check the prompts of the class names, and that none is cut."""
    section = config.student
    if section.mode == "head" and section.head.init == "text":
        with within("student.head"):
            check_prompts(section.backbone, section.head, data.classes)


def check_network(config: Config, data: ImageData) -> None:
    """Check that the network can be built and trained, and compared with its teachers."""
    section = config.student
    if section.mode != "finetune":
        return
    backbone, training = section.backbone, section.training
    with within("student.backbone"):
        classifier = build_classifier(
            backbone.name,
            len(data.classes),
            backbone.weights,
            backbone.image_size,
            drop_path=training.drop_path,
        )
    with within("student.training"):
        training_transform(training.augment, classifier.input)
        build_network_optimizer(classifier, training)
        check_norms(classifier, training, len(data.rows("student_train")))
    if section.meta is not None:
        with within("student.meta"):
            check_meta(section.meta, config.rounds.true_label_weight > 0, data)
            build_network_optimizer(classifier, section.meta.training())
    _check_pairing(config, data, classifier)


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


def _check_pairing(config: Config, data: ImageData, student: Classifier) -> None:
    """Check that a loss on feature maps can compare those of student and teachers."""
    loss = Losses.build(config.rounds.loss)
    if not isinstance(loss, FeatureLoss):
        return
    for setup in config.teachers.setups:
        model = setup.model
        with within(setup.model_key):
            teacher = build_classifier(model.name, len(data.classes), None, model.image_size)
        with about(f"rounds.loss {config.rounds.loss.name}"):
            loss.connect(student.shapes(), teacher.shapes())
