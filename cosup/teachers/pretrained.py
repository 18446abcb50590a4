"""Pretrained classifiers as teachers, as they are: their classes are mapped onto the task's."""

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cosup.errors import within
from cosup.models.classifier import Classifier
from cosup.models.pretrained import (
    MergedClassifier,
    class_names,
    pretrained_classifier,
    restored_classifier,
)
from cosup.settings.teachers import PretrainedKind
from cosup.teachers.base import Teacher, Training, masked_softmax
from cosup.teachers.class_groups import class_groups
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.network import ClassifierTeacher

__all__ = ["PretrainedTeacher"]


class PretrainedTeacher(PretrainedKind, ClassifierTeacher):
    """Adds up the probabilities of its own classes to those of the task, within its scope.

    The probability of all other classes, the mass outside, is left out, and the rest is scaled to
    sum to 1.
    """

    classifier: MergedClassifier

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Load the classifiers; nothing is trained."""
        return [cls._loaded(spec, training) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Raise `UserError` for a name, weights or classes that cannot be used."""
        cls.train(specs, training)

    @classmethod
    def _loaded(cls, spec: TeacherSpec, training: Training) -> Teacher:
        model = spec.model
        with within(spec.setup.model_key):
            found = pretrained_classifier(model.name, model.weights, model.image_size)
        return cls._merging(spec, found, training)

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """Return the teacher whose classifier has this state."""
        found = restored_classifier(spec.model.name, state, spec.model.image_size)
        return cls._merging(spec, found, training)

    @classmethod
    def _merging(cls, spec: TeacherSpec, found: Classifier, training: Training) -> Teacher:
        """Return the teacher of a classifier. Raises `UserError` for a mapping that is wrong."""
        classes = training.data.classes
        scope, names = spec.classes or range(len(classes)), class_names(found)
        with within(spec.setup.model_key):
            groups = class_groups(spec.model, classes, scope, found.num_classes, names)
        merged = MergedClassifier(found, groups, len(classes)).eval()
        return cls(spec, merged, training.compute, steps=0)

    @torch.inference_mode()
    def annotate_on_device(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] on the device; 0 where the scope has under `least_mass`."""
        logits = self._logits(inputs)
        answers = self._inside(logits) >= self.spec.model.least_mass
        return masked_softmax(logits, self.support) * answers[:, None]

    @torch.inference_mode()
    def outside(self, inputs: Tensor) -> Tensor:
        """Return the probability [B] of the classes that are not in its scope."""
        return (1 - self._inside(self._logits(inputs))).cpu()

    def _inside(self, logits: Tensor) -> Tensor:
        """Return the probability [B] of its scope, on the device of log-probabilities [B, C]."""
        outside = ~self.support.to(logits.device)
        return logits.masked_fill(outside, -torch.inf).logsumexp(-1).exp().clamp(0, 1)

    def origin(self) -> str:
        """Return which of its classes are which of the task's, and when it abstains."""
        return json.dumps([self.classifier.groups.tolist(), self.spec.model.least_mass])
