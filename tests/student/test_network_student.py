"""The network student learns from annotations, predicts without augmentation, and resumes."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import cosup
from cosup.config.student import MetaSection, StudentSection
from cosup.data.episodes import EpisodePool, EpisodeRows, EpisodeSize
from cosup.data.load import load_data
from cosup.data.loader import ImageRows
from cosup.data.section import DataSection
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.losses import CrossEntropy, Objective
from cosup.losses.base import Metrics
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.training_section import AugmentSection
from cosup.models.watch import Watched
from cosup.probabilities import ProbTable
from cosup.protocols import TINIEST, FeatureShapes, Guidance, NetworkOutput, Update
from cosup.student.folder import save_network
from cosup.student.jobs import NetworkJob
from cosup.student.launcher import LocalLauncher
from cosup.student.meta_stage import MetaStage
from cosup.student.network import NetworkStudent, split_state
from cosup.student.setup import StudentSetup

CPU = torch.device("cpu")
BACKBONE = {"name": "cifar_resnet8", "weights": None, "image_size": 16}


@cache
def digits() -> ImageData:
    section = DataSection.model_validate(
        {
            "source": "digits",
            "rotations": [0],
            "splits": {"teacher_train": 0.3, "student_train": 0.4, "test": 0.3},
        }
    )
    return load_data(section, 0, 1, None)


def part(split: str, count: int | None = None) -> tuple[ImageRows, Tensor]:
    """Return images of a split and their true labels."""
    rows = digits().rows(split)[:count]
    return ImageRows(digits(), rows), digits().truth(rows).labels


def student(**changes: Any) -> NetworkStudent:
    training = {"steps": 12, "batch_size": 32, "lr": 0.01, **changes.pop("training", {})}
    section = StudentSection.model_validate(
        {
            "mode": "finetune",
            "backbone": BACKBONE,
            "training": training,
            "cross_fit": changes.pop("cross_fit", 0),
        }
    )
    objective = changes.pop("objective", Objective(CrossEntropy()))
    compute = Compute(CPU, scratch=changes.pop("scratch", None))
    own = ("folds", "on_step", "launcher", "watched")
    shared = {name: changes.pop(name) for name in own if name in changes}
    setup = StudentSetup(section, 10, compute, **shared)
    return NetworkStudent(setup, objective, 1, **changes)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@cache
def trained_student() -> NetworkStudent:
    """Return a student trained for 90 steps."""
    inputs, labels = part("student_train")
    trained = student(training={"steps": 90, "augment": {"crop": "padded", "padding": 1}})
    trained.update(inputs, ProbTable.one_hot(labels, 10), torch.ones(len(labels)))
    return trained


def test_the_network_learns_from_annotations() -> None:
    inputs, labels = part("test")
    assert (trained_student().predict(inputs).top()[0] == labels).float().mean() > 0.8


def test_predictions_are_of_images_without_augmentation() -> None:
    """They equal the network's outputs on images without augmentation, every time."""
    inputs, _ = part("test", 20)
    network = trained_student().network_
    assert network is not None
    transform = eval_transform(network.input)
    images = torch.stack([transform(digits().read(int(row))) for row in inputs.rows])
    with torch.inference_mode():
        expected = network(images).softmax(1)
    found = trained_student().predict(inputs)
    torch.testing.assert_close(found.dense(slice(None)), expected, rtol=1e-2, atol=1e-3)
    assert torch.equal(trained_student().predict_own(inputs).logs, found.logs)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_watching_the_accuracy_changes_nothing(ema: float | None) -> None:
    """Weights and statistics of batch norms are equal to the last bit, with random
    augmentation; the last accuracy is that of the trained network."""
    inputs, labels = part("student_train", 120)
    held, truth = part("test", 60)
    found: dict[int, float] = {}

    def look(step: int, loss: float, metrics: Metrics) -> None:
        if "validation_accuracy" in metrics:
            found[step] = float(metrics["validation_accuracy"])

    settings = {
        "steps": 55,
        "batch_size": 8,
        "augment": {"crop": "padded", "erase": 0.5},
        "ema": ema,
    }
    plain = student(training=settings)
    watched = Watched(torch.from_numpy(held.rows), truth)
    seen = student(training=settings, watched=watched, on_step=look)
    for each in (plain, seen):
        each.update(inputs, ProbTable.one_hot(labels, 10), torch.ones(len(labels)))
    assert equal(plain.state_dict(), seen.state_dict())
    assert list(found) == [50, 55]
    right = (seen.predict(held).top()[0] == truth).double().mean()
    assert found[55] == pytest.approx(float(right))


def test_samples_of_weight_0_have_no_effect() -> None:
    """Wrong annotations with weight 0 have the effect of absent samples."""
    inputs, labels = part("student_train", 80)
    weights = (torch.arange(80) % 4 > 0).float()
    wrong = torch.where(weights > 0, labels, (labels + 1) % 10)
    first, second = student(), student()
    first.update(inputs, ProbTable.one_hot(wrong, 10), weights)
    kept = torch.nonzero(weights)[:, 0]
    second.update(inputs[kept], ProbTable.one_hot(labels[kept], 10), torch.ones(len(kept)))
    assert equal(first.state_dict(), second.state_dict())


def test_true_labels_are_used_according_to_their_weight() -> None:
    """With annotations of one class only, a student needs true labels to learn the others."""
    inputs, labels = part("student_train")
    nonsense, ones = ProbTable.one_hot(torch.zeros_like(labels), 10), torch.ones(len(labels))
    test, truth = part("test")
    right = []
    for weight in (0.0, 5.0):
        trained = student(
            objective=Objective(CrossEntropy(), 1.0, weight),
            training={"steps": 60, "batch_size": 16},
        )
        trained.update(inputs, nonsense, ones, Guidance(labels=labels))
        right.append(float((trained.predict(test).top()[0] == truth).float().mean()))
    assert right[0] < 0.2
    assert right[1] > 0.7


def test_students_that_are_trained_together_equal_those_trained_alone() -> None:
    """One call of the launcher has the trainings of all students and of their folds; only the first
    reports its steps."""
    inputs, labels = part("student_train", 90)
    calls: list[list[str]] = []

    class Seen(LocalLauncher):
        def networks(
            self, jobs: Sequence[NetworkJob], data: ImageData, compute: Compute, on_step: Any
        ) -> list[Classifier]:
            calls.append([job.name for job in jobs])
            return super().networks(jobs, data, compute, on_step)

    steps: list[int] = []
    shared = {"launcher": Seen(), "training": {"steps": 3}, "folds": torch.arange(90) % 2}
    shared["on_step"] = lambda step, *_: steps.append(step)
    targets = [ProbTable.one_hot(truth, 10) for truth in (labels, labels.flip(0))]
    together = [student(cross_fit=2, **shared) for _ in targets]
    NetworkStudent.update_together(
        [Update(s, inputs, t, torch.ones(90)) for s, t in zip(together, targets, strict=True)]
    )
    assert [len(set(names)) for names in calls if names] == [3]
    assert [len(names) for names in calls if names] == [6]
    assert steps == [1, 2, 3]
    for found, target in zip(together, targets, strict=True):
        alone = student(cross_fit=2, **shared)
        alone.update(inputs, target, torch.ones(90))
        assert equal(found.state_dict(), alone.state_dict())
        own, expected = (each.predict_own(inputs).logs for each in (found, alone))
        assert torch.equal(own, expected)


def test_cross_fitted_predictions_are_out_of_fold() -> None:
    """Each fold has its own class: a network trained without a fold cannot predict its class."""
    inputs, _ = part("student_train", 90)
    folds = torch.arange(90) % 3
    trained = student(cross_fit=3, folds=folds, training={"steps": 20, "batch_size": 16})
    trained.update(inputs, ProbTable.one_hot(folds, 10), torch.ones(90))
    assert (trained.predict_own(inputs).top()[0] != folds).float().mean() > 0.9


def test_parts_are_trained_on_their_rows() -> None:
    inputs, labels = part("student_train", 200)
    trained = student(training={"steps": 30, "batch_size": 16})
    low, high = torch.nonzero(labels < 5)[:, 0], torch.nonzero(labels >= 5)[:, 0]
    parts = trained.fit_parts(inputs, ProbTable.one_hot(labels, 10), [low, high])
    test, _ = part("test", 100)
    assert (parts.predict(0, test).top()[0] < 5).all()
    assert (parts.predict(1, test).top()[0] >= 5).all()


def test_a_loaded_state_can_be_trained_further() -> None:
    inputs, labels = part("student_train", 60)
    targets, ones = ProbTable.one_hot(labels, 10), torch.ones(60)
    state = trained_student().state_dict()
    other = student(training={"lr": 1e-9})
    other.load_state_dict(state)
    test, _ = part("test", 30)
    assert torch.equal(other.predict(test).logs, trained_student().predict(test).logs)
    other.update(inputs, targets, ones)
    for name, tensor in other.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, state[name], msg=name)


class Killed(Exception):
    pass


def test_a_killed_training_resumes_to_equal_weights(tmp_path: Path) -> None:
    inputs, labels = part("student_train", 100)
    targets, ones = ProbTable.one_hot(labels, 10), torch.ones(100)
    setting = {"save_every": 5, "ema": 0.9, "augment": {"crop": "padded", "flip": 0.5}}
    steps: list[int] = []

    def kill(step: int, loss: float, metrics: object) -> None:
        steps.append(step)
        if steps == list(range(1, 9)):
            raise Killed

    whole = student(training=setting)
    whole.update(inputs, targets, ones)
    with pytest.raises(Killed):
        student(training=setting, scratch=tmp_path, on_step=kill).update(inputs, targets, ones)
    again = student(training=setting, scratch=tmp_path, on_step=kill)
    again.update(inputs, targets, ones)
    assert steps == [*range(1, 9), *range(6, 13)]
    assert equal(whole.state_dict(), again.state_dict())


def episodes() -> EpisodeRows:
    rows = digits().rows("test")
    labels = digits().truth(rows).labels.numpy()
    drawn = EpisodePool(labels).draw(EpisodeSize(3, 2, 5), 20, seed=0)
    return EpisodeRows(digits().subset(rows), drawn)


def test_the_meta_stage_predicts_episodes_and_keeps_the_classifier() -> None:
    section = MetaSection(steps=6, ways=3, shots=2, queries=4, lr=0.05)
    stage = MetaStage(section, AugmentSection(), Objective(CrossEntropy()))
    inputs, labels = part("student_train", 200)
    targets, ones = ProbTable.one_hot(labels, 10), torch.ones(200)
    plain, trained = student(), student(meta=stage)
    plain.update(inputs, targets, ones)
    trained.update(inputs, targets, ones)
    state, through_meta = split_state(trained.state_dict())
    assert equal(state, plain.state_dict())
    assert not equal(through_meta, state)
    # The meta-trained copy predicts episodes; a student with its state predicts the same.
    answers = trained.predict(episodes())
    assert answers.num_classes == 3
    assert not torch.equal(answers.logs, plain.predict(episodes()).logs)
    other = student()
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other.predict(episodes()).logs, answers.logs)


def test_a_trained_network_separates_new_classes() -> None:
    """Nearest centroids of known digits are far above chance (1/3)."""
    drawn = episodes()
    right = trained_student().predict(drawn).top()[0] == drawn.way
    assert right.float().mean() > 0.75


def trained_network() -> Classifier:
    network = trained_student().network_
    assert network is not None
    return network


def test_the_exported_network_predicts_the_same(tmp_path: Path) -> None:
    section = trained_student().setup.section.backbone
    assert save_network(tmp_path, trained_network(), section, digits().classes) is not None
    loaded = cosup.load_student(tmp_path, device="cpu")
    inputs, _ = part("test", 10)
    probs = loaded.predict([digits().read(int(row)) for row in inputs.rows])
    expected = trained_student().predict(inputs).dense(slice(None))
    torch.testing.assert_close(probs, expected, rtol=1e-2, atol=1e-3)
    assert loaded.embed([digits().read(0)]).shape == (1, 64)


def test_an_exported_meta_student_only_embeds(tmp_path: Path) -> None:
    section = trained_student().setup.section.backbone
    assert save_network(tmp_path, trained_network(), section, digits().classes, meta=True)
    loaded = cosup.load_student(tmp_path, device="cpu")
    assert loaded.embed([digits().read(0)]).shape == (1, 64)
    with pytest.raises(cosup.errors.UserError, match="meta stage"):
        loaded.predict([digits().read(0)])


class ConstantTeachers:
    """Live teachers that say the same of every image, so that it is known beforehand."""

    shapes = FeatureShapes()

    def __init__(self, *said: list[float]) -> None:
        self.said = functional.pad(torch.tensor(said), (0, 10 - len(said[0])))

    def __call__(self, pixels: Tensor, teacher: Tensor) -> NetworkOutput:
        logits = self.said[teacher.clamp_min(0)].clamp_min(TINIEST).log()
        return NetworkOutput(logits.masked_fill((teacher < 0)[:, None], 0.0))


@pytest.mark.parametrize(("hard", "said"), [(False, [0.52, 0.36, 0.12]), (True, [1.0, 0.0, 0.0])])
def test_live_annotations_are_mixed_by_the_weights_and_hardened(
    hard: bool, said: list[float]
) -> None:
    """As those of one teacher that says what two say together: class 0, and the first alone 1."""
    inputs, _ = part("student_train", 64)
    nonsense = ProbTable.one_hot(torch.full((64,), 9), 10)
    first = torch.zeros(64, dtype=torch.int64)
    found, expected = student(live_annotations=True, hard=hard), student(live_annotations=True)
    two = ConstantTeachers([0.4, 0.6, 0.0], [0.7, 0.0, 0.3])
    mixture = torch.tensor([0.6, 0.4]).repeat(64, 1)
    found.update(inputs, nonsense, torch.ones(64), Guidance(None, first, two, mixture))
    alone = Guidance(None, first, ConstantTeachers(said))
    expected.update(inputs, nonsense, torch.ones(64), alone)
    own, other = (each.predict(inputs).dense() for each in (found, expected))
    torch.testing.assert_close(own, other, atol=1e-3, rtol=0)
