"""Which runs need the split teacher_train."""

from typing import Any

import pytest
from helpers.user_errors import error_of

from cosup.config import check_config

TABLES = {"hierarchy": None, "external": [{"name": "a", "annotations": "a.csv"}]}
TRAINED = {"hierarchy": {"by": "class", "levels": [1, 2]}}
FUNCTION = {"hierarchy": {"levels": [1]}, "model": {"name": "call:rules:annotate"}}
CHECKPOINT = {
    "hierarchy": {"levels": [1]},
    "model": {"name": "resnet18", "checkpoint": "old.safetensors"},
}
PROVENANCE = {"assignment": {"name": "gate", "prior": "provenance"}}


def tree(**sections: Any) -> dict[str, Any]:
    student = {"backbone": {"name": "test_resnet", "weights": None}}
    return {"data": {"source": "digits"}, "student": student, **sections}


@pytest.mark.parametrize(
    ("teachers", "rounds", "wanted"),
    [
        (TRAINED, {}, True),
        (TABLES, {}, False),
        (TABLES, {"assignment": {"name": "fused"}}, False),
        (TABLES, {"choose": "auto"}, False),
        (TABLES, PROVENANCE, True),
        (FUNCTION, {}, False),
        (CHECKPOINT, {}, False),
        ({**TABLES, **TRAINED}, {}, True),
    ],
)
def test_where_a_teacher_is_trained_or_the_assigner_asks_for_provenance(
    teachers: dict[str, Any], rounds: dict[str, Any], wanted: bool
) -> None:
    assert check_config(tree(teachers=teachers, rounds=rounds)).wants_teacher_train == wanted
    none = {"source": "digits", "splits": {"student_train": 0.8, "test": 0.2}}
    if wanted:
        error = error_of(check_config, tree(data=none, teachers=teachers, rounds=rounds))
        (only,) = error.errors
        assert only.key == ("data", "splits", "teacher_train")
        assert only.value == 0
    else:
        check_config(tree(data=none, teachers=teachers, rounds=rounds))


def test_teachers_that_train_on_the_students_samples_need_none() -> None:
    shared = {"source": "digits", "splits": {"student_train": 0.8, "test": 0.2}}
    check_config(tree(data={**shared, "share_train": True}, teachers=TRAINED))


def test_a_run_may_do_without_a_test_split() -> None:
    splits = {"teacher_train": 0.4, "student_train": 0.6, "test": 0}
    check_config(tree(data={"source": "digits", "splits": splits}, teachers=TRAINED))


def test_teachers_that_are_calibrated_by_validation_need_none() -> None:
    teachers = {**FUNCTION, "calibrate": "temperature"}
    none = {"source": "digits", "splits": {"student_train": 0.8, "test": 0.2}}
    error = error_of(check_config, tree(data=none, teachers=teachers))
    assert [one.key for one in error.errors] == [("data", "splits", "teacher_train")]
    validated = {"student_train": 0.6, "validation": 0.2, "test": 0.2}
    check_config(tree(data={"source": "digits", "splits": validated}, teachers=teachers))
