"""A config that names no controls gets all that apply to it and cost little beside the run."""

from typing import Any

from cosup.config import check_config
from cosup.config.default_controls import FOR_NETWORKS
from cosup.controls import CONTROLS

HEAD = {"backbone": {"name": "test_resnet", "weights": None}}
FILTERED = {"consistency": [{"name": "teacher_student"}], "loss": {"name": "distillation"}}
SPECIALISTS = {"hierarchy": {"by": "class", "levels": [1, 2]}}


def controls(**sections: Any) -> set[str]:
    tree = {"data": {"source": "digits"}, "student": HEAD, "teachers": SPECIALISTS}
    return set(check_config({**tree, "rounds": FILTERED, **sections}).controls)


def test_all_that_apply() -> None:
    assert controls() == set(CONTROLS) - {"zero_shot", "given_labels", "oracle_without_rounds"}


def test_the_default_is_valid_when_it_is_written_out() -> None:
    assert controls(controls=sorted(controls())) == controls()


def test_controls_that_would_repeat_the_run_are_left_out() -> None:
    assert controls() - controls(rounds={}) == {"no_filter", "plain_loss"}


def test_filters_and_loss_may_be_chosen() -> None:
    assert controls(rounds={"choose": "auto"}) >= {"no_filter", "plain_loss"}


def test_generalists_need_a_budget_and_labels_need_trained_teachers() -> None:
    generalists = {"equal_budget_generalist", "bagged_generalists"}
    assert controls() - controls(teachers={}) == generalists
    external = [{"name": "a", "annotations": "a.csv"}]
    tables = controls(teachers={"hierarchy": None, "external": external})
    assert controls() - tables == generalists | {"labels", "team", "student_and_team"}


def test_without_a_test_split_there_is_nothing_to_compare_controls_by() -> None:
    shares = {"teacher_train": 0.3, "student_train": 0.7}
    assert controls(data={"source": "digits", "splits": shares}) == set()


def test_a_network_has_the_few_that_are_worth_a_training() -> None:
    network = {"mode": "finetune", "backbone": {"name": "test_resnet", "weights": None}}
    assert controls(student=network) == set(FOR_NETWORKS)


def test_given_labels_are_a_control_where_they_are_noisy() -> None:
    data = {"source": "digits", "noise": {"kind": "symmetric", "rate": 0.2}}
    assert controls(data=data) - controls() == {"given_labels"}


def test_a_student_without_steps_has_controls_without_training() -> None:
    student = {**HEAD, "training": {"steps": 0}, "head": {"kind": "prototype", "init": "text"}}
    student["backbone"] = {"name": "open_clip:ViT-B-32", "weights": None}
    found = controls(student=student)
    assert found == {"zero_shot", "team", "student_and_team"}
