"""A whole network, trained here from scratch or from weights, or a checkpoint used as it is."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from cosup.data.decode import image_batches
from cosup.data.table import ImageData
from cosup.errors import RunError, about
from cosup.models.classifier import Classifier, build_classifier, load_checkpoint
from cosup.models.optimize import build_optimizer, set_rate
from cosup.models.samples import Shuffle
from cosup.seeds import seed_for, torch_generator
from cosup.teachers.base import (
    Resources,
    Rows,
    Teacher,
    Training,
    masked_softmax,
    training_rows,
)
from cosup.teachers.features import eval_transform
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.scoped_loss import ScopedCrossEntropy

__all__ = ["NetworkTeacher"]

log = logging.getLogger(__name__)

MEMORY = 2**30
"""Training images up to this size (bytes) are decoded once; larger sets anew in every pass."""
STEPS_AHEAD = 64  # steps whose images one decoding pool serves


class NetworkTeacher(Teacher):
    """Reads uint8 images [B, 3, size, size]."""

    kind = "network"

    def __init__(
        self, spec: TeacherSpec, classifier: Classifier, device: torch.device, steps: int
    ) -> None:
        super().__init__(spec, classifier.num_classes, steps)
        self.classifier = classifier
        self.device = device
        self.transform = eval_transform(classifier.input)

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Train these teachers one after another, or load their checkpoints."""
        return [cls._train_one(spec, training) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Every scope has samples, and the network or its checkpoints can be had."""
        if training.section.model.checkpoint is not None:
            cls.train(specs, training)
            return
        super().check(specs, training)
        _build(specs[0], training, training.section.model.weights)

    @classmethod
    def _train_one(cls, spec: TeacherSpec, training: Training) -> Teacher:
        model, device = training.section.model, training.resources.device
        classifier = _build(spec, training, model.weights)
        if model.checkpoint is not None:
            with about("teachers.model.checkpoint"):
                load_checkpoint(classifier, model.checkpoint.replace("{name}", spec.name))
            return cls(spec, classifier, device, steps=0)
        teacher = cls(spec, classifier, device, steps=0)
        teacher.steps = _fit(teacher, training)
        return teacher

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """The teacher with this network."""
        classifier = _build(spec, training, None)
        classifier.model.load_state_dict(dict(state))
        return cls(spec, classifier, training.resources.device, steps)

    @property
    def reads(self) -> str:
        """Its transform."""
        return self.transform.key

    def inputs(self, data: ImageData, rows: Rows, resources: Resources) -> Iterator[Tensor]:
        """Images uint8 [B, 3, size, size]."""
        return image_batches(data, rows, self.transform, resources.batch_size, resources.workers)

    @torch.inference_mode()
    def annotate(self, inputs: Tensor) -> Tensor:
        """Probabilities [B, C] of images uint8 [B, 3, size, size]."""
        logits = self.classifier.to(self.device).eval()(inputs)
        return masked_softmax(logits, self.support)

    def state(self) -> dict[str, Tensor]:
        """The network's weights, under the library's own names."""
        return {name: t.detach().cpu() for name, t in self.classifier.model.state_dict().items()}


def _build(spec: TeacherSpec, training: Training, weights: str | None) -> Classifier:
    model = training.section.model
    seed = seed_for(training.seed, "teachers", spec.name)
    classes = len(training.data.classes)
    with about("teachers.model"):
        return build_classifier(model.name, classes, weights, model.image_size, seed)


def _fit(teacher: NetworkTeacher, training: Training) -> int:
    """Train on the scope's samples; the number of steps. Raises `RunError` if it diverges."""
    setting, device = training.section.training, training.resources.device
    rows = torch.from_numpy(training_rows(teacher.spec, training.data))
    seed = seed_for(training.seed, "teachers", teacher.name)
    steps, batch_size = setting.total_steps(len(rows)), min(setting.batch_size, len(rows))
    network = teacher.classifier.to(device).train(batch_size > 1)  # batch norm needs two images
    optimizer = build_optimizer(network, setting)
    loss = ScopedCrossEntropy(teacher.support)
    shuffle = Shuffle(rows, torch_generator(seed, "batches"))
    order = (shuffle.draw(batch_size) for _ in range(steps))
    # Dropout and stochastic depth draw from the global generators.
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked):
        torch.manual_seed(seed)
        for step, (images, labels) in enumerate(_batches(teacher, order, rows, training)):
            set_rate(optimizer, setting, step, steps)
            targets = torch.nn.functional.one_hot(labels, teacher.num_classes).to(device)
            losses, _ = loss(network(images), targets, step / max(1, steps - 1))
            mean = losses.mean()
            value = float(mean.detach())
            if not math.isfinite(value):
                raise RunError(
                    f"teacher '{teacher.name}': the loss is not finite at step {step + 1} of "
                    f"{steps}; a smaller teachers.training.lr ({setting.lr:g}) may help "
                    "(with --overwrite)"
                )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(mean)
            optimizer.step()
            training.report(teacher.name, step + 1, value)
    network.eval().requires_grad_(False)
    return steps


def _batches(
    teacher: NetworkTeacher, order: Iterator[Tensor], rows: Tensor, training: Training
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) of each step's rows."""
    data, workers = training.data, training.resources.workers
    labels = data.truth(rows.numpy()).labels
    if len(rows) * 3 * teacher.transform.size**2 <= MEMORY:
        batches = image_batches(data, rows.numpy(), teacher.transform, 256, workers)
        images = torch.cat(list(batches))
        for chosen in order:
            places = torch.searchsorted(rows, chosen)
            yield images[places], labels[places]
        return
    while ahead := list(islice(order, STEPS_AHEAD)):
        size = len(ahead[0])
        decoded = image_batches(data, torch.cat(ahead).numpy(), teacher.transform, size, workers)
        for chosen, batch in zip(ahead, decoded, strict=True):
            yield batch, labels[torch.searchsorted(rows, chosen)]
