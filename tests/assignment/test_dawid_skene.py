"""Dawid-Skene against crowd-kit, against Bayes' rule in float64, and on real annotations."""

import numpy as np
import pandas as pd
import torch
from assignment_cases import Chunks, random_case, rotated_digits
from crowdkit.aggregation import DawidSkene as CrowdKit
from sklearn.datasets import load_digits

from cosup.assignment import DawidSkene
from cosup.evidence import Evidence, Scopes, Truth


def _annotators(samples: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, T] (-1: abstains) of simulated annotators of real digits 0 to 3; truth [N]."""
    rng = np.random.default_rng(seed)
    truth = load_digits(n_class=4).target[:samples]
    labels = np.empty((samples, 4), dtype=int)
    for teacher, right in enumerate((0.9, 0.75, 0.6, 0.5)):
        noise = rng.integers(0, 4, samples)
        labels[:, teacher] = np.where(rng.random(samples) < right, truth, noise)
    swapped = labels[:, 3]  # the last one always swaps two classes
    labels[:, 3] = np.where(swapped == 0, 1, np.where(swapped == 1, 0, swapped))
    labels[rng.random(labels.shape) < 0.2] = -1
    labels[(labels < 0).all(1), 0] = 0
    return labels, truth


def _evidence(labels: np.ndarray) -> Evidence:
    one_hot = np.eye(5)[labels][..., :4]  # -1 is the fifth row: all zero
    samples = len(labels)
    nothing = torch.zeros(samples, dtype=torch.int64)
    return Evidence(
        torch.full((samples, 4), 0.25),
        torch.tensor(one_hot, dtype=torch.float32),
        torch.zeros(samples, 1),
        Truth(nothing, nothing),
    )


def test_posterior_and_confusion_are_crowd_kits() -> None:
    labels, _ = _annotators()
    rows = [(n, t, labels[n, t]) for n, t in np.argwhere(labels >= 0)]
    table = pd.DataFrame(rows, columns=["task", "worker", "label"])
    errors = CrowdKit(n_iter=8, tol=0).fit(table).errors_
    probas = CrowdKit(n_iter=9, tol=0).fit(table).probas_  # these come before the last M-step
    assert errors is not None
    assert probas is not None

    evidence = _evidence(labels)
    for votes in ("soft", "hard"):  # one-hot annotations are the same either way
        ours = DawidSkene(8, 0.0, votes, student_prior=False, smoothing=0.0)
        ours.fit(Chunks(evidence, 64), Scopes.of([None] * 4, 4))
        posterior = ours.posterior(evidence)
        expected = probas.sort_index()[range(4)].to_numpy()
        np.testing.assert_allclose(posterior.numpy(), expected, atol=1e-5)
        assert ours.confusion_ is not None
        for teacher in range(4):
            rates = errors.loc[teacher].sort_index()[range(4)].to_numpy()
            np.testing.assert_allclose(ours.confusion_[teacher].T, rates, atol=1e-5)


def test_posterior_with_the_student_as_prior_is_bayes_rule() -> None:
    case = random_case(1, 12, 3, 4, abstain=0.3)
    student, annotations = case.evidence.student_probs, case.evidence.annotations
    model = DawidSkene(iterations=3, student_prior=True)
    case.run(model)
    assert model.confusion_ is not None
    pi, s, a = (part.double().numpy() for part in (model.confusion_, student, annotations))
    expected = np.empty((12, 4))
    for n in range(12):
        for c in range(4):
            expected[n, c] = s[n, c] * np.prod(
                [pi[t, c, j] ** a[n, t, j] for t in range(3) for j in range(4)]
            )
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(model.posterior(case.evidence).numpy(), expected, atol=1e-5)

    weights = DawidSkene(hard=False, student_prior=True)
    weights.load_state_dict(model.state_dict())
    got = weights.weights(case.evidence, case.scopes).numpy()
    score = np.einsum("nc,ntc,tc->nt", expected, a, pi[:, range(4), range(4)])
    heard = a.any((1, 2))
    score = score[heard] / score[heard].sum(1, keepdims=True)
    np.testing.assert_allclose(got[heard], score, atol=1e-5)


def _log_posterior(model: DawidSkene, labels: np.ndarray) -> float:
    """Log-likelihood plus log-density of the Dirichlet prior (up to a constant) per sample."""
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    rates, joint = state["confusion"], np.log(state["prior"]) + np.zeros((len(labels), 4))
    for teacher, said in enumerate(labels.T):
        joint[said >= 0] += np.log(rates[teacher][:, said[said >= 0]].T)
    likelihood = np.logaddexp.reduce(joint, axis=1).sum()
    return float(likelihood + model.smoothing * np.log(rates).sum()) / len(labels)


def test_em_goes_on_while_the_posterior_climbs() -> None:
    """With few samples and a smoothing of 1 the likelihood falls at first, and the posterior does
    not: the smoothed M-step climbs the latter."""
    labels, _ = _annotators(samples=20, seed=2)
    evidence, scopes = _evidence(labels), Scopes.of([None] * 4, 4)

    def after(iterations: int, tolerance: float) -> float:
        model = DawidSkene(iterations, tolerance, smoothing=1.0)
        model.fit([evidence], scopes)
        return _log_posterior(model, labels)

    # Each number of iterations is a fit of its own, from the same start.
    climbed = np.array([after(iterations, 0.0) for iterations in range(1, 40)])
    gains = np.diff(climbed)
    assert gains.min() > -1e-6
    enough = int((gains < 1e-4).argmax())
    assert 10 < enough < 30
    stopped = after(60, 1e-4)
    # It ends at the first step that gains less, give or take the step that measures it.
    assert climbed[enough - 1] <= stopped <= climbed[enough + 2]


def test_it_finds_the_better_annotators_without_labels() -> None:
    labels, truth = _annotators()
    evidence = _evidence(labels)
    scopes = Scopes.of([None] * 4, 4)
    model = DawidSkene(student_prior=False)
    model.fit([evidence], scopes)
    weights = model.weights(evidence, scopes)
    chosen = labels[np.arange(len(labels)), weights.argmax(1).numpy()]
    answered = labels >= 0
    best_alone = (labels[answered[:, 0], 0] == truth[answered[:, 0]]).mean()
    assert (chosen == truth).mean() > best_alone - 0.02
    assert model.confusion_ is not None
    # The annotator that swaps 0 and 1 is detected.
    assert model.confusion_[3, 0, 1] > model.confusion_[3, 0, 0]


def test_a_sample_without_annotations_keeps_its_prior() -> None:
    case = random_case(1, 12, 3, 4)
    model = DawidSkene(iterations=2, student_prior=True)
    case.run(model)
    silent = torch.zeros(12, 3, 4)
    student = case.evidence.student_probs
    torch.testing.assert_close(model.posterior(Evidence(student, silent)), student)


def test_on_real_specialists_it_beats_their_mean() -> None:
    case = rotated_digits()
    evidence = case.evidence
    assert evidence.truth is not None
    weights = case.run(DawidSkene(student_prior=True), size=500)
    label = torch.einsum("ntc,nt->nc", evidence.annotations, weights).argmax(1)
    mean_label = evidence.annotations.mean(1).argmax(1)
    right = (label == evidence.truth.labels).float().mean()
    assert right > (mean_label == evidence.truth.labels).float().mean() + 0.05
