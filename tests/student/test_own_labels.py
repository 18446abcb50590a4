"""Labels of which a share is the student's own class of the image without augmentation."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from helpers.student_jobs import CPU, DATA, network_job
from helpers.user_errors import key_of, mistakes_of
from torch import Tensor
from torch.nn.functional import one_hot

from cosup.config import check_config
from cosup.data.transforms import eval_transform
from cosup.losses import CrossEntropy, Objective
from cosup.models import step as steps
from cosup.models.classifier import build_classifier
from cosup.models.compute import Compute
from cosup.models.step import Batch, Step, TrainContext, TrainModule
from cosup.models.training_section import TrainingSection

B = 0.2
OBJECTIVE = Objective(CrossEntropy(), 1.0, 1.0, own_labels=B, own_from=0.5)


class Seen(Objective):
    """Keeps the labels that it is given."""

    labels: ClassVar[list[Tensor | None]] = []

    def __call__(
        self, logits: Tensor, targets: Tensor, progress: float, labels: Tensor | None = None
    ) -> Any:
        self.labels.append(labels)
        return super().__call__(logits, targets, progress, labels)


def test_a_job_reads_the_images_with_and_without_augmentation() -> None:
    """The augmented ones are those that it reads without own labels."""
    job = network_job(augment={"crop": "padded", "padding": 2, "flip": 0.5}, batch_size=16)
    both = replace(job, objective=OBJECTIVE)
    transform = eval_transform(job.classifier.input)
    positions = []
    plain, own = (one.batches(DATA, Compute(CPU))(0) for one in (job, both))
    for _ in range(3):
        first, second = next(plain), next(own)
        assert first.plain is None
        assert second.plain is not None
        assert torch.equal(first.images, second.images)
        assert not torch.equal(second.images, second.plain)
        assert first.labels is not None
        positions.append(second.plain)
    every = {transform(DATA.read(int(row))).numpy().tobytes() for row in job.lesson.images}
    assert all(image.numpy().tobytes() in every for part in positions for image in part)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("progress", [0.3, 0.8])
def test_a_share_of_each_label_is_the_own_class_from_then_on(
    mixed: bool, progress: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(1 - B) of the label and B of the class, mixed as the images are (Sel-CL's MixBoot)."""
    generator = torch.Generator().manual_seed(0)
    images, plain = (
        torch.randint(0, 256, (6, 3, 16, 16), generator=generator, dtype=torch.uint8)
        for _ in range(2)
    )
    labels = torch.tensor([0, 1, 2, -1, 4, 5])
    shares = 0.3 * torch.eye(6) + 0.7 * torch.eye(6).flip(0)
    if mixed:
        monkeypatch.setattr(steps, "Mixing", lambda _: lambda x: (x, shares))
    classifier = build_classifier("cifar_resnet8", 10, None, 16, 1).train()
    setting = TrainingSection(steps=2, mixing={"mixup": 1.0 if mixed else 0.0})  # type: ignore[arg-type]
    run = Step(
        TrainModule(classifier),
        classifier.pixels,
        Seen(CrossEntropy(), 1.0, 1.0, own_labels=B, own_from=0.5),
        setting,
        TrainContext(),
    )
    with torch.no_grad():
        own = classifier.model(classifier.pixels(plain)).argmax(1)
    Seen.labels.clear()
    run(Batch(images, torch.full((6, 10), 0.1), labels=labels, plain=plain), progress)
    (found,) = Seen.labels
    assert found is not None
    known = (labels >= 0).double()[:, None]
    worked = one_hot(labels.clamp_min(0), 10).double() * known
    if progress >= 0.5:
        worked = (1 - B) * worked + B * one_hot(own, 10).double() * known
    elif not mixed:
        assert torch.equal(found, labels)
        return
    if mixed:
        worked = shares.double() @ worked
    torch.testing.assert_close(found.double(), worked, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("student", "rounds"),
    [
        ({}, {"true_label_weight": 1.0}),
        ({"mode": "finetune"}, {"true_label_weight": 0.0}),
        ({"mode": "finetune"}, {"true_label_weight": 1.0, "loss": "dkd"}),
    ],
)
def test_what_it_cannot_be_combined_with(student: dict[str, Any], rounds: dict[str, Any]) -> None:
    tree = {
        "data": {"source": "digits"},
        "student": {"backbone": {"name": "resnet18"}, **student},
        "rounds": {"own_labels": 0.2, **rounds},
    }
    assert "rounds.own_labels" in {key_of(error) for error in mistakes_of(check_config, tree)}
