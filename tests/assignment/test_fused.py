"""Fused: against Dawid-Skene, a slow EM in float64, and on annotators of real digits."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from assignment_cases import Case, Chunks, rotated_digits
from numpy.typing import NDArray
from test_dawid_skene import _annotators, _evidence
from torch import Tensor

from cosup.assignment import DawidSkene, Fused
from cosup.assignment.em import answered
from cosup.assignment.exponents import fit_exponent
from cosup.assignment.likelihood import combine
from cosup.errors import UserError
from cosup.evidence import Evidence, Scopes
from cosup.sources import Tally

ALONE = {"student": False, "group_above": 1.0}
"""Annotators alone, and each for itself."""


def right(probs: Tensor, truth: Tensor) -> float:
    return float((probs.argmax(1) == truth).float().mean())


def fitted(evidence: Evidence, scopes: Scopes, **settings: object) -> Fused:
    fused = Fused(**{"regions": "none", **settings})  # type: ignore[arg-type]
    fused.fit([evidence], scopes)
    return fused


@cache
def _sources(seed: int = 0) -> tuple[Case, Tensor]:
    """Four specialists of rotated digits and three annotators of 55 to 75 %; the truth."""
    case = rotated_digits()
    assert case.evidence.truth is not None
    truth = case.evidence.truth.labels
    rng = np.random.default_rng(seed)
    labels = [_answers(rng, truth.numpy(), share) for share in (0.75, 0.6, 0.55)]
    return with_annotators(case, labels), truth


def _answers(rng: np.random.Generator, truth: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    wrong = (truth + rng.integers(1, 10, len(truth))) % 10
    labels = np.where(rng.random(len(truth)) < share, truth, wrong)
    return np.where(rng.random(len(truth)) < 0.1, -1, labels)


def with_annotators(case: Case, labels: list[NDArray[np.int64]]) -> Case:
    """The case with hard annotators of scope everything behind its teachers."""
    hard = torch.stack([one_hot(column) for column in labels], 1)
    annotations = torch.cat([case.evidence.annotations, hard], 1)
    count, domains = len(labels), case.scopes.domains.shape[1]
    scopes = Scopes(
        case.scopes.names + tuple(f"annotator_{j}" for j in range(count)),
        torch.cat([case.scopes.classes, torch.ones(count, 10, dtype=torch.bool)]),
        torch.cat([case.scopes.domains, torch.ones(count, domains, dtype=torch.bool)]),
    )
    features, membership = case.provenance
    every = torch.ones(len(membership), count)
    return Case(
        replace(case.evidence, annotations=annotations),
        scopes,
        (features, torch.cat([membership, every], 1)),
    )


def one_hot(labels: NDArray[np.int64], classes: int = 10) -> Tensor:
    return torch.tensor(np.eye(classes + 1)[labels][:, :classes], dtype=torch.float32)


def test_with_annotators_alone_and_no_shrinking_it_is_dawid_skene() -> None:
    labels, _ = _annotators()
    evidence, scopes = _evidence(labels), Scopes.of([None] * 4, 4)
    ours = Fused("none", strength=0.0, iterations=8, tolerance=0.0, **ALONE)  # type: ignore[arg-type]
    ours.fit(Chunks(evidence, 64), scopes)
    theirs = DawidSkene(8, 0.0, smoothing=0.0)
    theirs.fit([evidence], scopes)
    np.testing.assert_allclose(ours.posterior(evidence), theirs.posterior(evidence), atol=1e-5)


def slow_em(
    labels: NDArray[np.int64], domains: NDArray[np.int64], classes: int, k: float, iterations: int
) -> NDArray[np.float64]:
    """METHODS.md section 8 for hard sources with known regions, in loops and float64."""
    samples, sources = labels.shape
    votes = np.eye(classes + 1)[labels][..., :classes].sum(1)
    posterior = votes / votes.sum(1, keepdims=True)
    for _ in range(iterations + 1):
        joint = np.tile(np.log(posterior.mean(0)), (samples, 1))
        for j in range(sources):
            counts = np.zeros((domains.max() + 1, classes, classes))
            for n in np.flatnonzero(labels[:, j] >= 0):
                counts[domains[n], :, labels[n, j]] += posterior[n]
            overall = counts.sum(0)
            accuracy = (np.trace(overall) + 1) / (overall.sum() + classes)
            coin = np.full((classes, classes), (1 - accuracy) / (classes - 1))
            np.fill_diagonal(coin, accuracy)
            whole = overall + k * coin
            whole /= whole.sum(1, keepdims=True)
            rates = counts + k * whole
            rates /= rates.sum(2, keepdims=True)
            for n in np.flatnonzero(labels[:, j] >= 0):
                joint[n] += np.log(rates[domains[n], :, labels[n, j]])
        posterior = np.exp(joint - joint.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
    return posterior


def test_hard_sources_with_regions_follow_the_formulas() -> None:
    labels, truth = _annotators()
    domains = np.arange(len(truth)) % 2
    evidence = replace(_evidence(labels), domains=torch.tensor(domains))
    ours = Fused("domain", iterations=6, tolerance=0.0, **ALONE)  # type: ignore[arg-type]
    ours.fit(Chunks(evidence, 90), Scopes.of([None] * 4, 4, [None] * 4, 2))
    expected = slow_em(labels, domains, 4, 20.0, 6)
    np.testing.assert_allclose(ours.posterior(evidence), expected, atol=1e-4)


def test_on_real_digits_it_beats_the_mean_the_majority_and_every_source() -> None:
    case, truth = _sources()
    fused = Fused()
    case.run(fused, size=400)
    found = right(fused.posterior(case.evidence), truth)
    annotations = case.evidence.annotations
    votes = torch.nn.functional.one_hot(annotations.argmax(2), 10)
    votes = votes * (annotations.sum(2, keepdim=True) > 0)
    others = [right(annotations.mean(1), truth), right(votes.sum(1), truth)]
    others += [right(annotations[:, t], truth) for t in range(7)]
    assert found > max(others) + 0.05
    assert found > 0.9


def tallied(fused: Fused, case: Case) -> Tally:
    """Count the answers of the teachers by the posterior."""
    answers, scopes = answered(case.evidence.annotations), case.scopes
    regions = len(fused.sources(scopes).regions)
    tally = Tally(len(scopes), case.evidence.annotations.shape[2], regions)
    posterior, region = fused.posterior(case.evidence), fused.region_of(case.evidence)
    tally.add(answers, posterior, region, torch.zeros(len(answers), dtype=torch.int64))
    return tally


def test_it_tells_how_often_each_source_is_right() -> None:
    case, truth = _sources()
    fused = Fused()
    case.run(fused)
    found, tally = fused.sources(case.scopes), tallied(fused, case)
    annotations = case.evidence.annotations
    for source in range(7):
        answered = annotations[:, source].sum(1) > 0
        measured = right(annotations[answered, source], truth[answered])
        assert abs(float(tally.reliability()[source]) - measured) < 0.04
        assert float(tally.samples[source]) == pytest.approx(float(answered.sum()), rel=1e-4)
    assert found.names == (*case.scopes.names, "student")
    # Each region is that of one specialist, who is best there.
    for number, name in enumerate(found.regions):
        assert tally.by_region()[:4, number].argmax() == case.scopes.names.index(name)


@pytest.mark.parametrize("kind", ["random", "constant"])
def test_an_annotator_without_information_changes_nothing(kind: str) -> None:
    case, truth = _sources()
    rng = np.random.default_rng(1)
    useless = np.full(len(truth), 3) if kind == "constant" else rng.integers(0, 10, len(truth))
    joined = with_annotators(case, [useless])
    without, fused = Fused(student=False), Fused(student=False)
    case.run(without)
    weights = joined.run(fused)
    found = right(fused.posterior(joined.evidence), truth)
    assert found > right(without.posterior(case.evidence), truth) - 0.01
    assert float(weights[:, -1].mean()) < 0.03


def test_an_adversary_is_seen_through_and_does_not_turn_the_others() -> None:
    case, truth = _sources()
    adversary = (truth.numpy() + 1) % 10
    joined = with_annotators(case, [adversary])
    fused = Fused(student=False)
    joined.run(fused)
    assert right(fused.posterior(joined.evidence), truth) > 0.9
    assert float(tallied(fused, joined).reliability()[-1]) < 0.1


def test_two_copies_of_an_annotator_count_once() -> None:
    _, truth = _sources()
    rng = np.random.default_rng(2)
    columns = [_answers(rng, truth.numpy(), share) for share in (0.75, 0.6, 0.55)]
    labels, copied = np.stack(columns, 1), np.stack([*columns, columns[1]], 1)

    def evidence(of: NDArray[np.int64]) -> Evidence:
        hard = torch.stack([one_hot(column) for column in of.T], 1)
        return Evidence(torch.full((len(of), 10), 0.1), hard)

    once = fitted(evidence(labels), Scopes.of([None] * 3, 10), student=False)
    twice = fitted(evidence(copied), Scopes.of([None] * 4, 10), student=False)
    assert twice.sources(Scopes.of([None] * 4, 10)).groups == ((0,), (1, 3), (2,))
    torch.testing.assert_close(
        twice.posterior(evidence(copied)), once.posterior(evidence(labels)), rtol=0, atol=2e-3
    )
    assert once.sources(Scopes.of([None] * 3, 10)).groups == ((0,), (1,), (2,))


def test_the_mean_counts_in_a_group_and_the_product_across_groups() -> None:
    probs = torch.tensor([[[0.6, 0.4], [0.2, 0.8], [0.7, 0.3]]])
    weights = torch.tensor([[1.0, 0.5, 1.0]])
    found = combine(probs.log(), weights, ((0, 1), (2,))).exp()
    mean = (np.array([0.6, 0.4]) + 0.5 * np.array([0.2, 0.8])) / 1.5
    np.testing.assert_allclose(found[0], mean * np.array([0.7, 0.3]), rtol=1e-5)


def test_an_exponent_recalibrates_a_source_that_is_too_sure() -> None:
    """Probabilities p^3 have the exponent 1/3, as the answers were drawn with p."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(20_000, 4, generator=generator).softmax(1)
    answers = torch.multinomial(probs, 1, generator=generator)
    wrong = torch.rand(len(answers), 1, generator=generator) > 0.7
    answers = (answers + wrong * torch.randint(1, 4, answers.shape, generator=generator)) % 4
    likelihood = torch.full_like(probs, 0.1).scatter_(1, answers, 0.7).log()
    found = fit_exponent(3 * probs.log(), likelihood, torch.ones(len(probs)))
    assert found == pytest.approx(1 / 3, abs=0.02)
    nothing = torch.zeros_like(likelihood)
    assert fit_exponent(probs.log(), nothing, torch.ones(len(probs))) == 1.0


def test_a_stand_in_for_the_student_is_no_source() -> None:
    case, _ = _sources()
    without = replace(case.evidence, has_student=False)
    fused, alone = Fused(), Fused(student=False)
    Case(without, case.scopes, case.provenance).run(fused)
    fused.fit([without], case.scopes, provenance=case.provenance)
    alone.fit([case.evidence], case.scopes, provenance=case.provenance)
    assert torch.equal(fused.posterior(without), alone.posterior(case.evidence))
    assert (fused.assign(without, case.scopes).nats[:, -1] == 0).all()  # type: ignore[index]


def test_without_features_or_provenance_auto_has_one_region() -> None:
    case, _ = _sources()
    blind = replace(case.evidence, features=None)
    fused = Fused()
    fused.fit([blind], case.scopes)
    assert fused.sources(case.scopes).regions == ("all",)
    with pytest.raises(UserError, match="provenance"):
        Fused("provenance").fit([blind], case.scopes)


def test_nats_say_who_spoke_for_the_winner() -> None:
    case, _ = _sources()
    fused = Fused(student=False, confidence_weight=True)
    case.run(fused)
    found = fused.assign(case.evidence, case.scopes)
    assert found.nats is not None
    assert found.loss_weights is not None
    torch.testing.assert_close(found.loss_weights, found.targets.amax(1))
    positive = found.nats[:, :-1].clamp_min(0)
    some = positive.sum(1) > 0
    torch.testing.assert_close(
        found.weights[some], positive[some] / positive[some].sum(1, keepdim=True)
    )
    agrees = case.evidence.annotations[:, 4].argmax(1) == found.targets.argmax(1)
    answered = case.evidence.annotations[:, 4].sum(1) > 0
    assert (found.nats[agrees & answered, 4] > 0).all()
    assert (found.nats[~answered, 4] == 0).all()


def test_one_source_and_sources_that_never_overlap_keep_their_answers() -> None:
    truth = np.arange(300) % 10
    one = Evidence(torch.full((300, 10), 0.1), one_hot(truth)[:, None])
    assert (
        right(fitted(one, Scopes.of([None], 10), student=False).posterior(one), torch.tensor(truth))
        == 1
    )
    halves = [np.where(np.arange(300) % 2 == side, truth, -1) for side in (0, 1)]
    apart = Evidence(one.student_probs, torch.stack([one_hot(half) for half in halves], 1))
    two = fitted(apart, Scopes.of([None] * 2, 10), student=False)
    assert right(two.posterior(apart), torch.tensor(truth)) == 1


def test_where_nobody_answers_the_annotation_is_empty() -> None:
    case, _ = _sources()
    annotations = case.evidence.annotations.clone()
    annotations[:5] = 0
    silent = replace(case.evidence, annotations=annotations)
    fused = Fused("none")
    fused.fit([silent], case.scopes)
    found = fused.assign(silent, case.scopes)
    assert (found.targets[:5] == 0).all()
    torch.testing.assert_close(found.targets[5:].sum(1), torch.ones(len(annotations) - 5))


@pytest.mark.parametrize("classes", [2, 70])
def test_few_and_many_classes(classes: int) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, 40 * classes)
    columns = []
    for share in (0.8, 0.7, 0.6):
        wrong = rng.integers(0, classes, len(truth))
        columns.append(one_hot(np.where(rng.random(len(truth)) < share, truth, wrong), classes))
    hard = torch.stack(columns, 1)
    evidence = Evidence(torch.full((len(truth), classes), 1 / classes), hard)
    fused = fitted(evidence, Scopes.of([None] * 3, classes), student=False)
    majority = right(hard.sum(1), torch.tensor(truth))
    assert right(fused.posterior(evidence), torch.tensor(truth)) > majority - 0.01
