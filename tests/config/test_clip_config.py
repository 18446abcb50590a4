"""Check the settings of CLIP students."""

import copy
from typing import Any

import pytest
from helpers.user_errors import key_of, keys_of, mistakes_of

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
PROMPTS = {"kind": "prototype", "init": "prompts"}
LBFGS = {"steps": 5, "optimizer": "lbfgs"}
CLIP = "open_clip:MODEL@WEIGHTS"


def tree(changes: dict[str, Any]) -> dict[str, Any]:
    """Return `GOOD` with these dotted keys changed."""
    made = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *sections, last = path.split(".")
        spot = made
        for section in sections:
            spot = spot.setdefault(section, {})
        spot[last] = value
    return made


def errors_of(changes: dict[str, Any]) -> tuple[UserError, ...]:
    return mistakes_of(check_config, tree(changes), "c.yaml")


TEMPLATES = "cifar, domainnet, fashion_mnist, imagenet, imagenet_simple, mnist"
SHARE = "a number above 0 and of at most 1"
TRAINED = "above 0; 0 only with student.head.init 'text'"
MISTAKES: dict[str, tuple[dict[str, Any], str, object, str | None]] = {
    "text without a text encoder": (TIMM, "student.head.init", "text", CLIP),
    "text, moved away from": (
        {"student.training": {"steps": 5, "standardize": True}},
        "student.training.standardize",
        True,
        "false",
    ),
    "text for a linear head": (
        {"student.head": {"kind": "linear", "init": "text"}},
        "student.head.init",
        "text",
        None,
    ),
    "text for a head of no kind": (
        {"student.head": {"init": "text"}},
        "student.head.init",
        "text",
        None,
    ),
    "unknown start": (
        {"student.head.init": "txt"},
        "student.head.init",
        "txt",
        "one of text, prompts, class_means, random",
    ),
    "zero_shot without text": (
        {**MEANS, "controls": ["ceiling", "zero_shot"]},
        "controls",
        "zero_shot",
        None,
    ),
    "zero_shot of a linear head": (
        {"student.head": {}, "controls": ["zero_shot"]},
        "controls",
        "zero_shot",
        None,
    ),
    "a first guide without text": (
        {**MEANS, "rounds.first_guide": "student"},
        "rounds.first_guide",
        "student",
        None,
    ),
    "prompts without a text encoder": (
        {**TIMM, "student.head": PROMPTS, "controls": []},
        "student.head.init",
        "prompts",
        CLIP,
    ),
    "prompts for a linear head": (
        {"student.head": {"kind": "linear", "init": "prompts"}, "controls": []},
        "student.head.init",
        "prompts",
        None,
    ),
    "prompts by L-BFGS": (
        {"student.head": PROMPTS, "controls": [], "student.training": LBFGS},
        "student.training.optimizer",
        "lbfgs",
        "adam or adamw, with head.init 'prompts'",
    ),
    "prompts that go on from prototypes": (
        {"student.head": PROMPTS, "controls": [], "rounds.fresh_head": False},
        "rounds.fresh_head",
        False,
        "true",
    ),
    "prompts that predict untrained": (
        {"student.head": PROMPTS, "controls": [], "rounds.first_guide": "student"},
        "rounds.first_guide",
        "student",
        None,
    ),
    "zero_shot by prompts": (
        {"student.head": PROMPTS, "controls": ["zero_shot"]},
        "controls",
        "zero_shot",
        None,
    ),
    "no steps, and controls": (
        {**NO_STEPS, "controls": ["zero_shot", "ceiling", "best_teacher"]},
        "controls",
        ["ceiling", "best_teacher"],
        "zero_shot, team, student_and_team",
    ),
    "no steps for class means": (
        {**MEANS, "student.training": {"steps": 0}},
        "student.training.steps",
        0,
        TRAINED,
    ),
    "no steps for a linear head": (
        {"student.head": {}, "controls": [], "student.training": {"steps": 0}},
        "student.training.steps",
        0,
        TRAINED,
    ),
    "no steps for teachers": (
        {"teachers.training": {"steps": 0}},
        "teachers.training.steps",
        0,
        TRAINED,
    ),
    "no steps for networks": (
        {
            "teachers.model": {"name": "cifar_resnet8"},
            "teachers.training": {"steps": 0},
        },
        "teachers.training.steps",
        0,
        TRAINED,
    ),
    "no steps for fine-tuning": (
        {
            "student.mode": "finetune",
            "student.head": {},
            "controls": [],
            "student.training": {"steps": 0},
        },
        "student.training.steps",
        0,
        TRAINED,
    ),
    "negative steps": (
        {"student.training": {"steps": -1}},
        "student.training.steps",
        -1,
        "a whole number from 0 to 100,000,000 or null",
    ),
    "prototypes for fine-tuning": (
        {"student.mode": "finetune", "controls": []},
        "student.head.kind",
        "prototype",
        "linear",
    ),
    "templates without a hole": (
        {"student.head.templates": ["a photo of a {}.", "a sketch"]},
        "student.head.templates",
        "a sketch",
        None,
    ),
    "no templates": ({"student.head.templates": []}, "student.head.templates", [], None),
    "unknown templates": (
        {"student.head.templates": "imagnet"},
        "student.head.templates",
        "imagnet",
        TEMPLATES,
    ),
    "no share": ({"student.head.confident": 0}, "student.head.confident", 0, SHARE),
    "too large a share": ({"student.head.confident": 1.5}, "student.head.confident", 1.5, SHARE),
    "no scale": (
        {"student.head.scale": 0},
        "student.head.scale",
        0,
        "a number above 0 and of at most 10000 or null",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_each_mistake_has_its_key_value_and_what_is_allowed(case: str) -> None:
    changes, key, value, allowed = MISTAKES[case]
    (error,) = errors_of(changes)
    assert (key_of(error), error.value, error.allowed) == (key, value, allowed)
    assert error.where == "c.yaml"
    assert error.nearest == (("text",) if value == "txt" else ())


@pytest.mark.parametrize(
    ("names", "key", "value"),
    [(3, "student.head.class_names", 3), ({"a": ["b"]}, "student.head.class_names.a", ["b"])],
)
def test_class_names_must_be_text(names: Any, key: str, value: object) -> None:
    (error,) = errors_of({"student.head.class_names": names})
    assert (key_of(error), error.value) == (key, value)
    assert str(error.allowed).startswith("text")


def test_mistakes_come_all_at_once() -> None:
    changes = {
        **TIMM,
        "student.training": {"steps": 5, "standardize": True},
        "teachers.training": {"steps": 5, "lr": -1},
    }
    assert keys_of(errors_of(changes)) == [
        "student.head.init",
        "student.training.standardize",
        "teachers.training.lr",
    ]
    both = {**MEANS, "controls": ["zero_shot"], "rounds.first_guide": "student"}
    assert keys_of(errors_of(both)) == ["controls", "rounds.first_guide"]


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
def test_valid_combinations(changes: dict[str, Any]) -> None:
    check_config(tree(changes), "c.yaml")
