"""Simple assigners against hand-worked cases and SciPy."""

import pytest
import scipy.stats
import torch
from assignment_cases import random_case

from cosup.assignment import Agreement, Block, Confidence, Mean, Oracle, Random, Single
from cosup.assignment.agreement import kl_divergences
from cosup.assignment.baselines import scramble
from cosup.errors import UserError
from cosup.evidence import Evidence, Scopes, Truth, mix

CLASSES = torch.eye(4)


def _one(*rows: list[float]) -> torch.Tensor:
    """Annotations [1, T, C] of one sample."""
    return torch.tensor([rows])


def test_single_uses_the_named_teacher_only() -> None:
    scopes = Scopes.of([None, None], 2, names=["ann", "bob"])
    annotations = _one([0.9, 0.1], [0.0, 0.0])
    weights = Single("bob").weights(Evidence(torch.ones(1, 2) / 2, annotations), scopes)
    assert weights.tolist() == [[0, 1]]
    assert mix(annotations, weights).sum() == 0  # empty: the chain rejects the sample


def test_single_lists_the_teachers() -> None:
    scopes = Scopes.of([None, None], 2, names=["ann", "bob"])
    with pytest.raises(UserError, match="2 teachers; set 'teacher' to one of ann, bob"):
        Single().weights(Evidence(torch.ones(1, 2), torch.ones(1, 2, 2)), scopes)
    with pytest.raises(UserError, match="'bb'; did you mean 'bob'"):
        Single("bb").weights(Evidence(torch.ones(1, 2), torch.ones(1, 2, 2)), scopes)


def test_mean_ignores_abstentions() -> None:
    annotations = torch.stack([_one([1.0, 0], [0, 1.0], [0, 0])[0], torch.zeros(3, 2)])
    weights = Mean().weights(Evidence(torch.ones(2, 2), annotations), Scopes.of([None] * 3, 2))
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]]))


def test_random_is_splitmix64() -> None:
    # The generator's first outputs for seed 0, as in its reference implementation (Vigna).
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    got = [value % 2**64 for value in scramble(torch.tensor([1, 2, 3])).tolist()]
    assert got == known


def test_random_is_fair_and_pairs_of_neighbours_are_independent() -> None:
    case = random_case(0, 6000, 3, 3)
    chosen = case.run(Random(), size=1000).argmax(1)
    counts = torch.bincount(chosen, minlength=3)
    assert scipy.stats.chisquare(counts).pvalue > 0.001
    pairs = torch.bincount(chosen[:-1] * 3 + chosen[1:], minlength=9).view(3, 3)
    assert scipy.stats.chi2_contingency(pairs.numpy()).pvalue > 0.001


def test_random_repeats_after_fit_and_differs_by_seed() -> None:
    case, assigner = random_case(0, 50, 3, 3), Random()
    first = case.run(assigner, seed=1)
    assert torch.equal(case.run(assigner, seed=1), first)
    assert not torch.equal(case.run(assigner, seed=2), first)


def test_oracle_uses_teachers_in_scope_and_all_if_there_are_none() -> None:
    scopes = Scopes.of([[0, 1], [2, 3], None], 4, [None, None, [1]], 2)
    truth = Truth(torch.tensor([0, 3, 3, -1]), torch.tensor([0, 1, 0, 0]))
    annotations = torch.full((4, 3, 4), 0.25)
    annotations[2, 1] = 0  # the only teacher with sample 2 in scope abstains
    student = torch.full((4, 4), 0.25)
    soft = Oracle().weights(Evidence(student, annotations, truth=truth), scopes)
    third = 1 / 3
    torch.testing.assert_close(
        soft, torch.tensor([[1, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [third, third, third]])
    )
    hard = Oracle(hard=True).weights(Evidence(student, annotations, truth=truth), scopes)
    assert hard.argmax(1).tolist() == [0, 1, 0, 0]
    with pytest.raises(UserError, match=r"oracle.*truth"):
        Oracle().weights(Evidence(student, annotations), scopes)


def test_oracle_prefers_specialists_to_annotators_of_everything() -> None:
    """Annotators know every sample by their scope alone; averaged in, they hid the specialist."""
    scopes = Scopes.of([[0, 1], [2, 3], None], 4)
    truth = Truth(torch.tensor([0, 3, 3, -1]), torch.zeros(4, dtype=torch.int64))
    annotations = torch.full((4, 3, 4), 0.25)
    annotations[2, 1] = 0  # the specialist of sample 2 abstains
    evidence = Evidence(torch.full((4, 4), 0.25), annotations, truth=truth)
    third = 1 / 3
    torch.testing.assert_close(
        Oracle().weights(evidence, scopes),
        torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [third, third, third]]),
    )


def test_block_is_the_published_rule_for_contiguous_blocks() -> None:
    """CSL's rule: K teachers share C classes in order; class c belongs to teacher c // (C / K)."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(200, 12, generator=generator).softmax(1)
    annotations = torch.full((200, 4, 12), 1 / 12)
    scopes = Scopes.of([range(3 * t, 3 * t + 3) for t in range(4)], 12)
    weights = Block().weights(Evidence(student, annotations), scopes)
    expected = [row.index(max(row)) // 3 for row in student.tolist()]
    assert weights.argmax(1).tolist() == expected


def test_block_prefers_narrow_scopes_and_soft_mass_prefers_mass() -> None:
    scopes = Scopes.of([None, [0, 1], [2], [3]], 4)
    annotations = torch.full((2, 4, 4), 0.25)
    student = torch.tensor([[0.3, 0.25, 0.4, 0.05], [0.1, 0.1, 0.1, 0.7]])
    assert Block().weights(Evidence(student, annotations), scopes).argmax(1).tolist() == [2, 3]
    annotations[0, 2] = 0  # the specialist abstains; the generalist has the class too
    assert Block().weights(Evidence(student, annotations), scopes).argmax(1).tolist() == [0, 3]

    blocks = scopes.take([1, 2, 3])
    soft = Block(soft_mass=True).weights(Evidence(student, torch.full((2, 3, 4), 0.25)), blocks)
    assert soft.argmax(1).tolist() == [0, 2]


def test_block_needs_class_specialists_or_one_generalist() -> None:
    domains = Scopes.of([None, None], 3, [[0], [1]], 2, names=["photo", "sketch"])
    with pytest.raises(UserError, match=r"block: .*photo, sketch.*same classes"):
        Block().fit([], domains)
    with pytest.raises(UserError, match="block"):
        Block().weights(Evidence(torch.ones(1, 3), torch.ones(1, 2, 3)), domains)
    alone = Block().weights(Evidence(torch.ones(1, 3), torch.ones(1, 1, 3)), Scopes.of([None], 3))
    assert alone.tolist() == [[1]]


def test_agreement_kl_is_scipys() -> None:
    case = random_case(4, 40, 3, 5)
    student, annotations = case.evidence.student_probs, case.evidence.annotations
    ours = kl_divergences(student, annotations)
    theirs = scipy.stats.entropy(student[:, None].double(), annotations.double(), axis=2)
    expected = torch.tensor(theirs)
    # Equal but for the smoothing of 1e-4.
    torch.testing.assert_close(ours.double(), expected, rtol=0.05, atol=0.005)
    weights = Agreement(hard=False, temperature=0.7).weights(
        Evidence(student, annotations), case.scopes
    )
    torch.testing.assert_close(weights.double(), (-expected / 0.7).softmax(1), rtol=0.05, atol=0.01)


def test_agreement_with_partial_scopes_is_finite_and_follows_the_mass() -> None:
    scopes = Scopes.of([[0, 1], [2, 3]], 4)
    annotations = _one([0.5, 0.5, 0, 0], [0, 0, 0.9, 0.1])
    student = torch.tensor([[0.1, 0.0, 0.5, 0.4]])
    for measure in ("kl", "ce"):
        for hard in (True, False):
            weights = Agreement(measure, hard).weights(Evidence(student, annotations), scopes)
            assert weights.isfinite().all()
            assert weights.argmax(1).item() == 1


def test_agreement_ce_prefers_the_probable_label_then_the_confident_teacher() -> None:
    student = torch.tensor([[0.6, 0.3, 0.1]])
    annotations = _one([0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8])
    scopes = Scopes.of([None] * 4, 3)
    weights = Agreement("ce").weights(Evidence(student, annotations), scopes)
    assert weights.tolist() == [[0, 0, 1, 0]]
    soft = Agreement("ce", hard=False).weights(Evidence(student, annotations), scopes)
    torch.testing.assert_close(
        soft, torch.tensor([[0.3, 0.6, 0.6, 0.1]]) / 1.6, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("measure", "winner"), [("max_prob", 0), ("margin", 1), ("entropy", 2)])
def test_each_confidence_measure_has_its_own_winner(measure: str, winner: int) -> None:
    annotations = _one(
        [0.52, 0.46, 0.01, 0.01],  # largest maximum
        [0.50, 0.17, 0.17, 0.16],  # widest margin
        [0.49, 0.49, 0.02, 0.00],  # least entropy
    )
    scopes = Scopes.of([None] * 3, 4)
    weights = Confidence(measure).weights(Evidence(torch.ones(1, 4) / 4, annotations), scopes)
    assert weights.argmax(1).item() == winner


def test_confidence_entropy_is_scipys() -> None:
    case = random_case(2, 20, 3, 4)
    weights = Confidence("entropy", hard=False, temperature=0.5).weights(
        Evidence(case.evidence.student_probs, case.evidence.annotations), case.scopes
    )
    entropy = torch.tensor(scipy.stats.entropy(case.evidence.annotations.double(), axis=2))
    torch.testing.assert_close(weights.double(), (-entropy / 0.5).softmax(1), rtol=1e-4, atol=1e-5)
