"""Assignments are taken from earlier ones only where a new one would be the same."""

from dataclasses import replace

import torch
from helpers.digits_task import digits_task

from cosup.assigning import Assignments, assign
from cosup.assignment import Agreement, Gate, Random
from cosup.levels import Stream
from cosup.probabilities import ProbTable


def stream(seed=0):
    """Return the evidence of the second level, with a guide that is made anew."""
    task, _ = digits_task(300)
    guide = torch.rand(300, 10, generator=torch.Generator().manual_seed(seed)).softmax(1)
    return Stream(task.levels[1], ProbTable.compress(guide), task.features, task.truth)


def counted(assigner, fits):
    """Count the fits of an assigner."""
    fit = assigner.fit
    assigner.fit = lambda *given, **more: fits.append(type(assigner)) or fit(*given, **more)
    return assigner


def test_equal_questions_are_answered_once():
    """Of another assigner object with these settings, and a guide with the same numbers."""
    kept, fits, evidence = Assignments(), [], stream()
    guide = ProbTable(10, evidence.student.logs.clone())
    first = kept.assign(counted(Gate(), fits), evidence, 3)
    second = counted(Gate(), fits)
    again = kept.assign(second, replace(evidence, student=guide), 3, hard=True)
    fresh = Gate()
    expected = assign(fresh, evidence, 3, hard=True)
    assert len(fits) == 1
    assert torch.equal(again.weights, first.weights)
    assert torch.equal(again.weights, expected.weights)
    assert torch.equal(again.targets.dense(), expected.targets.dense())
    assert torch.equal(again.annotations.dense(), first.targets.dense())
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def test_other_questions_are_asked():
    kept, evidence = Assignments(), stream()
    other_level = replace(evidence.level, annotations=replace(evidence.level.annotations))
    asked = [
        (Gate(), evidence, 0),
        (Gate(), evidence, 1),
        (Gate(weight_decay=0.5), evidence, 0),
        (Gate(), replace(evidence, student=stream(1).student), 0),
        (Gate(), replace(evidence, student=None), 0),
        (Gate(), replace(evidence, level=other_level), 0),
        (Agreement(), evidence, 0),
    ]
    fits = []
    for number, (assigner, question, seed) in enumerate(asked, start=1):
        found = kept.assign(counted(assigner, fits), question, seed)
        assert len(fits) == number, number
        expected = assign(type(assigner)(**vars_of(assigner)), question, seed)
        assert torch.equal(found.weights, expected.weights)


def vars_of(assigner):
    return {name: getattr(assigner, name) for name in type(assigner).__dataclass_fields__}


def test_a_guide_that_is_not_read_does_not_count():
    kept, fits, evidence = Assignments(), [], stream()
    for guide in (evidence.student, stream(1).student, None):
        kept.assign(counted(Random(), fits), replace(evidence, student=guide), 5)
    assert len(fits) == 1


def test_memory_is_bounded(monkeypatch):
    evidence, kept = stream(), Assignments()
    monkeypatch.setattr("cosup.assigning.KEPT_BYTES", 1)
    fits = []
    for _ in range(2):
        kept.assign(counted(Agreement(), fits), evidence, 0)
    assert len(fits) == 2
