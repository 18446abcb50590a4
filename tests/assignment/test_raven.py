"""RAVEN: its weights against the published training loop, and what they are of."""

import dataclasses

import pytest
import torch
from assignment_cases import Chunks, assign, random_case, rotated_digits
from helpers.user_errors import error_of
from torch import Tensor, nn

from cosup.assignment import Raven
from cosup.assignment.raven import BATCH, all_agree, mixture_loss, projected
from cosup.evidence import Scopes
from cosup.levels import ArrayAnnotations, Level
from cosup.probabilities import ProbTable
from cosup.seeds import torch_generator
from cosup.team import ask_team


def published(features: Tensor, annotations: Tensor, raven: Raven, seed: int) -> Tensor:
    """Train a probe and weights as `rw2s/train.py` and `rw2s/vision/ensemble.py` do, in float64."""
    size, teachers, classes = annotations.shape
    features, annotations = features.double(), annotations.double()
    features = (features - features.mean(0)) / features.std(0, correction=0)
    probe = nn.Linear(features.shape[1], classes, dtype=torch.float64)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    rows_of_weights = size if raven.per_sample else 1
    weights = nn.Parameter(torch.full((rows_of_weights, teachers), 1 / teachers).double())
    adam = torch.optim.Adam(probe.parameters(), lr=raven.lr)
    steps = raven.epochs * -(-size // BATCH)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=steps)
    # The mean over a batch; with weights of its own each sample's loss counts in full.
    sgd = torch.optim.SGD([weights], lr=raven.weight_lr)
    labels = annotations.argmax(2)
    agree = (labels == labels[:, :1]).all(1)
    generator = torch_generator(seed, "raven", "batches")
    for epoch in range(raven.epochs):
        for rows in torch.randperm(size, generator=generator).split(BATCH):
            easy = epoch < round(raven.easy * raven.epochs)
            counted = rows[agree[rows]] if easy else rows
            adam.zero_grad()
            sgd.zero_grad()
            if len(counted):
                own = weights[counted] if raven.per_sample else weights
                mixed = (annotations[counted] * own[:, :, None]).sum(1)
                mixed = mixed / mixed.sum(1, keepdim=True)
                loss = nn.functional.cross_entropy(probe(features[counted]), mixed)
                loss.backward()
                adam.step()
                assert weights.grad is not None
                if raven.per_sample:
                    weights.grad *= len(counted)
                if not easy:
                    sgd.step()
                    clamped = weights.detach().clamp(min=1e-6)
                    weights.data = clamped / clamped.sum(1, keepdim=True)
            cosine.step()
    return weights.detach()


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("easy", [0.0, 0.4])
def test_weights_are_those_of_the_published_loop(per_sample: bool, easy: float) -> None:
    case = random_case(4, 300, 3, 4)
    evidence = case.evidence
    assert evidence.features is not None
    agreeing = evidence.annotations.clone()
    agreeing[::2] = agreeing[::2, :1]  # half of the samples are easy
    case = dataclasses.replace(case, evidence=dataclasses.replace(evidence, annotations=agreeing))
    raven = Raven(per_sample, easy, epochs=5, lr=0.05, weight_lr=0.3)
    found = case.run(raven, seed=9)
    expected = published(evidence.features, agreeing, raven, 9)
    torch.testing.assert_close(found.double(), expected.expand(300, 3), atol=2e-4, rtol=2e-4)
    assert float((found - 1 / 3).abs().max()) > 0.01


def test_the_gradient_of_the_weights() -> None:
    case = random_case(2, 5, 3, 4, abstain=0.2)
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).double()
    annotations = case.evidence.annotations.double()
    annotations = annotations[annotations.sum((1, 2)) > 0]
    weights = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    given = (logits[: len(annotations)].requires_grad_(), annotations, weights.requires_grad_())
    assert torch.autograd.gradcheck(mixture_loss, given)


def test_projection_stays_on_the_simplex() -> None:
    found = projected(torch.tensor([[0.6, 0.5, -0.1]]))
    torch.testing.assert_close(found, torch.tensor([[6 / 11, 5 / 11, 1e-6 / 1.1]]))


def test_samples_on_which_those_who_answer_agree() -> None:
    one, two, none = [0.7, 0.3], [0.4, 0.6], [0.0, 0.0]
    annotations = torch.tensor([[one, one], [one, two], [none, two], [none, none]])
    assert all_agree(annotations).tolist() == [True, False, True, False]


def test_a_better_teacher_gets_more_weight_on_real_digits() -> None:
    """Beside four specialists, one who answers at random loses its weight."""
    case = rotated_digits()
    evidence, generator = case.evidence, torch.Generator().manual_seed(0)
    noise = torch.randn(len(evidence), 1, 10, generator=generator).mul(3).softmax(2)
    annotations = torch.cat([evidence.annotations, noise], 1)
    worse = dataclasses.replace(evidence, annotations=annotations)
    raven = Raven(epochs=20, weight_lr=0.02)
    raven.fit(Chunks(worse, 500), Scopes.of([None] * 5, 10), seed=0)
    assert raven.weights_ is not None
    assert float(raven.weights_[4]) < 0.01


def test_weights_of_samples_are_theirs_alone() -> None:
    """The team answers other samples by the mean weights; a state keeps both."""
    case = random_case(1, 40, 3, 4)
    raven = Raven(per_sample=True, easy=0.0, epochs=3, weight_lr=0.5)
    own = case.run(raven)
    assert raven.weights_ is not None
    assert len(own.unique(dim=0)) > 30
    mean = raven.weights_.expand(40, 3)
    torch.testing.assert_close(own.mean(0), raven.weights_)
    torch.testing.assert_close(assign(raven.elsewhere(), case.evidence, case.scopes), mean)
    restored = Raven(per_sample=True)
    restored.load_state_dict(raven.state_dict())
    assert torch.equal(assign(restored, case.evidence, case.scopes), own)
    level = Level(0, case.scopes, ArrayAnnotations(case.evidence.annotations[:7]))
    student = ProbTable.compress(case.evidence.student_probs[:7])
    asked = ask_team(raven, level, student, case.evidence.features[:7])  # type: ignore[index]
    torch.testing.assert_close(asked.weights, mean[:7])


def test_many_samples_are_drawn_unless_each_has_its_weights() -> None:
    case = random_case(1, 40, 3, 4)
    few = case.run(Raven(max_samples=10, epochs=2), size=7)
    assert torch.equal(few, case.run(Raven(max_samples=10, epochs=2), size=40))
    error = error_of(case.run, Raven(per_sample=True, max_samples=10))
    assert "per_sample" in str(error)
    assert "max_samples" in str(error)


def test_one_teacher_and_no_features_are_refused() -> None:
    alone = Scopes.of([None], 4, names=["only"])
    assert "'only'" in str(error_of(Raven().check, alone))
    Raven().check(Scopes.of([None, None], 4))
    evidence = dataclasses.replace(random_case(1, 4, 2, 4).evidence, features=None)
    assert "features" in str(error_of(Raven().fit, [evidence], alone))
