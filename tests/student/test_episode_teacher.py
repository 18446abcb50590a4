"""The meta stage as published: several episodes a step, and a teacher that answers by centroids."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.student_jobs import CPU, DATA, lesson
from helpers.user_errors import key_of, mistakes_of
from torch import Tensor

from cosup.config.load import check_config
from cosup.config.student import MetaSection
from cosup.data.episodes import EpisodePool, EpisodeSize
from cosup.data.transforms import eval_transform
from cosup.losses import CrossEntropy, Objective
from cosup.models.classifier import build_classifier
from cosup.models.compute import Compute
from cosup.models.training_section import AugmentSection
from cosup.protocols import FeatureShapes, Guidance, NetworkOutput
from cosup.student.episode_teacher import EpisodeTeacher
from cosup.student.meta_stage import MetaStage
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.live import LiveTeachers
from cosup.teachers.network import NetworkTeacher

WAYS, SHOTS, QUERIES = 3, 2, 4
SIZE = WAYS * (SHOTS + QUERIES)
TRUE_WAYS = np.repeat(np.arange(WAYS), QUERIES)


class Recorded(CrossEntropy):
    """Cross-entropy that keeps the targets of every step."""

    seen: ClassVar[list[Tensor]] = []

    def __call__(self, logits: Tensor, targets: Tensor, progress: float) -> Any:
        self.seen.append(targets.clone())
        return super().__call__(logits, targets, progress)


def by_centroids(vectors: np.ndarray) -> list[np.ndarray]:
    """Probabilities of the queries of one episode, by scaled cosines to the means, in float64."""
    means = vectors[: WAYS * SHOTS].reshape(WAYS, SHOTS, -1).mean(1)
    worked = []
    for query in vectors[WAYS * SHOTS :]:
        cosines = means @ query / (np.linalg.norm(means, axis=1) * np.linalg.norm(query))
        powers = np.exp(10 * cosines)
        worked.append(powers / powers.sum())
    return worked


def live_level() -> LiveTeachers:
    network = build_classifier("cifar_resnet8", 10, None, 16, 3)
    return LiveTeachers([NetworkTeacher(TeacherSpec("one", 0), network, Compute(), 0)], Compute())


def targets_of(live: LiveTeachers | None, **settings: Any) -> tuple[list[Tensor], int]:
    """Train a student by the meta stage; return the targets of its steps, and the job's seed."""
    section = MetaSection(ways=WAYS, shots=SHOTS, queries=QUERIES, lr=0.05, **settings)
    stage = MetaStage(section, AugmentSection(), Objective(Recorded(), 1.0, 1.0))
    found = lesson()
    labels = found.guidance.labels
    assert labels is not None
    taught = replace(found, guidance=Guidance(labels, torch.zeros_like(labels), live))
    job = stage.job(
        build_classifier("cifar_resnet8", 10, None, 16, 1), taught, torch.arange(len(labels)), 0
    )
    Recorded.seen.clear()
    job.run(DATA, Compute(CPU))
    return list(Recorded.seen), job.seed


def test_the_answers_are_scaled_cosines_to_its_own_centroids() -> None:
    class Pixels:
        """A teacher whose embedding is the first five pixels."""

        shapes = FeatureShapes(embedding=5)

        def __call__(self, pixels: Tensor, teacher: Tensor) -> NetworkOutput:
            return NetworkOutput(pixels[:, 0, 0, :2], embedding=pixels.flatten(1)[:, :5])

    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2 * SIZE, 3, 4, 4, generator=generator, dtype=torch.float64) * 255
    found = EpisodeTeacher(Pixels(), WAYS, SHOTS, QUERIES)(pixels, torch.zeros(2 * SIZE))
    vectors = pixels.flatten(1)[:, :5].numpy()
    worked = [row for n in range(2) for row in by_centroids(vectors[n * SIZE : (n + 1) * SIZE])]
    assert found.logits.shape == (2 * WAYS * QUERIES, WAYS)
    np.testing.assert_allclose(found.logits.exp().numpy(), np.array(worked), rtol=1e-5)


def test_a_step_has_several_episodes_one_after_the_other() -> None:
    """The annotations are the labels, so that each query's target is its way."""
    seen, _ = targets_of(None, steps=2, episodes_per_step=3)
    assert len(seen) == 2
    for targets in seen:
        assert targets.shape == (3 * WAYS * QUERIES, WAYS)
        assert (targets.argmax(1).numpy() == np.tile(TRUE_WAYS, 3)).all()
        assert (targets.amax(1) == 1).all()


def test_the_teacher_answers_the_images_of_each_step() -> None:
    """Its targets are worked from the images of the episodes that the seed draws."""
    live = live_level()
    seen, seed = targets_of(live, steps=2, episodes_per_step=2, teacher="centroids")
    (network,) = live.networks
    rows = DATA.rows("student_train")
    pool = EpisodePool(DATA.truth(rows).labels.numpy())
    drawn = pool.draw(EpisodeSize(WAYS, SHOTS, QUERIES), 4, seed)
    transform = eval_transform(network.input)
    for step, targets in enumerate(seen):
        worked = []
        for episode in (2 * step, 2 * step + 1):
            places = torch.cat([drawn.support[episode].flatten(), drawn.query[episode].flatten()])
            images = torch.stack([transform(DATA.read(int(rows[place]))) for place in places])
            with torch.inference_mode():
                worked += by_centroids(network.embed(images).double().numpy())
        np.testing.assert_allclose(targets.numpy(), np.array(worked), atol=2e-5)


def test_controls_without_a_teacher_have_the_annotations() -> None:
    alone, _ = targets_of(None, steps=2, teacher="centroids")
    plain, _ = targets_of(None, steps=2)
    assert all(map(torch.equal, alone, plain))


def test_a_meta_trained_teacher_knows_the_episodes_better() -> None:
    """A copy goes through the stage; the teacher itself stays."""
    live = live_level()
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}

    def loss(mode: str) -> float:
        seen, _ = targets_of(live, steps=25, episodes_per_step=2, teacher=mode)
        right = torch.from_numpy(np.tile(TRUE_WAYS, 2))[:, None]
        return float(torch.stack([-t.gather(1, right).log().mean() for t in seen]).mean())

    assert loss("meta_centroids") < loss("centroids") - 0.05
    assert all(torch.equal(tensor, before[name]) for name, tensor in live.state_dict().items())


@pytest.mark.parametrize(
    "teachers",
    [
        {"hierarchy": {"by": "class", "levels": [1, 2]}},
        {"model": {"name": "linear_features", "backbone": {"name": "test_resnet"}}},
    ],
)
def test_one_network_must_answer(teachers: dict[str, Any]) -> None:
    network = {"name": "cifar_resnet8", "weights": None}
    config = {
        "data": {"source": "digits", "few_shot": {"novel": 3}},
        "teachers": {"model": {"name": "cifar_resnet8"}, **teachers},
        "student": {
            "mode": "finetune",
            "backbone": network,
            "meta": {"teacher": "centroids"},
        },
    }
    keys = {key_of(error) for error in mistakes_of(check_config, config)}
    assert "student.meta.teacher" in keys


def test_the_images_of_a_step_are_bounded() -> None:
    network = {"name": "cifar_resnet8", "weights": None}
    meta = {"ways": 100, "shots": 100, "queries": 100, "episodes_per_step": 10}
    config = {
        "data": {"source": "digits", "few_shot": {"novel": 3}},
        "student": {"mode": "finetune", "backbone": network, "meta": meta},
    }
    keys = {key_of(error) for error in mistakes_of(check_config, config)}
    assert "student.meta.episodes_per_step" in keys
