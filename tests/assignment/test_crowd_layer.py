"""The crowd layer: its loss against NumPy and the published loop, and what its matrices tell."""

import dataclasses

import numpy as np
import pytest
import torch
from assignment_cases import Chunks, assign, random_case, rotated_digits
from helpers.user_errors import error_of
from torch import Tensor, nn
from torch.nn.functional import one_hot

from cosup.assignment import CrowdLayer, DawidSkene
from cosup.assignment.crowd_layer import BATCH, crowd_loss, hardened
from cosup.evidence import Evidence, Scopes
from cosup.levels import ArrayAnnotations, Level
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator
from cosup.team import ask_team


def case_of_loss() -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities [5, 4], annotations [5, 3, 4] of which some abstain, matrices [3, 4, 4]."""
    generator = torch.Generator().manual_seed(0)
    probs, annotations, matrices = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((5, 4), (5, 3, 4), (3, 4, 4))
    )
    probs, annotations = probs.softmax(1), annotations.softmax(2)
    annotations[0, 1] = 0
    annotations[2] = 0  # nobody answers
    return probs, annotations, matrices


def test_the_loss_is_its_formula() -> None:
    probs, annotations, matrices = case_of_loss()
    for found, said in (
        (crowd_loss(probs, annotations, matrices), annotations.numpy()),
        (crowd_loss(probs, hardened(annotations), matrices), hard_by_hand(annotations)),
    ):
        for row in range(5):
            total = 0.0
            for teacher in range(3):
                scores = matrices[teacher].numpy() @ probs[row].numpy()
                log_answer = scores - np.log(np.exp(scores).sum())
                total -= float((said[row, teacher] * log_answer).sum())
            assert float(found[row]) == pytest.approx(total / 3, abs=1e-12)
    assert float(crowd_loss(probs, annotations, matrices)[2]) == 0


def hard_by_hand(annotations: Tensor) -> np.ndarray:
    said = np.zeros(annotations.shape)
    for row, teacher in np.ndindex(5, 3):
        if annotations[row, teacher].sum() > 0:
            said[row, teacher, int(annotations[row, teacher].argmax())] = 1
    return said


def test_the_gradients_are_those_of_the_loss() -> None:
    probs, annotations, matrices = case_of_loss()
    given = (probs.requires_grad_(), annotations, matrices.requires_grad_())
    assert torch.autograd.gradcheck(crowd_loss, given)


def published(evidence: Evidence, layer: CrowdLayer, seed: int) -> tuple[Tensor, Tensor]:
    """Train as Keras trains the published layers (masked answers, mean over all), in float64.

    Returns the probabilities [N, C] and the matrices [T, C, C].
    """
    assert evidence.features is not None
    features, answers = evidence.features.double(), evidence.annotations.double()
    if layer.annotations == "hard":
        answered = answers.sum(2, keepdim=True) > 0
        answers = one_hot(answers.argmax(2), answers.shape[2]) * answered
    masked = answers.sum(2) == 0
    useful = ~masked.all(1)
    chosen = features[useful]
    mean, deviation = chosen.mean(0), chosen.std(0, correction=0)
    features = (features - mean) / deviation
    _, teachers, classes = answers.shape
    probe = nn.Linear(features.shape[1], classes, dtype=torch.float64)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    kernel = nn.Parameter(torch.eye(classes).double()[..., None].repeat(1, 1, teachers))
    adam = torch.optim.Adam([*probe.parameters(), kernel], lr=layer.lr)
    generator = torch_generator(seed, "crowd_layer", "batches")
    index = useful.nonzero()[:, 0]
    for _ in range(layer.epochs):
        for rows in torch.randperm(len(index), generator=generator).split(BATCH):
            rows = index[rows]
            outputs = torch.einsum("bi,ijt->bjt", probe(features[rows]).softmax(1), kernel)
            losses = nn.functional.cross_entropy(
                outputs, answers[rows].transpose(1, 2).double(), reduction="none"
            )
            adam.zero_grad()
            torch.where(masked[rows], 0, losses).mean().backward()
            adam.step()
    return probe(features).softmax(1).detach(), kernel.detach().permute(2, 1, 0)


@pytest.mark.parametrize("annotations", ["soft", "hard"])
def test_it_learns_what_the_published_loop_learns(annotations: str) -> None:
    case = random_case(4, 200, 3, 4, abstain=0.3)
    layer = CrowdLayer(annotations, epochs=5, lr=0.02)  # type: ignore[arg-type]
    layer.fit(case.batches(64), case.scopes, seed=9)
    targets = layer.assign(case.evidence, case.scopes).targets
    probs, matrices = published(case.evidence, layer, 9)
    heard = case.evidence.annotations.sum((1, 2)) > 0
    assert not heard.all()
    torch.testing.assert_close(targets.double()[heard], probs[heard], atol=2e-4, rtol=2e-3)
    assert (targets[~heard] == 0).all()
    assert layer.confusion_ is not None
    confusion = matrices.softmax(1).transpose(1, 2)
    torch.testing.assert_close(layer.confusion_.double(), confusion, atol=2e-4, rtol=2e-3)


def test_it_tells_by_the_images_which_of_two_is_right() -> None:
    """Digits by two annotators who both are wrong on most images of half of the classes: where they
    differ, the images tell who is right, which Dawid-Skene does not see."""
    case = rotated_digits()
    assert case.evidence.truth is not None
    labels, generator = case.evidence.truth.labels, torch.Generator().manual_seed(0)
    errs = torch.rand(len(labels), 2, generator=generator) < 0.7
    low, high = (labels + 1) % 5, 5 + (labels + 1) % 5
    answers = torch.stack(
        [
            torch.where((labels < 5) & errs[:, 0], low, labels),
            torch.where((labels >= 5) & errs[:, 1], high, labels),
        ],
        1,
    )
    evidence = dataclasses.replace(case.evidence, annotations=one_hot(answers, 10).float())
    scopes, batches = Scopes.of([None] * 2, 10), Chunks(evidence, 500)
    layer, skene = CrowdLayer(), DawidSkene()
    layer.fit(batches, scopes)
    skene.fit(batches, scopes)
    found = layer.assign(evidence, scopes)
    blind = float((skene.posterior(evidence).argmax(1) == labels).float().mean())
    assert float((found.labels == labels).float().mean()) > max(0.9, blind + 0.05)
    assert found.weights.argmax(1).eq((labels < 5).long()).float().mean() > 0.8
    confusion = layer.confusion_
    assert confusion is not None
    torch.testing.assert_close(confusion.sum(2), torch.ones(2, 10))
    own = confusion.diagonal(dim1=1, dim2=2)
    assert own[0, 5:].mean() > 1.5 * own[0, :5].mean()
    assert own[1, :5].mean() > 1.5 * own[1, 5:].mean()


def test_a_team_answers_other_samples() -> None:
    case = random_case(1, 60, 3, 4)
    assert case.evidence.features is not None
    layer = CrowdLayer(epochs=3, lr=0.05)
    layer.fit(case.batches(60), case.scopes)
    wanted = layer.assign(case.evidence, case.scopes)
    restored = CrowdLayer()
    restored.load_state_dict(layer.state_dict())
    level = Level(0, case.scopes, ArrayAnnotations(case.evidence.annotations[:7]))
    student = ProbTable.compress(case.evidence.student_probs[:7])
    asked = ask_team(restored, level, student, case.evidence.features[:7])
    torch.testing.assert_close(asked.weights, wanted.weights[:7])
    torch.testing.assert_close(asked.probs.dense(), wanted.targets[:7], atol=1e-3, rtol=1e-3)


def test_many_samples_are_drawn_whatever_the_batches() -> None:
    case = random_case(1, 40, 3, 4)
    few = case.run(CrowdLayer(max_samples=10, epochs=2), size=7)
    assert torch.equal(few, case.run(CrowdLayer(max_samples=10, epochs=2), size=40))
    assert not torch.equal(few, case.run(CrowdLayer(epochs=2)))


def test_it_needs_features_and_annotations() -> None:
    case = random_case(0, 4, 2, 4)
    evidence, silent = (
        dataclasses.replace(case.evidence, features=None),
        dataclasses.replace(case.evidence, annotations=torch.zeros(4, 2, 4)),
    )
    assert "features" in str(error_of(CrowdLayer().fit, [evidence], case.scopes))
    assert "annotated" in str(error_of(CrowdLayer().fit, [silent], case.scopes))
    layer = CrowdLayer(epochs=1)
    layer.fit([case.evidence], case.scopes)
    assert "features" in str(error_of(assign, layer, evidence, case.scopes))
