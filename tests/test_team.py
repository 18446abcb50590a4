"""The product of student and team: exponents against scipy, and a choice that does no harm."""

import numpy as np
import pytest
import torch
from helpers.digits_task import digits, weak_inputs
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from cosup.assignment import Agreement, Assigner
from cosup.evidence import Assigned, Evidence, Scopes
from cosup.levels import ArrayAnnotations, Level
from cosup.probabilities import ProbTable
from cosup.team import Answering, Exponents, ask_team, combine, fit_exponents, fit_team


def on_digits(noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a student and a team on real digits: models of different pixels, and the labels.

    noise: share of the team's samples whose answers are those of another sample.
    """
    pixels, labels = digits()
    train, test = slice(0, 300), slice(300, 1500)
    halves = pixels.reshape(-1, 8, 8)[:, :, 4:].reshape(len(pixels), -1)
    found = []
    for inputs in (halves, weak_inputs(pixels)):
        model = LogisticRegression(max_iter=300, C=10.0).fit(inputs[train], labels[train])
        found.append(torch.from_numpy(model.predict_proba(inputs[test])).float())
    student, team = found
    mixed = torch.arange(len(team)) % 100 < 100 * noise
    team[mixed] = team[mixed].roll(1, 0)
    return student, team, torch.from_numpy(labels[test])


def accuracy(probs: torch.Tensor, labels: torch.Tensor) -> float:
    return float((probs.argmax(1) == labels).double().mean())


def by_scipy(student: torch.Tensor, team: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    logs = np.stack([np.log(np.clip(p.double().numpy(), 1e-6, None)) for p in (student, team)], 2)
    right = logs[np.arange(len(labels)), labels.numpy()]

    def loss(theta: np.ndarray) -> float:
        fit = (right @ theta - logsumexp(logs @ theta, axis=1)).sum()
        return float(-fit + ((theta - 1) ** 2).sum() / 2)

    bounds = [(0, None), (0, None)]
    options = {"ftol": 1e-14, "gtol": 1e-10}
    return minimize(loss, [0.5, 0.5], bounds=bounds, method="L-BFGS-B", options=options).x


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_exponents_are_those_that_scipy_finds(noise: float) -> None:
    student, team, labels = on_digits(noise)
    found = fit_exponents(student, team, labels)
    expected = by_scipy(student, team, labels)
    np.testing.assert_allclose([found.student, found.team], expected, atol=1e-4)
    assert found.team > 0


def test_an_exponent_below_zero_is_zero_and_the_other_is_fitted_alone() -> None:
    student, team, labels = on_digits()
    against = team.roll(1, 1)  # it names the next class
    found = fit_exponents(student, against, labels)
    expected = by_scipy(student, against, labels)
    assert found.team == expected[1] == 0
    assert found.student == pytest.approx(expected[0], abs=1e-4)


def test_exponents_stay_finite_without_errors() -> None:
    labels = torch.arange(40) % 4
    sure = torch.eye(4)[labels] * 0.9 + 0.025
    found = fit_exponents(sure, sure, labels)
    np.testing.assert_allclose([found.student, found.team], by_scipy(sure, sure, labels), atol=1e-4)


def test_both_are_used_where_they_know_different_things() -> None:
    student, team, labels = on_digits()
    rows = torch.arange(len(labels))
    known, rest = rows < 400, rows >= 400
    fit = fit_team(student[known], team[known], labels[known], rows[known])
    assert fit.uses == "both"
    pair = accuracy(combine(student[rest], team[rest], fit.exponents), labels[rest])
    assert pair > max(accuracy(student[rest], labels[rest]), accuracy(team[rest], labels[rest]))


def test_a_team_that_adds_nothing_leaves_the_student_alone() -> None:
    student, team, labels = on_digits()
    drawn = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    for useless in (team[drawn], student, torch.full_like(team, 0.1), torch.zeros_like(team)):
        fit = fit_team(student, useless, labels, torch.arange(len(labels)))
        assert fit.uses == "student"
        assert fit.exponents == Exponents(1.0, 0.0)
        torch.testing.assert_close(
            combine(student, useless, fit.exponents), student, atol=1e-4, rtol=0
        )


def test_a_student_that_knows_nothing_leaves_the_team_alone() -> None:
    student, team, labels = on_digits()
    drawn = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    fit = fit_team(student[drawn], team, labels, torch.arange(len(labels)))
    assert fit.uses == "team"
    assert fit.accuracy["team"] == accuracy(team, labels)


def test_samples_of_one_group_count_as_one() -> None:
    student, team, labels = on_digits()
    few = slice(0, 30)
    copies = [part[few].repeat(40, *[1] * (part.dim() - 1)) for part in (student, team, labels)]
    alone = fit_team(*copies, groups=torch.arange(30).repeat(40))
    single = fit_team(student[few], team[few], labels[few], torch.arange(30))
    assert alone.uses == single.uses
    assert alone.accuracy == pytest.approx(single.accuracy, abs=1e-9)


def test_the_student_answers_where_the_team_abstains() -> None:
    student, team, _ = on_digits()
    team[5] = 0
    pair = combine(student, team, Exponents(0.5, 2.0))
    assert torch.equal(pair[5], student[5])
    torch.testing.assert_close(pair.sum(1), torch.ones(len(pair)))


def level_of(annotations: torch.Tensor, answers: list[bool]) -> Level:
    _, teachers, classes = annotations.shape
    stored = Answering(ArrayAnnotations(annotations), torch.tensor(answers))
    return Level(0, Scopes.of([None] * teachers, classes), stored)


def test_teachers_that_cannot_answer_have_no_part_in_the_team() -> None:
    student, team, _ = on_digits()
    level = level_of(torch.stack([team, student], 1), [True, False])
    asked = ask_team(Agreement(), level, ProbTable.compress(student))
    assert torch.equal(asked.weights, torch.tensor([1.0, 0.0]).expand(len(team), 2))
    torch.testing.assert_close(asked.probs.dense(), team, atol=1e-3, rtol=0)
    nobody = ask_team(Agreement(), level_of(team[:, None], [False]), ProbTable.compress(student))
    assert float(nobody.probs.dense().sum()) == 0


class Posterior(Assigner):
    """Adds the student's prediction to the annotations, as an assigner of its own posterior."""

    mixes = False

    def weights(self, evidence: Evidence, scopes: Scopes) -> torch.Tensor:
        return torch.full(evidence.annotations.shape[:2], 1 / len(scopes))

    def assign(self, evidence: Evidence, scopes: Scopes) -> Assigned:
        product = evidence.annotations.prod(1) * evidence.student_probs
        return Assigned(self.weights(evidence, scopes), product / product.sum(1, keepdim=True))


def test_a_posterior_does_not_count_the_student() -> None:
    student, team, _ = on_digits()
    asked = ask_team(Posterior(), level_of(team[:, None], [True]), ProbTable.compress(student))
    torch.testing.assert_close(asked.probs.dense(), team, atol=1e-3, rtol=0)
