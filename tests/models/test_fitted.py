"""Heads that were fitted already are taken only where a new fit would give the same."""

from dataclasses import replace

import torch
from helpers.digits_task import CLASSES, digits_task

from cosup.losses import AdaptiveConfidence, CrossEntropy, Objective
from cosup.models.compute import DEFAULT_COMPUTE
from cosup.models.fit import fit_heads
from cosup.models.fitted import FittedHeads
from cosup.models.head_fit import HeadFit
from cosup.models.section import HeadSection
from cosup.models.training_section import TrainingSection
from cosup.probabilities import ProbTable

TRAINING = {"steps": 6, "batch_size": 32, "lr": 0.05}


def digit_fit(**changes):
    task, _ = digits_task(200)
    fit = HeadFit(
        features=task.inputs,
        targets=ProbTable.one_hot(task.truth.labels, CLASSES),
        members=[torch.arange(200)],
        head=HeadSection(kind="linear"),
        training=TrainingSection.model_validate(TRAINING),
        objective=Objective(CrossEntropy()),
        seed=0,
        weights=torch.ones(200),
    )
    return replace(fit, **changes)


def same(bank, other):
    return all(torch.equal(bank.state_dict()[k], v) for k, v in other.state_dict().items())


def loops(monkeypatch):
    """Return a list that grows by the number of fits of each loop."""
    found, group = [], "cosup.models.fit._fit_group"
    import cosup.models.fit as module

    before = module._fit_group
    monkeypatch.setattr(group, lambda fits, *rest: found.append(len(fits)) or before(fits, *rest))
    return found


def test_what_was_fitted_is_not_fitted_again(monkeypatch):
    first, counts = digit_fit(), loops(monkeypatch)
    other = replace(first, objective=Objective(AdaptiveConfidence()))
    heads = FittedHeads(2**20)
    alone = fit_heads(first)
    counts.clear()
    found = heads.fit([first, other, replace(first)], DEFAULT_COMPUTE, None, anew=False)
    assert counts == [2], "two of the three fits differ"
    again = heads.fit([replace(first)], DEFAULT_COMPUTE, None, anew=False)
    assert counts == [2]
    assert all(same(bank, alone) for bank in (found[0], found[2], again[0]))
    assert not same(found[1], alone)


def test_any_other_content_is_fitted(monkeypatch):
    first, heads = digit_fit(), FittedHeads(2**20)
    [bank] = heads.fit([first], DEFAULT_COMPUTE, None, anew=False)
    labels = first.targets.top()[0]
    changed = {
        "features": first.features.clone(),
        "targets": ProbTable.one_hot((labels + 1) % CLASSES, CLASSES),
        "members": [torch.arange(1, 200)],
        "training": TrainingSection.model_validate({**TRAINING, "lr": 0.04}),
        "objective": Objective(CrossEntropy(), annotation_weight=0.5),
        "seed": 1,
        "weights": torch.arange(200) / 200,
        "labels": labels,
        "init": bank,
        "steps": 7,
        "hard": True,
    }
    counts = loops(monkeypatch)
    for number, (name, value) in enumerate(changed.items(), start=1):
        other = replace(first, **{name: value})
        [found] = heads.fit([other], DEFAULT_COMPUTE, None, anew=False)
        assert len(counts) == number, name
        assert same(found, fit_heads(other)), name
        counts.pop()


def test_recorded_steps_are_taken_although_the_heads_are_there():
    fit, heads, steps = digit_fit(), FittedHeads(2**20), []
    for anew in (True, False, True):
        heads.fit([fit], DEFAULT_COMPUTE, lambda step, *_: steps.append(step), anew=anew)
    assert steps == [1, 2, 3, 4, 5, 6] * 2


def test_memory_is_bounded(monkeypatch):
    """The heads used longest ago are dropped; features are not kept alive."""
    fits = [digit_fit(seed=seed, targets=digit_fit().targets) for seed in range(3)]
    size = sum(tensor.nbytes for tensor in fit_heads(fits[0]).state_dict().values())
    heads = FittedHeads(2 * size)
    for fit in fits:
        heads.fit([fit], DEFAULT_COMPUTE, None, anew=False)
    counts = loops(monkeypatch)
    heads.fit(fits[1:], DEFAULT_COMPUTE, None, anew=False)
    assert not counts
    heads.fit([fits[0]], DEFAULT_COMPUTE, None, anew=False)
    assert counts == [1]
