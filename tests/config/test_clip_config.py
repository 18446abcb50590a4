"""What a config can get wrong about CLIP students: each mistake is one clear line."""

import copy
from typing import Any

import pytest

from cosup.config import check_config
from cosup.errors import UserError

GOOD: dict[str, Any] = {
    "data": {"source": "digits"},
    "student": {
        "backbone": {"name": "open_clip:ViT-B-32@openai"},
        "head": {"kind": "prototype", "init": "text"},
    },
    "controls": ["zero_shot", "ceiling"],
}
TIMM = {"student.backbone": {"name": "resnet18", "weights": None}}
MEANS = {"student.head": {"kind": "prototype"}, "controls": []}
NO_STEPS = {"student.training": {"steps": 0}, "controls": ["zero_shot"]}
UNTRAINED = "leaves it untrained (allowed for student.head.init 'text')"
NEEDS_TEXT = "needs student.head.init 'text' (others say nothing before they are trained)"
CLIP = "needs a backbone with a text encoder, open_clip:MODEL@WEIGHTS, not 'resnet18'"


def tree(changes: dict[str, Any]) -> dict[str, Any]:
    """`GOOD` with what these dotted keys say."""
    made = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *sections, last = path.split(".")
        spot = made
        for section in sections:
            spot = spot.setdefault(section, {})
        spot[last] = value
    return made


def lines_of(changes: dict[str, Any]) -> list[str]:
    with pytest.raises(UserError) as caught:
        check_config(tree(changes), "c.yaml")
    return str(caught.value).splitlines()


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "text without a text encoder": (TIMM, f"student.head.init: 'text': {CLIP}"),
    "text, moved away from": (
        {"student.training": {"steps": 5, "standardize": True}},
        "student.training.standardize: true: would move the features away from their texts "
        "(allowed: false)",
    ),
    "text for a linear head": (
        {"student.head": {"kind": "linear", "init": "text"}},
        "student.head.init: 'text': needs kind 'prototype', not 'linear'",
    ),
    "text for a head of no kind": (
        {"student.head": {"init": "text"}},
        "student.head.init: 'text': needs kind 'prototype', not 'linear'",
    ),
    "unknown start": (
        {"student.head.init": "txt"},
        "student.head.init: 'txt': must be one of text, class_means, random; did you mean 'text'?",
    ),
    "zero_shot without text": (
        {**MEANS, "controls": ["ceiling", "zero_shot"]},
        f"controls: zero_shot: {NEEDS_TEXT}",
    ),
    "zero_shot of a linear head": (
        {"student.head": {}, "controls": ["zero_shot"]},
        f"controls: zero_shot: {NEEDS_TEXT}",
    ),
    "a first guide without text": (
        {**MEANS, "rounds.first_guide": "student"},
        f"rounds.first_guide: student: {NEEDS_TEXT}",
    ),
    "no steps, and controls": (
        {**NO_STEPS, "controls": ["zero_shot", "ceiling", "best_teacher"]},
        "controls: ceiling, best_teacher: with student.training.steps 0 no control learns either "
        "(allowed: zero_shot)",
    ),
    "no steps for class means": (
        {**MEANS, "student.training": {"steps": 0}},
        f"student.training.steps: 0: {UNTRAINED}",
    ),
    "no steps for a linear head": (
        {"student.head": {}, "controls": [], "student.training": {"steps": 0}},
        f"student.training.steps: 0: {UNTRAINED}",
    ),
    "no steps for teachers": (
        {"teachers.training": {"steps": 0}},
        f"teachers.training.steps: 0: {UNTRAINED}",
    ),
    "no steps for networks": (
        {
            "teachers.model": {"name": "cifar_resnet8"},
            "teachers.training": {"steps": 0},
        },
        f"teachers.training.steps: 0: {UNTRAINED}",
    ),
    "no steps for fine-tuning": (
        {
            "student.mode": "finetune",
            "student.head": {},
            "controls": [],
            "student.training": {"steps": 0},
        },
        f"student.training.steps: 0: {UNTRAINED}",
    ),
    "negative steps": (
        {"student.training": {"steps": -1}},
        "student.training.steps: -1: must be a whole number of at least 0 or null",
    ),
    "prototypes for fine-tuning": (
        {"student.mode": "finetune", "controls": []},
        "student.head.kind: 'prototype': mode 'finetune' takes linear alone",
    ),
    "templates without a hole": (
        {"student.head.templates": ["a photo of a {}.", "a sketch"]},
        "student.head.templates: 'a sketch': has no {} for the class's name",
    ),
    "no templates": (
        {"student.head.templates": []},
        "student.head.templates: []: give at least one template, such as 'a photo of a {}.'",
    ),
    "unknown templates": (
        {"student.head.templates": "imagnet"},
        "student.head.templates: 'imagnet': has no {} for the class's name, and is no list of "
        "templates (known: cifar, domainnet, fashion_mnist, imagenet, imagenet_simple, mnist)",
    ),
    "no share": (
        {"student.head.confident": 0},
        "student.head.confident: 0: must be a number above 0 and of at most 1",
    ),
    "too large a share": (
        {"student.head.confident": 1.5},
        "student.head.confident: 1.5: must be a number above 0 and of at most 1",
    ),
    "no scale": (
        {"student.head.scale": 0},
        "student.head.scale: 0: must be a number above 0 or null",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_exact_line(case: str) -> None:
    changes, line = MISTAKES[case]
    assert lines_of(changes) == [f"c.yaml: {line}"]


@pytest.mark.parametrize(
    ("names", "key"),
    [(3, "student.head.class_names: 3"), ({"a": ["b"]}, "student.head.class_names.a: ['b']")],
)
def test_names_that_are_no_text_are_named(names: Any, key: str) -> None:
    (line,) = lines_of({"student.head.class_names": names})
    assert line.startswith(f"c.yaml: {key}: must be text")


def test_mistakes_come_all_at_once() -> None:
    changes = {
        **TIMM,
        "student.training": {"steps": 5, "standardize": True},
        "teachers.training": {"steps": 5, "lr": -1},
    }
    keys = [line.split(": ")[1] for line in lines_of(changes)]
    assert sorted(keys) == [
        "student.head.init",
        "student.training.standardize",
        "teachers.training.lr",
    ]
    both = {**MEANS, "controls": ["zero_shot"], "rounds.first_guide": "student"}
    assert len(lines_of(both)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        NO_STEPS,
        {**NO_STEPS, "controls": []},
        {"rounds.first_guide": "student"},
        {"student.head.templates": "imagenet"},
        {"student.head.templates": ["{}", "a {}"]},
        {"student.head.class_names": {"0": "zero"}},
        {"student.head.class_names": ["zero", "one"]},
        {"student.head.class_names": "imagenet"},
        {"student.head.scale": 30.0, "student.head.learn_scale": True},
        {**MEANS, **TIMM},
        {**MEANS, "student.training": {"steps": 5, "standardize": True}},
        {**MEANS, "student.head.init": "random", "student.head.confident": 1.0},
        {"student.mode": "finetune", "student.head": {}, "controls": []},
    ],
)
def test_what_goes_together_is_valid(changes: dict[str, Any]) -> None:
    check_config(tree(changes), "c.yaml")
