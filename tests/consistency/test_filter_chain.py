"""The contract of filters and of chains, for every registered filter."""

import logging

import pytest
import torch
from filter_cases import evidence, keep_of, labels_of, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.consistency import (
    FILTERS,
    Chain,
    ConfidenceThreshold,
    TeacherStudent,
    Unanimity,
    check_kept,
)
from cosup.errors import RunError
from cosup.evidence import Assigned, Evidence
from cosup.registry import Registry
from cosup.validation import setting_docs

NAMES = sorted(FILTERS)
REGISTRY = Registry("filter", FILTERS)
CASE = {"seed": st.integers(0, 2**16), "size": st.integers(2, 40)}


def chain(*names: str) -> Chain:
    return Chain(names, [FILTERS[name].load()() for name in names])


@settings(max_examples=40, deadline=None)
@given(**CASE)
@pytest.mark.parametrize("name", NAMES)
def test_filter_decides_alike_in_batches_and_for_permuted_teachers(
    name: str, seed: int, size: int
) -> None:
    found, weights = evidence(seed, size)
    keep = keep_of(FILTERS[name].load()(), found, weights)
    assert keep.dtype == torch.bool
    assert keep.shape == (size,)
    abstained = torch.tensor([label is None for label in labels_of(found, weights)])
    assert not (keep & abstained).any()

    one = Chain([name], [FILTERS[name].load()()])
    cut = size // 2
    halves = [rows_of(found, weights, part) for part in (list(range(cut)), list(range(cut, size)))]
    batched = one.decide(
        Chain.join(
            [
                one.measure(half[0], Assigned.mixture(half[0].annotations, half[1]))
                for half in halves
            ]
        )
    )
    assert batched.keep.equal(keep)

    fields = {**vars(found), "annotations": found.annotations[:, [2, 0, 1]]}
    assert keep_of(FILTERS[name].load()(), Evidence(**fields), weights[:, [2, 0, 1]]).equal(keep)


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.sampled_from(NAMES), max_size=4), **CASE)
def test_chain_keeps_what_all_of_its_filters_keep(seed: int, size: int, names: list[str]) -> None:
    found, weights = evidence(seed, size)
    result = keep_of(chain(*names), found, weights)
    labels = labels_of(found, weights)
    keeps = [keep_of(FILTERS[name].load()(), found, weights).tolist() for name in names]
    for i in range(size):
        asked = [keep[i] for keep in keeps]
        assert bool(result.keep[i]) == (labels[i] is not None and all(asked))
        by = int(result.rejected_by[i])
        if labels[i] is None:
            assert result.reasons[by] == "abstained"
        elif not all(asked):
            assert by == asked.index(False)
        else:
            assert by == -1
    assert sum(result.rejected.values()) + result.count == size
    assert list(result.kept_alone.values()) == [sum(keep) for keep in keeps]
    backwards = keep_of(chain(*reversed(names)), found, weights)
    assert backwards.keep.equal(result.keep)


def test_repeated_names_are_numbered_and_needs_are_joined() -> None:
    both = chain("confidence", "local_global", "confidence")
    assert both.names == ("confidence", "local_global", "confidence_2")
    assert both.needs == {"local_probs", "global_probs"}
    assert chain().needs == frozenset()


def certain(labels: list[int], student: list[int]) -> tuple[Evidence, torch.Tensor]:
    return (
        Evidence(torch.eye(3)[student], torch.eye(3)[labels][:, None]),
        torch.ones(len(labels), 1),
    )


def test_a_filter_that_keeps_little_warns_by_name(caplog: pytest.LogCaptureFixture) -> None:
    found, weights = certain([0, 0, 0, 0], [0, 1, 1, 1])
    names = ["teacher_student", "unanimity"]
    result = keep_of(Chain(names, [TeacherStudent(mode="mask", k=1), Unanimity()]), found, weights)
    with caplog.at_level(logging.WARNING):
        check_kept(result, 0.25)
        assert not caplog.records
        check_kept(result, 0.3)
    assert [record.getMessage() for record in caplog.records] == [
        "filter 'teacher_student' (mode: mask, k: 1, class_balanced: False) keeps 1 of 4 samples, "
        "less than min_kept: 0.3"
    ]


def test_filters_that_keep_little_together_warn(caplog: pytest.LogCaptureFixture) -> None:
    """Each keeps two of four, both keep one."""
    rows = torch.tensor([[1.0, 0, 0], [0.5, 0.3, 0.2], [1.0, 0, 0], [0.5, 0.3, 0.2]])
    found = Evidence(torch.eye(3)[[0, 0, 1, 1]], rows[:, None])
    filters = [TeacherStudent(mode="mask", k=1), ConfidenceThreshold(0.9)]
    result = keep_of(Chain(["a", "b"], filters), found, torch.ones(4, 1))
    with caplog.at_level(logging.WARNING):
        check_kept(result, 0.4)
    assert [record.getMessage() for record in caplog.records] == [
        "the filters together keep 1 of 4 samples, less than min_kept: 0.4"
    ]


def test_keeping_nothing_is_an_error_that_names_filter_and_settings() -> None:
    found, weights = certain([0, 0], [1, 2])
    names = ["unanimity", "teacher_student"]
    result = keep_of(Chain(names, [Unanimity(), TeacherStudent(mode="mask", k=1)]), found, weights)
    with pytest.raises(RunError, match=r"'teacher_student' \(mode: mask, k: 1.* none of 2"):
        check_kept(result, 0.0)


def test_abstentions_only_are_an_error() -> None:
    result = keep_of(Chain([], []), Evidence(torch.eye(2), torch.zeros(2, 1, 2)), torch.ones(2, 1))
    with pytest.raises(RunError, match="abstains on each of the 2 samples"):
        check_kept(result, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_every_filter_can_be_written_in_a_config(name: str) -> None:
    """Its settings go through the config with their defaults, and each is described."""
    assert REGISTRY.build(REGISTRY.check(name)) == FILTERS[name].load()()
    for setting, (description, default) in setting_docs(FILTERS[name].settings).items():
        assert description, setting
        assert default is not ..., setting


def test_a_wrong_setting_in_a_config_is_named_with_its_value() -> None:
    with pytest.raises(ValueError, match="k: 0: must be from 1 to"):
        REGISTRY.check({"name": "teacher_student", "k": 0})
