"""What is stored of probabilities: softened as they were, with their scope, and one label."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosup.assigning import harden
from cosup.losses import DecoupledDistillation, Distillation
from cosup.probabilities import DENSE_LIMIT, TOP_K, ProbTable, row_bytes

FEW, MANY = (2, 10, 64, 100, DENSE_LIMIT), (DENSE_LIMIT + 1, 1000)
TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 10.0, 20.0)


def logits(classes: int, spread: float, samples: int = 40, seed: int = 0) -> Tensor:
    """Return logits of teachers, sure ones with a great spread, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(samples, classes, generator=generator, dtype=torch.float64)


def gap(found: Tensor, right: Tensor) -> float:
    """Return the largest total variation distance of rows."""
    return float((found - right).abs().sum(-1).max()) / 2


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("classes", FEW)
@pytest.mark.parametrize("spread", [1.0, 5.0, 12.0])
def test_a_stored_distribution_is_softened_as_the_logits_are(
    classes: int, spread: float, tau: float
) -> None:
    """Of float16 probabilities those under 6e-8 were 0, and of 32 classes the others averaged.

    Gaps of more than 103 nats are 0 in float32 already.
    """
    given = logits(classes, spread)
    stored = ProbTable.compress(given.softmax(1).float()).dense().double()
    powers = stored.pow(1 / tau)
    assert gap(powers / powers.sum(1, keepdim=True), (given / tau).softmax(1)) < 0.01


@pytest.mark.parametrize(("classes", "tau", "sure"), [(64, 10.0, 60.0), (100, 4.0, 3.0)])
def test_the_gradient_of_distillation_is_that_of_the_logits(
    classes: int, tau: float, sure: float
) -> None:
    """A sure teacher (its first class leads by 60 nats) and a mild one."""
    given = logits(classes, 2.0)
    given[:, 0] += sure
    teacher = (given / tau).softmax(1)
    stored = ProbTable.compress(given.softmax(1).float()).dense()
    student = logits(classes, 1.0, seed=1).float().requires_grad_()
    losses, _ = Distillation(tau=tau)(student, stored, 1.0)
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    own = (student.detach().double() / tau).softmax(1)
    right = tau * (own - teacher)
    assert float((gradient - right).norm() / right.norm()) < 0.01
    expected = tau**2 * (teacher * (teacher.log() - own.log())).sum(1)
    torch.testing.assert_close(losses.double(), expected, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("classes", FEW + MANY)
def test_no_mass_falls_outside_the_scope(classes: int) -> None:
    """Whichever teacher's scope a row has: the targets of a round are of several teachers."""
    named = torch.arange(classes) % 3 == (torch.arange(40) % 3)[:, None]
    named[:, 0] = True
    given = logits(classes, 1.0).masked_fill(~named, -torch.inf)
    probs = given.softmax(1).float()
    stored = ProbTable.compress(probs).dense()
    assert torch.equal(stored > 0, named)
    torch.testing.assert_close(stored.sum(1), torch.ones(40))
    if classes > 2:
        loss, student = DecoupledDistillation(tau=1.0), torch.zeros(40, classes)
        student[~named] = 50.0  # a student's answer to what the teacher cannot name does not count
        _, silent = loss(student, stored, 1.0)
        _, metrics = loss(torch.zeros(40, classes), stored, 1.0)
        torch.testing.assert_close(silent["nckd"], metrics["nckd"])


@settings(max_examples=60, deadline=None)
@given(
    classes=st.sampled_from(FEW + MANY),
    spread=st.sampled_from([0.0, 1e-7, 1e-4, 1.0, 30.0]),
    seed=st.integers(0, 2**20),
)
def test_the_label_is_the_same_everywhere(classes: int, spread: float, seed: int) -> None:
    """Also of probabilities that float16 cannot tell apart, or that are equal."""
    probs = logits(classes, spread, seed=seed).softmax(1).float()
    probs[0] = 1 / classes
    probs[1] = 0
    table, live = ProbTable.compress(probs), probs.argmax(1)
    label, confidence = table.top()
    stored = table.dense()
    assert torch.equal(label, live)
    assert torch.equal(stored.argmax(1), live)
    assert torch.equal(stored.max(1).values, confidence)
    again = ProbTable.compress(stored)
    assert torch.equal(again.top()[0], live)
    assert torch.equal(harden(table).top()[0], live)
    hard = harden(table).dense()
    assert torch.equal(hard.argmax(1), live)
    assert hard.sum(1).tolist() == [1.0, 0.0] + [1.0] * 38


def test_a_mixture_of_stored_rows_keeps_a_stored_label() -> None:
    """With all the weight on one teacher, dividing by sums must not undo the difference."""
    probs = torch.full((1000, 3), 1 / 3) + 1e-8 * torch.rand(1000, 3)
    table = ProbTable.compress(probs)
    scale = 0.1 + torch.rand(1000, 1, generator=torch.Generator().manual_seed(0))
    mixed = table.dense() * scale
    assert torch.equal((mixed / mixed.sum(1, keepdim=True)).argmax(1), table.top()[0])


@pytest.mark.parametrize("classes", [10, 1000])
def test_tables_are_filled_cut_and_joined(classes: int) -> None:
    probs = logits(classes, 3.0).softmax(1).float()
    table = ProbTable.compress(probs)
    filled = ProbTable.empty(40, classes)
    assert not filled.dense().any()
    for start in (0, 20):
        filled.put(slice(start, start + 20), table.take(slice(start, start + 20)))
    joined = ProbTable.concat([table.take(torch.arange(7)), table.take(torch.arange(7, 40))])
    for other in (filled, joined, ProbTable.from_tensors(classes, table.tensors())):
        assert torch.equal(other.dense(), table.dense())
    longer = table.with_abstentions(3).dense()
    assert torch.equal(longer[:40], table.dense())
    assert not longer[40:].any()


@pytest.mark.parametrize("kind", ["soft", "labels"])
@pytest.mark.parametrize("classes", [10, 1000])
def test_labels_replace_rows(kind: str, classes: int) -> None:
    table = ProbTable.compress(logits(classes, 1.0).softmax(1).float())
    table = harden(table) if kind == "labels" else table
    rows, labels = torch.tensor([3, 7]), torch.tensor([1, classes - 1])
    found = table.with_labels(rows, labels).dense()
    assert torch.equal(found[rows], torch.eye(classes)[labels])
    others = torch.ones(40, dtype=torch.bool).index_fill(0, rows, False)
    assert torch.equal(found[others], table.dense()[others])


def test_bytes_of_a_row() -> None:
    """What the plan of a run tells, and what DESIGN promises of 1,000 classes: a few GB."""
    assert [row_bytes(classes) for classes in (10, 64, 200, 1000)] == [20, 128, 400, 257]
    table = ProbTable.compress(logits(1000, 1.0).softmax(1).float())
    assert sum(tensor.nbytes for tensor in table.tensors().values()) == 40 * row_bytes(1000)


def first_format(probs: Tensor, support: Tensor | None = None) -> dict[str, Tensor]:
    """Store probabilities as runs before this format did."""
    if probs.shape[1] <= 64:
        return {"values": probs.half()}
    values, indices = probs.topk(TOP_K, dim=1)
    rest = (probs.sum(1) - values.sum(1)).clamp_min(0)
    found = {"values": values.half(), "indices": indices.int(), "rest": rest.half()}
    return found if support is None else {**found, "support": support}


@pytest.mark.parametrize("classes", [10, 64, 100, 1000])
def test_the_first_format_is_read_as_it_was(classes: int) -> None:
    support = torch.arange(classes) < classes // 2 + 20
    probs = logits(classes, 3.0).masked_fill(~support, -torch.inf).softmax(1).float()
    probs[4] = 0
    tensors = first_format(probs, support)
    table = ProbTable.from_tensors(classes, tensors)
    expected = tensors["values"].double().numpy()
    label = expected.argmax(1)
    if "indices" in tensors:
        index, mass = tensors["indices"].long().numpy(), tensors["rest"].double().numpy()
        label = index[np.arange(40), label]
        whole = np.tile(support.double().numpy(), (40, 1))
        np.put_along_axis(whole, index, 0, 1)
        whole *= (mass / whole.sum(1))[:, None]
        np.put_along_axis(whole, index, expected, 1)
        expected = whole
    expected /= np.where(expected.sum(1) > 0, expected.sum(1), 1)[:, None]
    np.testing.assert_allclose(table.dense().numpy(), expected, rtol=5e-3, atol=1e-6)
    answered = expected.any(1)
    assert table.top()[0].numpy()[answered].tolist() == label[answered].tolist()
    assert not table.dense()[4].any()


def test_labels_of_the_first_format_are_read() -> None:
    values = torch.tensor([[1.0], [0.0]], dtype=torch.float16)
    tensors = {"values": values, "indices": torch.tensor([[70], [3]], dtype=torch.int32)}
    table = ProbTable.from_tensors(100, {**tensors, "rest": torch.zeros(2, dtype=torch.float16)})
    assert table.dense().sum(1).tolist() == [1.0, 0.0]
    assert table.top()[0].tolist() == [70, 0]


def test_a_table_of_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="classes"):
        ProbTable.from_tensors(9, first_format(torch.rand(3, 10)))
