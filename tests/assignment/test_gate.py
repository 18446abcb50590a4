"""The gate: its M-step against scikit-learn, and its routing on rotated real digits."""

import dataclasses

import numpy as np
import pytest
import torch
from assignment_cases import Case, assign, random_case, rotated_digits
from sklearn.linear_model import LogisticRegression

from cosup.assignment import Agreement, Gate
from cosup.assignment.gate import Examples, LinearGate, fit_gate, standardisation
from cosup.errors import UserError


def routed_right(case: Case, weights: torch.Tensor) -> float:
    """The share of weight that goes to the specialist of the sample's own domain."""
    assert case.evidence.truth is not None
    return float((weights * case.scopes.hold(case.evidence.truth)).sum(1).mean())


def annotated_right(case: Case, weights: torch.Tensor) -> float:
    assert case.evidence.truth is not None
    label = torch.einsum("ntc,nt->nc", case.evidence.annotations, weights).argmax(1)
    return float((label == case.evidence.truth.labels).float().mean())


def test_m_step_is_scikit_learns_logistic_regression() -> None:
    inputs, membership = rotated_digits().provenance
    decay = 0.05
    shift, scale = standardisation(inputs, wanted=False)
    start = LinearGate.zeros(inputs.shape[1], 4, shift, scale)
    ours = fit_gate(start, [Examples(inputs, membership, 1.0)], decay, 300)
    theirs = LogisticRegression(C=1 / (len(inputs) * decay), max_iter=1000, tol=1e-8)
    theirs.fit(inputs.double().numpy(), membership.argmax(1).numpy())
    expected = theirs.predict_proba(inputs.double().numpy())
    np.testing.assert_allclose(ours(inputs).softmax(1).numpy(), expected, atol=1e-3)


def test_m_step_weighs_its_examples_and_takes_soft_targets() -> None:
    """With constant inputs only the bias is fitted: the weighted mean of the targets."""
    inputs = torch.zeros(4, 2)
    start = LinearGate.zeros(2, 2, torch.zeros(2), torch.ones(2))
    soft = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2], [0.8, 0.2]])
    examples = [Examples(inputs, soft, 1.0), Examples(inputs[:1], torch.tensor([[0.0, 1.0]]), 3.0)]
    gate = fit_gate(start, examples, 0.0, 50)
    torch.testing.assert_close(
        gate(inputs[:1]).softmax(1), torch.tensor([[0.2, 0.8]]), rtol=1e-3, atol=1e-3
    )


def test_standardisation_does_not_scale_constant_features() -> None:
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    shift, scale = standardisation(features, wanted=True)
    assert ((features - shift) * scale).tolist() == [[-1, 0], [1, 0]]


def test_provenance_routes_rotated_digits_nearly_like_the_oracle() -> None:
    case = rotated_digits()
    oracle = case.scopes.hold(case.evidence.truth).float()  # type: ignore[arg-type]
    weights = case.run(Gate("provenance"), size=400)
    assert routed_right(case, weights) > 0.9
    assert annotated_right(case, weights) > annotated_right(case, oracle) - 0.05


def test_without_provenance_it_still_beats_agreement() -> None:
    case = rotated_digits()
    gate = case.run(Gate())
    assert routed_right(case, gate) > routed_right(case, case.run(Agreement())) + 0.05


def test_soft_weights_are_the_gates_probabilities_and_hard_ones_their_best() -> None:
    case = rotated_digits()
    hard = Gate("provenance")
    one_hot = case.run(hard)
    soft = Gate("provenance", hard=False)
    soft.load_state_dict(hard.state_dict())
    probs = assign(soft, case.evidence, case.scopes)
    assert torch.equal(probs.argmax(1), one_hot.argmax(1))
    assert 0 < float(probs.max(1).values.min()) < 1


def test_stronger_provenance_stays_closer_to_it() -> None:
    case = random_case(0, 200, 3, 4)
    start = case.run(Gate("provenance", hard=False, provenance_strength=1e4, iterations=3))
    near = case.run(Gate("provenance", hard=False, provenance_strength=10))
    far = case.run(Gate("provenance", hard=False, provenance_strength=0))
    assert (near - start).abs().mean() < (far - start).abs().mean()


def test_features_can_be_in_half_precision() -> None:
    case = rotated_digits()
    assert case.evidence.features is not None
    half = dataclasses.replace(case.evidence, features=case.evidence.features.half())
    known = (case.provenance[0].half(), case.provenance[1])
    weights = Case(half, case.scopes, known).run(Gate("provenance"))
    assert (weights == case.run(Gate("provenance"))).all(1).float().mean() > 0.99


def test_a_drawn_part_of_the_samples_does_not_depend_on_batches() -> None:
    case = rotated_digits()
    whole = case.run(Gate("provenance", max_samples=150), seed=3)
    parts = case.run(Gate("provenance", max_samples=150), size=70, seed=3)
    assert torch.equal(whole, parts)
    assert routed_right(case, whole) > 0.85


def test_samples_without_annotations_are_left_out() -> None:
    case = random_case(0, 60, 3, 4)
    annotations = case.evidence.annotations.clone()
    annotations[40:] = 0
    with_silence = dataclasses.replace(case.evidence, annotations=annotations)
    first, second = Gate(hard=False), Gate(hard=False)
    first.fit(Case(with_silence, case.scopes, case.provenance).batches(60), case.scopes)
    second.fit([next(iter(case.batches(40)))], case.scopes)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, second.state_dict()[name])


def test_needs_depend_on_the_prior() -> None:
    assert Gate().needs == {"features"}
    assert Gate("provenance").needs == {"features", "provenance"}


def test_missing_inputs_are_named() -> None:
    case = random_case(0, 6, 2, 4)
    blind = dataclasses.replace(case.evidence, features=None)
    with pytest.raises(UserError, match="gate: no features"):
        Gate().fit([blind], case.scopes)
    with pytest.raises(UserError, match=r"provenance: .*not given"):
        Gate("provenance").fit([case.evidence], case.scopes)
    features, membership = case.provenance
    one_sided = (features, membership * torch.tensor([1.0, 0.0]))
    with pytest.raises(UserError, match="teacher 't1' has no training input"):
        Gate("provenance").fit([case.evidence], case.scopes, provenance=one_sided)
    with pytest.raises(UserError, match=r"must be \[M, 3\] and \[M, 2\]"):
        Gate("provenance").fit([case.evidence], case.scopes, provenance=(features, features))
