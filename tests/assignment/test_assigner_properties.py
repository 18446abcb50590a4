"""The contract of assigners, for every registered one and all its choices."""

import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from assignment_cases import Case, assign, random_case
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.assignment import ASSIGNERS
from cosup.errors import UserError
from cosup.evidence import Evidence, Scopes, mix
from cosup.validation import setting_docs, validate_settings

quick = settings(max_examples=3, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)

FIXED: dict[str, dict[str, object]] = {
    "single": {"teacher": "t0"},
    "agreement": {"temperature": 0.5},
    "confidence": {"temperature": 0.3},
    "dawid_skene": {"iterations": 4},
    "gate": {"iterations": 2, "steps": 3, "standardize": True},
    "fused": {"iterations": 2, "confidence_weight": True},
    "raven": {"epochs": 4, "easy": 0.25, "weight_lr": 0.05},
    "crowd_layer": {"epochs": 4, "lr": 0.01},
    "crowd_kit": {"method": "wawa"},
}
"""Settings that the tests fix, for speed or because they have no default that fits."""


def variants(name: str) -> list[dict[str, object]]:
    """Return every combination of the settings of an assigner that have a few values only."""
    found: list[dict[str, object]] = [FIXED.get(name, {})]
    for setting, annotation in get_type_hints(ASSIGNERS[name].settings).items():
        values = (True, False) if annotation is bool else get_args(annotation)
        choice = annotation is bool or get_origin(annotation) is Literal
        if choice and setting not in FIXED.get(name, {}):
            found = [{**variant, setting: value} for variant in found for value in values]
    return found


ALWAYS_HARD = {"single", "random", "block"}
ALL = [(name, variant) for name in ASSIGNERS for variant in variants(name)]
every = pytest.mark.parametrize(
    ("name", "variant"), ALL, ids=["-".join([n, *map(str, v.values())]) for n, v in ALL]
)


def test_variants_are_all_choices_of_an_assigner() -> None:
    assert variants("mean") == [{}]
    assert {"measure": "ce", "hard": False, "temperature": 0.5} in variants("agreement")
    assert len(variants("dawid_skene")) == 8


@every
@quick
@given(seed=seeds, samples=st.integers(1, 12), teachers=st.integers(1, 4))
def test_rows_sum_to_one_and_hard_ones_are_one_hot(
    name: str, variant: dict[str, object], seed: int, samples: int, teachers: int
) -> None:
    case = random_case(seed, samples, teachers, 5, abstain=0.3)
    weights = case.run(ASSIGNERS[name].load()(**variant))
    assert weights.shape == (samples, teachers)
    assert weights.dtype == torch.float32
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(samples))
    if name in ALWAYS_HARD or variant.get("hard"):
        assert ((weights == 0) | (weights == 1)).all()
    if teachers == 1:
        assert (weights == 1).all()


@pytest.mark.parametrize(("name", "variant"), [case for case in ALL if case[0] != "single"])
@quick
@given(seed=seeds, teachers=st.integers(2, 4))
def test_abstaining_teachers_get_no_weight_unless_all_abstain(
    name: str, variant: dict[str, object], seed: int, teachers: int
) -> None:
    case = random_case(seed, 10, teachers, 5, abstain=0.4)
    weights = case.run(ASSIGNERS[name].load()(**variant))
    answers = case.evidence.annotations.sum(2) > 0
    heard = answers.any(1)
    assert (weights[heard][~answers[heard]] == 0).all()


@every
@quick
@given(seed=seeds, teachers=st.integers(2, 4), data=st.data())
def test_permuting_the_teachers_permutes_the_weights(
    name: str, variant: dict[str, object], seed: int, teachers: int, data: st.DataObject
) -> None:
    if name == "dawid_skene":  # of two teachers that always agree the first is chosen
        variant = {**variant, "hard": False}
    case = random_case(seed, 10, teachers, 5)
    order = data.draw(st.permutations(range(teachers)))
    weights = case.run(ASSIGNERS[name].load()(**variant))
    permuted = case.permuted(order).run(ASSIGNERS[name].load()(**variant))
    # A learnt gate is fitted by EM within EM, whose steps enlarge what rounding changes.
    close = 1e-2 if variant.get("regions") == "learnt" else 1e-3
    torch.testing.assert_close(permuted, weights[:, order], rtol=close, atol=close)


@every
@quick
@given(seed=seeds, size=st.integers(1, 9))
def test_the_size_of_batches_changes_nothing(
    name: str, variant: dict[str, object], seed: int, size: int
) -> None:
    case = random_case(seed, 10, 3, 5, abstain=0.2)
    whole = case.run(ASSIGNERS[name].load()(**variant), seed=seed)
    parts = case.run(ASSIGNERS[name].load()(**variant), size=size, seed=seed)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


@every
@quick
@given(seed=seeds)
def test_identical_teachers_give_their_annotation(
    name: str, variant: dict[str, object], seed: int
) -> None:
    case = random_case(seed, 8, 3, 5)
    first = case.evidence.annotations[:, 0]
    evidence = dataclasses.replace(
        case.evidence, annotations=first[:, None].expand(-1, 3, -1).contiguous()
    )
    weights = Case(evidence, case.scopes, case.provenance).run(ASSIGNERS[name].load()(**variant))
    torch.testing.assert_close(mix(evidence.annotations, weights), first)


@every
def test_weights_depend_on_seed_and_state_only(name: str, variant: dict[str, object]) -> None:
    case = random_case(3, 30, 3, 5, abstain=0.2)
    first, second = ASSIGNERS[name].load()(**variant), ASSIGNERS[name].load()(**variant)
    assert torch.equal(case.run(first, seed=7), case.run(second, seed=7))

    state = {key: tensor.clone() for key, tensor in first.state_dict().items()}
    restored = ASSIGNERS[name].load()(**variant)
    restored.load_state_dict(state)
    assert torch.equal(
        assign(first, case.evidence, case.scopes), assign(restored, case.evidence, case.scopes)
    )


@every
def test_inputs_do_not_change(name: str, variant: dict[str, object]) -> None:
    case, copy = random_case(5, 9, 3, 5, abstain=0.2), random_case(5, 9, 3, 5, abstain=0.2)
    case.run(ASSIGNERS[name].load()(**variant), size=4)
    assert torch.equal(case.evidence.annotations, copy.evidence.annotations)
    assert torch.equal(case.evidence.student_probs, copy.evidence.student_probs)
    assert case.evidence.features is not None
    assert copy.evidence.features is not None
    assert torch.equal(case.evidence.features, copy.evidence.features)
    for given_part, original in zip(case.provenance, copy.provenance, strict=True):
        assert torch.equal(given_part, original)


@every
def test_no_samples_can_be_assigned(name: str, variant: dict[str, object]) -> None:
    case = random_case(1, 6, 2, 5)
    assigner = ASSIGNERS[name].load()(**variant)
    case.run(assigner)
    nothing = random_case(1, 0, 2, 5).evidence
    assert assign(assigner, nothing, case.scopes).shape == (0, 2)


@pytest.mark.parametrize(
    "name", ["dawid_skene", "gate", "fused", "raven", "crowd_layer", "crowd_kit"]
)
def test_learned_assigners_must_be_fitted_and_need_samples(name: str) -> None:
    case = random_case(1, 4, 2, 5)
    with pytest.raises(UserError, match=f"{name}.*'fit'"):
        assign(ASSIGNERS[name].load()(), case.evidence, case.scopes)
    none: list[Evidence] = []
    with pytest.raises(UserError, match=f"{name}.*sample"):
        ASSIGNERS[name].load()().fit(none, case.scopes)


@pytest.mark.parametrize("name", list(ASSIGNERS))
def test_settings_have_defaults_and_descriptions(name: str) -> None:
    found = validate_settings(ASSIGNERS[name].settings, {})
    assert found == {
        field.name: getattr(ASSIGNERS[name].load()(), field.name)
        for field in dataclasses.fields(ASSIGNERS[name].settings)
    }
    assert all(text for text, _ in setting_docs(ASSIGNERS[name].settings).values())


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("agreement", "measure", "js"),
        ("agreement", "temperature", 0.0),
        ("confidence", "measure", "variance"),
        ("confidence", "temperature", -1.0),
        ("dawid_skene", "annotations", "top"),
        ("dawid_skene", "iterations", 0),
        ("dawid_skene", "smoothing", -0.1),
        ("gate", "prior", "flat"),
        ("gate", "sharpening", 0.0),
        ("gate", "weight_decay", float("nan")),
        ("gate", "max_samples", 0),
        ("raven", "easy", 1.5),
        ("raven", "epochs", 0),
        ("raven", "weight_lr", -0.1),
        ("raven", "max_samples", 0),
        ("fused", "regions", "maybe"),
        ("fused", "strength", -1.0),
        ("fused", "group_above", 0.0),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(name: str, setting: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        ASSIGNERS[name].load()(**{setting: value})
    assert caught.value.key == (setting,)
    assert caught.value.value is value
    assert caught.value.allowed


def test_names_of_scopes_stay_with_their_teachers() -> None:
    case = random_case(0, 4, 3, 5)
    assert case.permuted([2, 0, 1]).scopes.names == ("t2", "t0", "t1")
    assert isinstance(case.scopes, Scopes)
