"""Levels of many teachers and classes: what is done in parts is what is done at once."""

from collections.abc import Callable

import pytest
import torch
from assignment_cases import Chunks, random_case
from test_fused import _sources, right, with_annotators

from cosup.assignment import DawidSkene, Fused, em, fused, grouping
from cosup.assignment.base import Assigner

LEARNERS: dict[str, Callable[[], Assigner]] = {
    "soft": lambda: DawidSkene(iterations=4, annotations="soft"),
    "hard": lambda: DawidSkene(iterations=4, annotations="hard"),
    "fused": lambda: Fused("provenance", student=False),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_matrices_made_some_sources_at_a_time_are_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, _ = _sources()
    whole = LEARNERS[name]()
    case.run(whole)
    monkeypatch.setattr(em, "MOST_PRODUCTS", 1)
    parts = LEARNERS[name]()
    case.run(parts)
    assert parts.state_dict().keys() == whole.state_dict().keys()
    for key, found in parts.state_dict().items():
        torch.testing.assert_close(found, whole.state_dict()[key], atol=1e-5, rtol=1e-4)


def test_large_matrices_in_float32_find_the_same_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    case, _ = _sources()
    double, single = Fused(student=False), Fused(student=False)
    case.run(double)
    monkeypatch.setattr(grouping, "MOST_PRODUCTS", 1)
    case.run(single)
    assert single.sources(case.scopes).groups == double.sources(case.scopes).groups


def test_regions_with_too_many_matrices_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    case, truth = _sources()
    monkeypatch.setattr(em, "MOST_RATES", 3 * 10**2)  # three annotators, one region
    model = Fused(student=False)
    case.run(model)
    assert model.state_dict()["log_rates"].shape == (3, 10, 1, 10)
    assert len(model.sources(case.scopes).regions) == 4  # the specialists keep theirs
    assert right(model.posterior(case.evidence), truth) > 0.9
    again = Fused(student=False)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.posterior(case.evidence), model.posterior(case.evidence))


def test_fewer_samples_for_exponents_still_beat_every_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, truth = _sources()
    monkeypatch.setattr(fused, "CACHED", 1)
    model = Fused(student=False)
    case.run(model)
    annotations = case.evidence.annotations
    best = max(right(annotations[:, source], truth) for source in range(annotations.shape[1]))
    assert right(model.posterior(case.evidence), truth) > best + 0.05


def test_a_second_fit_forgets_the_first() -> None:
    first, second = (random_case(seed, 120, 4, 5) for seed in (1, 2))
    used, fresh = DawidSkene(iterations=3), DawidSkene(iterations=3)
    used.fit(Chunks(first.evidence, 50), first.scopes)
    for model in (used, fresh):
        model.fit(Chunks(second.evidence, 50), second.scopes)
    for key, found in used.state_dict().items():
        assert torch.equal(found, fresh.state_dict()[key])


def test_fewer_samples_for_each_pair_find_the_same_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    case, truth = _sources()
    copied = with_annotators(case, [case.evidence.annotations[:, 4].argmax(1).numpy()])
    monkeypatch.setattr(grouping, "MOST_COMPARED", 1)
    model = Fused(student=False)
    copied.run(model)
    assert (4, 7) in model.sources(copied.scopes).groups
    assert right(model.posterior(copied.evidence), truth) > 0.9
