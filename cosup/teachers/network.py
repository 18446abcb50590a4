"""Teachers that are networks, trained from scratch or from weights, or a checkpoint."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import torch
from torch import Tensor

from cosup.data.loader import TrainingBatches
from cosup.data.transforms import eval_transform
from cosup.errors import about, within
from cosup.layout.folders import TeacherFiles
from cosup.losses.base import Objective
from cosup.models.classifier import Classifier, build_classifier, load_checkpoint
from cosup.models.compute import Compute
from cosup.models.images import training_transform
from cosup.models.loop_state import StateFile
from cosup.models.optimize import build_network_optimizer
from cosup.models.step import check_settings
from cosup.models.train import Batch, Batches, TrainContext, TrainModule, train_network
from cosup.seeds import seed_for
from cosup.settings.teachers import NetworkKind
from cosup.teachers.base import (
    ImageTeacher,
    ScopedCrossEntropy,
    Teacher,
    Training,
    learned_classes,
    masked_softmax,
    training_rows,
)
from cosup.teachers.hierarchy import TeacherSpec

__all__ = ["ClassifierTeacher", "NetworkTeacher"]


class ClassifierTeacher(ImageTeacher):
    """A classifier over the task's classes that reads uint8 images [B, 3, size, size]."""

    def __init__(
        self, spec: TeacherSpec, classifier: Classifier, compute: Compute, steps: int
    ) -> None:
        super().__init__(spec, classifier.num_classes, steps)
        self.classifier = classifier
        self.compute = compute
        self.transform = eval_transform(classifier.input)

    def annotate(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] of images uint8 [B, 3, size, size]."""
        return self.annotate_on_device(inputs).cpu()

    @torch.inference_mode()
    def annotate_on_device(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] of images uint8 [B, 3, size, size], on the device."""
        return masked_softmax(self._logits(inputs), self.support)

    @torch.inference_mode()
    def embed(self, inputs: Tensor) -> Tensor:
        """Return embeddings [B, D] of images uint8 [B, 3, size, size]."""
        network = self.classifier.to(self.compute.device).eval()
        with self.compute.autocast():
            found = network.embed(inputs)
        return found.float().cpu()

    def _logits(self, inputs: Tensor) -> Tensor:
        """Return logits [B, C] of images uint8 [B, 3, size, size], on the device."""
        network = self.classifier.to(self.compute.device).eval()
        with self.compute.autocast():
            logits: Tensor = network(inputs)
        return logits.float()

    def network(self) -> Classifier:
        """Return the classifier."""
        return self.classifier

    def unload(self) -> None:
        """Move the network to the CPU until it computes again."""
        self.classifier.to("cpu")

    def state(self) -> dict[str, Tensor]:
        """Return the network's weights under the library's own names."""
        return {name: t.detach().cpu() for name, t in self.classifier.model.state_dict().items()}


class NetworkTeacher(NetworkKind, ClassifierTeacher):
    """A network that is trained here, or a checkpoint."""

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Train the teachers in turn, or load their checkpoints."""
        return [cls._train_one(spec, training) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Raise `UserError` for a scope without samples, wrong settings, or a network, weights or
        a checkpoint that is not available."""
        if specs[0].model.checkpoint is not None:
            cls.train(specs, training)
            return
        super().check(specs, training)
        setup, setting = specs[0].setup, specs[0].training
        classifier = _build_network(specs[0], training, setup.model.weights)
        with within(setup.training_key):
            check_settings(Objective(ScopedCrossEntropy(torch.ones(1))), setting)
            build_network_optimizer(classifier, setting)
            training_transform(setting.augment, classifier.input)

    @classmethod
    def _train_one(cls, spec: TeacherSpec, training: Training) -> Teacher:
        model, compute = spec.model, training.compute
        classifier = _build_network(spec, training, model.weights)
        if model.checkpoint is not None:
            with within(f"{spec.setup.model_key}.checkpoint"):
                load_checkpoint(classifier, model.checkpoint.replace("{name}", spec.name))
            return cls(spec, classifier, compute, steps=0)
        teacher = cls(spec, classifier, compute, steps=0)
        teacher.steps = _train_network(teacher, training)
        return teacher

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """Return the teacher whose network has this state."""
        classifier = _build_network(spec, training, None)
        classifier.model.load_state_dict(dict(state))
        return cls(spec, classifier, training.compute, steps)


def _build_network(spec: TeacherSpec, training: Training, weights: str | None) -> Classifier:
    model = spec.model
    seed = seed_for(training.seed, "teachers", spec.name)
    classes = len(training.data.classes)
    with within(spec.setup.model_key):
        drop_path = spec.training.drop_path
        return build_classifier(model.name, classes, weights, model.image_size, seed, drop_path)


def _train_network(teacher: NetworkTeacher, training: Training) -> int:
    """Train on the samples of the scope; return the number of steps.

    Raises `RunError` for a loss that is not finite.
    """
    setting, compute = teacher.spec.training, training.compute
    rows = training_rows(teacher.spec, training.data, training.rows)
    seed = seed_for(training.seed, "teachers", teacher.name)
    steps = setting.total_steps(len(rows))
    images = TrainingBatches(
        training.data,
        rows,
        training_transform(setting.augment, teacher.classifier.input),
        setting.batch_for(len(rows)),
        steps,
        seed,
        compute.workers,
    )
    directory = training.directory
    context = TrainContext(
        seed=seed,
        compute=compute,
        report=lambda step, loss, _: training.report(teacher.name, step, loss, steps),
        states=None
        if directory is None
        else StateFile(TeacherFiles(directory).pending(teacher.name)),
        identity=_training_hash(teacher, training),
        settings=teacher.spec.setup.training_key,
    )
    with about(f"teacher '{teacher.name}'"):
        train_network(
            TrainModule(teacher.classifier),
            _batches(images, training.data.given(rows), teacher.num_classes),
            Objective(ScopedCrossEntropy(learned_classes(teacher.spec, teacher.num_classes))),
            setting,
            steps,
            context,
            teacher.classifier.pixels,
        )
    return steps


def _batches(images: TrainingBatches, labels: Tensor, classes: int) -> Batches:
    """Return the batches of images, with their labels [N] as targets."""

    def batches(start: int) -> Iterator[Batch]:
        with closing(images(start)) as stream:
            for pixels, positions in stream:
                targets = torch.nn.functional.one_hot(labels[positions], classes).float()
                yield Batch(pixels, targets)

    return batches


def _training_hash(teacher: NetworkTeacher, training: Training) -> str:
    """Hash what the teacher learns from: the state of another training must not be resumed."""
    parts = (
        teacher.name,
        teacher.spec.classes,
        teacher.spec.domains,
        teacher.spec.model.hashed(),
        training.data.split_fingerprint("teacher_train"),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
