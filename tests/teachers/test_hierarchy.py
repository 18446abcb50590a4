"""The hierarchy of teachers: each level covers the task, names are unique, errors have keys."""

import numpy as np
from helpers.user_errors import error_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.config.teachers import TeachersSection
from cosup.errors import MISSING, UserError
from cosup.teachers.hierarchy import plan_hierarchy, scopes

DIGITS = [str(digit) for digit in range(10)]
ANGLES = ["rot0", "rot30", "rot60", "rot90"]


def section(**hierarchy: object) -> TeachersSection:
    return TeachersSection.model_validate({"hierarchy": hierarchy})


def external(*tables: dict[str, object], hierarchy: object = None) -> TeachersSection:
    tables = tuple({"annotations": f"{at}.csv", **table} for at, table in enumerate(tables))
    return TeachersSection.model_validate({"hierarchy": hierarchy, "external": tables})


def plan_error(plan: TeachersSection, key: str, value: object = MISSING, *names: str) -> UserError:
    """Return the error of planning a hierarchy."""
    error = error_of(plan_hierarchy, plan, DIGITS, ANGLES, 0)
    assert error.key == tuple(key.split("."))
    assert error.value == value
    for name in names:
        assert name in str(error)
    return error


def test_class_blocks_are_contiguous_and_named_readably() -> None:
    coarse, middle, fine = plan_hierarchy(section(levels=[1, 2, 10]), DIGITS, ANGLES, 0)
    assert [spec.name for spec in coarse] == ["all"]
    assert coarse[0].generalist
    assert [(s.name, s.classes) for s in middle] == [
        ("classes_0-4", (0, 1, 2, 3, 4)),
        ("classes_5-9", (5, 6, 7, 8, 9)),
    ]
    assert [s.name for s in fine][:2] == ["class_0", "class_1"]
    assert {s.level for s in fine} == {2}


def test_domain_specialists_are_named_after_their_domain() -> None:
    levels = plan_hierarchy(section(by="domain", levels=[1, 2, 4]), DIGITS, ANGLES, 0)
    assert [s.name for s in levels[1]] == ["domains_rot0-rot30", "domains_rot60-rot90"]
    assert [(s.name, s.domains) for s in levels[2]][2] == ("domain_rot60", (2,))
    table = scopes(levels[2], 10, 4)
    assert table.domains.tolist() == np.eye(4, dtype=bool).tolist()
    assert table.classes.all()


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(1, 40),
    data=st.data(),
    seed=st.integers(0, 9),
    partition=st.sampled_from(["contiguous", "random"]),
)
def test_levels_partition_the_classes(
    classes: int, data: st.DataObject, seed: int, partition: str
) -> None:
    counts = sorted(data.draw(st.lists(st.integers(1, classes), min_size=1, max_size=4)))
    names = [f"class {index}/x" for index in range(classes)]
    plan = section(levels=counts, partition=partition)
    levels = plan_hierarchy(plan, names, ["all"], seed)
    assert levels == plan_hierarchy(plan, names, ["all"], seed)
    all_names = [spec.name for level in levels for spec in level]
    assert len(set(all_names)) == len(all_names)
    assert all(
        name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name in all_names
    )
    for level, count in zip(levels, counts, strict=True):
        blocks = [range(classes) if s.classes is None else s.classes for s in level]
        assert sorted(index for block in blocks for index in block) == list(range(classes))
        sizes = [len(block) for block in blocks]
        assert len(level) == count
        assert max(sizes) - min(sizes) <= 1


def test_random_partition_follows_the_seed() -> None:
    plan = section(levels=[2], partition="random")
    drawn = {plan_hierarchy(plan, DIGITS, ANGLES, seed)[0][0].classes for seed in range(6)}
    assert len(drawn) > 1


def test_explicit_scopes_accept_names_and_indices_and_prefer_names() -> None:
    plan = section(
        by="explicit",
        teachers=[
            [
                {"name": "a", "scope": {"class": [3, "4"]}},
                {"name": "b", "scope": {"class": [0, 1, 2, 5, 6, 7, 8, 9]}},
            ]
        ],
    )
    (level,) = plan_hierarchy(plan, DIGITS, ANGLES, 0)
    assert level[0].classes == (3, 4)
    # A number that is the name of a class refers to that class, whatever its index.
    (level,) = plan_hierarchy(plan, DIGITS[::-1], ANGLES, 0)
    assert level[0].classes == (5, 6)


def test_external_teachers_join_the_finest_level_or_form_one() -> None:
    tables = {"name": "crowd"}, {"name": "rule", "level": 2}
    levels = plan_hierarchy(external(*tables, hierarchy={"levels": [1, 2]}), DIGITS, ANGLES, 0)
    assert [[spec.name for spec in level] for level in levels] == [
        ["all"],
        ["classes_0-4", "classes_5-9"],
        ["crowd", "rule"],
    ]
    levels = plan_hierarchy(external({"name": "crowd"}), DIGITS, ANGLES, 0)
    assert levels[0][0].external is not None


def test_external_teachers_may_cover_a_level_together() -> None:
    plan = external(
        {"name": "low", "scope": {"class": ["0", "1", "2", "3", "4"]}},
        {"name": "high", "scope": {"class": [5, 6, 7, 8, 9]}},
    )
    assert len(plan_hierarchy(plan, DIGITS, ANGLES, 0)[0]) == 2


def test_more_teachers_than_classes_or_domains() -> None:
    key = "teachers.hierarchy.levels"
    error = plan_error(section(levels=[1, 11]), key, [1, 11], "11", "10")
    assert error.allowed is not None
    assert "10" in error.allowed
    error = plan_error(section(by="domain", levels=[5]), key, [5], "5", "domain")
    assert error.allowed is not None
    assert "4" in error.allowed


def test_unknown_classes_and_domains_suggest_the_nearest() -> None:
    scope = {"domain": "rot31"}
    external_scope = "teachers.external.0.scope"
    error = plan_error(external({"name": "x", "scope": scope}), f"{external_scope}.domain", "rot31")
    assert error.nearest == ("rot30",)
    scope = {"class": "elevn"}
    plan = section(by="explicit", teachers=[[{"name": "x", "scope": scope}]])
    error = plan_error(plan, "teachers.hierarchy.teachers.0.0.scope.class", "elevn", "class")
    assert error.allowed == ", ".join(DIGITS)
    scope = f"{external_scope}.class"
    error = plan_error(external({"name": "x", "scope": {"class": 10}}), scope, 10)
    assert error.allowed is not None
    assert "0 to 9" in error.allowed
    error = plan_error(external({"name": "x", "scope": {"class": []}}), scope, [])
    assert error.allowed is not None


def test_levels_that_do_not_cover_the_task() -> None:
    half = {"name": "half", "scope": {"class": ["0", "1", "2"]}}
    plan = section(by="explicit", teachers=[[half]])
    plan_error(plan, "teachers", MISSING, "level 0", "half", "classes 3, 4, 5")
    sketch = {"name": "sketch", "scope": {"domain": "rot0"}}
    plan_error(external(sketch), "teachers", MISSING, "sketch", "domains rot30, rot60 and rot90")
    # Every class and every domain is covered, but not every class in every domain.
    cross = [
        {"name": "a", "scope": {"class": "0"}},
        {"name": "b", "scope": {"domain": ["rot0", "rot30"]}},
    ]
    plan_error(external(*cross), "teachers", MISSING, "'1' in 'rot60'")


def test_names_are_unique_and_levels_have_no_gap() -> None:
    plan_error(external({"name": "all"}, hierarchy={"levels": [1]}), "teachers", "all", "2 times")
    level = "teachers.external.0.level"
    plan_error(external({"name": "x", "level": 3}), level, 3, "level 0")
    plan_error(external({"name": "x", "level": -2}), level, -2)
    empty = section(by="explicit", teachers=[[], [{"name": "x"}]])
    plan_error(empty, "teachers", MISSING, "level 0 has no teacher")
