"""Find every mistake of a config at once, each with its full key, value and what is allowed."""

import copy
from typing import Any

import pytest
from helpers.user_errors import key_of, keys_of, mistakes_of, section_error_of

from cosup.config import check_config
from cosup.config.schema import ExecutionSection
from cosup.errors import UserError
from cosup.validation import MissingKey, UnknownKey

GOOD: dict[str, Any] = {
    "data": {"source": "digits"},
    "student": {"backbone": {"name": "resnet18", "weights": None}},
}


def errors_of(tree: Any, *overrides: str) -> tuple[UserError, ...]:
    errors = mistakes_of(check_config, tree, "c.yaml", overrides)
    assert all(str(error).startswith(("c.yaml: ", "override")) for error in errors)
    return errors


def changed(path: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(GOOD)
    *sections, last = path.split(".")
    spot = tree
    for section in sections:
        spot = spot.setdefault(section, {})
    spot[last] = value
    return tree


def test_a_minimal_config_is_good() -> None:
    assert check_config(GOOD).rounds.rounds_per_level == 1


WHOLE = "a whole number of at least 0"
THREADS = "a whole number above 0 and of at most 1,024 or auto"


@pytest.mark.parametrize(
    ("path", "value", "key", "wrong", "allowed"),
    [
        ("run.seed", "one", "run.seed", "one", WHOLE),
        ("run.seed", True, "run.seed", True, WHOLE),
        ("run.seed", 1.5, "run.seed", 1.5, WHOLE),
        ("run.seed", None, "run.seed", None, WHOLE),
        (
            "run.seeds",
            [],
            "run.seeds",
            [],
            f"a list of at least 1 and at most 1,000 (each item: {WHOLE}) or null",
        ),
        ("run.seeds", [0, "x"], "run.seeds.1", "x", WHOLE),
        ("run.seeds", [-1], "run.seeds.0", -1, WHOLE),
        ("run", 3, "run", 3, "a section with some of the keys name, seed, seeds, output, loggers"),
        ("run.output", 3, "run.output", 3, "text"),
        ("data.limit", -2, "data.limit", -2, "a whole number above 0 or null"),
        ("data.max_broken", 2, "data.max_broken", 2, "a number from 0 to 1"),
        ("data.stratify", "maybe", "data.stratify", "maybe", "true or false"),
        (
            "student.training",
            {"steps": 5, "lr": float("inf")},
            "student.training.lr",
            float("inf"),
            "a number above 0 and of at most 1e+38, and finite in float32",
        ),
        (
            "execution.workers",
            "all",
            "execution.workers",
            "all",
            THREADS,
        ),
        ("execution.workers", 0, "execution.workers", 0, THREADS),
        ("execution.threads", 1_000_000, "execution.threads", 1_000_000, THREADS),
        ("student.cross_fit", 1, "student.cross_fit", 1, "0, or at least 2 folds"),
    ],
)
def test_a_wrong_value_has_its_key_and_what_is_allowed(
    path: str, value: Any, key: str, wrong: object, allowed: str
) -> None:
    (error,) = errors_of(changed(path, value))
    assert (key_of(error), error.value, error.allowed) == (key, wrong, allowed)
    assert type(error.value) is type(wrong)


@pytest.mark.parametrize(
    ("path", "key", "near"),
    [
        ("run.sed", "run.sed", "seed"),
        ("round", "round", "rounds"),
        ("data.spilts", "data.spilts", "splits"),
        ("data.rotation", "data.rotation", "rotations"),
        ("teachers.hierarchy.level", "teachers.hierarchy.level", "levels"),
        ("student.backbone.wieghts", "student.backbone.wieghts", "weights"),
        ("execution.divice", "execution.divice", "device"),
    ],
)
def test_a_misspelt_key_has_the_nearest_and_all(path: str, key: str, near: str) -> None:
    (error,) = errors_of(changed(path, 1))
    assert isinstance(error, UnknownKey)
    assert (key_of(error), error.value, error.nearest) == (key, key.split(".")[-1], (near,))
    assert near in str(error.allowed).split(", ")


def test_a_setting_of_another_source_is_told_as_that() -> None:
    """And not taken for a misspelt one."""
    (error,) = errors_of(changed("data.sharded", True))
    assert isinstance(error, UnknownKey)
    assert (key_of(error), error.nearest) == ("data.sharded", ())
    assert "manifest" in error.problem


@pytest.mark.parametrize(
    ("path", "value", "key", "near"),
    [
        ("rounds.assignment", "gat", "rounds.assignment.name", "gate"),
        ("rounds.consistency", ["local_globl"], "rounds.consistency.0.name", "local_global"),
        ("rounds.loss", {"name": "cross_entrpy"}, "rounds.loss.name", "cross_entropy"),
        ("data.source", "digit", "data.source", "digits"),
        ("controls", ["celing"], "controls.0", "ceiling"),
        ("teachers.hierarchy.by", "clas", "teachers.hierarchy.by", "class"),
    ],
)
def test_a_misspelt_name_has_the_nearest(path: str, value: Any, key: str, near: str) -> None:
    (error,) = errors_of(changed(path, value))
    assert (key_of(error), error.nearest) == (key, (near,))
    assert near in str(error.allowed)


def test_a_misspelt_required_section_is_reported_once() -> None:
    tree = {"data": GOOD["data"], "studnet": GOOD["student"]}
    (error,) = errors_of(tree)
    assert (key_of(error), error.nearest) == ("studnet", ("student",))


def test_a_missing_key_has_what_is_allowed() -> None:
    root, student = errors_of({"data": {"source": "image_folder"}})
    assert isinstance(root, MissingKey)
    assert (key_of(root), root.allowed) == ("data.root", "text")
    assert isinstance(student, MissingKey)
    assert key_of(student) == "student"
    assert str(student.allowed).startswith("a section")
    (source,) = errors_of({**GOOD, "data": {"limit": 3}})
    assert key_of(source) == "data.source"
    assert "digits" in str(source.allowed)


def test_branches_of_a_union_are_not_named() -> None:
    splits = {"teacher_train": 0.3, "student_train": 2, "tset": 0.2}
    student, test = sorted(errors_of(changed("data.splits", splits)), key=key_of)
    assert (key_of(student), student.value) == ("data.splits.student_train", 2)
    assert student.allowed == "a number from 0 to 1"
    assert (key_of(test), test.nearest) == ("data.splits.tset", ("test",))
    (error,) = errors_of(changed("data.splits", "gven"))
    assert (key_of(error), error.value, error.nearest) == ("data.splits", "gven", ("given",))
    assert str(error.allowed).startswith("a section with some of the keys")
    assert str(error.allowed).endswith("or one of auto, given")


def test_settings_of_a_choice_are_checked_all_even_those_its_own_check_reaches_last() -> None:
    loss = {"name": "adaptive_confidence", "temperature": 0, "tau": -1, "form": "cod", "q": 2}
    keys = keys_of(errors_of(changed("rounds.loss", loss)))
    assert keys == sorted(f"rounds.loss.{name}" for name in ("temperature", "tau", "form", "q"))


def test_a_number_or_list_is_no_choice() -> None:
    (error,) = errors_of(changed("rounds.assignment", 7))
    assert (key_of(error), error.value) == ("rounds.assignment", 7)
    assert "gate" in str(error.allowed).split(", ")
    (error,) = errors_of(changed("rounds.consistency", "unanimity"))
    assert (key_of(error), error.value) == ("rounds.consistency", "unanimity")
    assert str(error.allowed).startswith("a list")


def test_mistakes_of_all_sections_come_at_once() -> None:
    tree = {
        "run": {"sed": 1},
        "data": {"source": "digits", "rotation": [0], "limit": -1},
        "teachers": {"hierarchy": {"levels": [1, "two"]}, "external": [{"name": "a b"}]},
        "student": {"backbone": {"name": 5}},
        "rounds": {"assignment": "gat", "repeat": 0},
        "controls": ["celing", 3],
        "extra": {},
    }
    override, *errors = errors_of(tree, "execution.device", "run.seeds=[]")
    assert override.where == "override 'execution.device'"
    assert keys_of(errors) == sorted(
        [
            "run.sed",
            "run.seeds",
            "data.rotation",
            "data.limit",
            "teachers.hierarchy.levels.1",
            "teachers.external.0.name",
            "teachers.external.0.annotations",
            "student.backbone.name",
            "rounds.assignment.name",
            "rounds.repeat",
            "controls.0",
            "controls.1",
            "extra",
        ]
    )


def test_a_long_value_is_cut() -> None:
    (error,) = errors_of(changed("run.output", [0] * 1000))
    assert len(str(error)) < 150


@pytest.mark.parametrize("tree", [None, [], "text", 3])
def test_a_config_that_is_no_mapping_names_the_sections(tree: Any) -> None:
    (error,) = errors_of(tree)
    assert error.where == "c.yaml"
    assert "run, data, teachers, student" in error.problem


def test_a_mistake_in_one_section_hides_none_in_others_or_between_them() -> None:
    """The conflict is of `student` and `rounds`, which are right by themselves."""
    tree = {
        "run": {"sed": 1},
        "data": {"source": "digits", "limit": -1},
        "student": {"backbone": {"name": "resnet18"}, "cross_fit": 0},
        "rounds": {"assignment": "fused"},
    }
    keys = {".".join(error.key) for error in errors_of(tree)}
    assert keys == {"run.sed", "data.limit", "student.cross_fit"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"student.head": {"kind": "prototype", "start": "zero"}}, "student.head.start"),
        ({"student.head": {"start": "random"}, "student.mode": "finetune"}, "student.head.start"),
        ({"student.head": {"start": "zero"}, "rounds.loss": "evidential"}, "student.head.start"),
        ({"teachers.model": {"name": "resnet18", "start": "normal"}}, "teachers.model.start"),
        (
            {"teachers.model": {"name": "call:math:sqrt", "softmax": "all"}},
            "teachers.model.softmax",
        ),
        (
            {"student.mode": "finetune", "student.backbone": {"name": "resnet18", "crop_pct": 0.9}},
            "student.backbone.crop_pct",
        ),
    ],
)
def test_a_start_is_for_linear_heads_whose_loss_learns_from_it(
    changes: dict[str, Any], key: str
) -> None:
    tree = copy.deepcopy(GOOD)
    for path, value in changes.items():
        section, name = path.split(".")
        tree.setdefault(section, {})[name] = value
    (error,) = errors_of(tree)
    assert key_of(error) == key


@pytest.mark.parametrize("device", ["cuda:1", "mps", "gpu"])
def test_ray_gives_each_process_its_device(device: str) -> None:
    content = {"backend": "ray", "device": device}
    error = section_error_of(ExecutionSection.model_validate, content)
    assert error.key == ("device",)
    for fine in ("auto", "cpu", "cuda"):
        assert ExecutionSection(backend="ray", device=fine).device == fine
