"""Every mistake is found at once, and each is one line with full key, value and what is allowed."""

import copy
from typing import Any

import pytest

from cosup.config import check_config
from cosup.errors import UserError

GOOD: dict[str, Any] = {
    "data": {"source": "digits"},
    "student": {"backbone": {"name": "resnet18", "weights": None}},
}


def lines_of(tree: Any, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        check_config(tree, "c.yaml", overrides)
    return str(caught.value).splitlines()


def changed(path: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(GOOD)
    *sections, last = path.split(".")
    spot = tree
    for section in sections:
        spot = spot.setdefault(section, {})
    spot[last] = value
    return tree


def test_a_minimal_config_is_good() -> None:
    assert check_config(GOOD).rounds.repeat == 1


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("run.seed", "one", "run.seed: 'one': must be a whole number of at least 0"),
        ("run.seed", True, "run.seed: true: must be a whole number of at least 0"),
        ("run.seed", 1.5, "run.seed: 1.5: must be a whole number of at least 0"),
        ("run.seed", None, "run.seed: null: must be a whole number of at least 0"),
        (
            "run.seeds",
            [],
            "run.seeds: []: must be a list of at least 1 (each item: a whole number) or null",
        ),
        ("run.seeds", [0, "x"], "run.seeds.1: 'x': must be a whole number"),
        ("run", 3, "run: 3: must be a section with some of the keys name, seed, seeds, output"),
        ("run.output", 3, "run.output: 3: must be text"),
        ("data.limit", -2, "data.limit: -2: must be a whole number above 0 or null"),
        ("data.max_broken", 2, "data.max_broken: 2: must be a number from 0 to 1"),
        ("data.stratify", "maybe", "data.stratify: 'maybe': must be true or false"),
        (
            "student.training",
            {"steps": 5, "lr": float("inf")},
            "student.training.lr: inf: must be a number above 0, and finite",
        ),
        (
            "execution.workers",
            "all",
            "execution.workers: 'all': must be a whole number above 0 or auto",
        ),
        ("execution.workers", 0, "execution.workers: 0: must be a whole number above 0 or auto"),
        ("student.cross_fit", 1, "student.cross_fit: 1: must be 0, or at least 2 folds"),
    ],
)
def test_a_wrong_value_is_one_exact_line(path: str, value: Any, line: str) -> None:
    assert lines_of(changed(path, value)) == [f"c.yaml: {line}"]


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
def test_a_misspelt_key_is_named_in_full_with_the_nearest(path: str, key: str, near: str) -> None:
    (line,) = lines_of(changed(path, 1))
    assert line.startswith(f"c.yaml: {key}: unknown key ")
    assert f"did you mean '{near}'?" in line
    assert f" {near}" in line.split("(allowed:")[1]


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
def test_a_misspelt_name_says_the_nearest_and_all(
    path: str, value: Any, key: str, near: str
) -> None:
    (line,) = lines_of(changed(path, value))
    assert line.startswith(f"c.yaml: {key}: ")
    assert f"did you mean '{near}'?" in line


def test_a_misspelt_required_section_is_reported_once() -> None:
    tree = {"data": GOOD["data"], "studnet": GOOD["student"]}
    (line,) = lines_of(tree)
    assert line.startswith("c.yaml: studnet: ")
    assert "did you mean 'student'?" in line


def test_what_is_missing_says_what_belongs_there() -> None:
    lines = lines_of({"data": {"source": "image_folder"}})
    assert lines[0] == "c.yaml: data.root: must be given: text"
    assert lines[1].startswith("c.yaml: student: must be given: a section")
    (line,) = lines_of({**GOOD, "data": {"limit": 3}})
    assert line.startswith("c.yaml: data.source: must be given: the name of one source (known: ")
    assert "digits" in line


def test_branches_of_a_union_are_not_named() -> None:
    splits = {"teacher_train": 0.3, "student_train": 2, "tset": 0.2}
    lines = lines_of(changed("data.splits", splits))
    student, test = sorted(lines)
    assert student == ("c.yaml: data.splits.student_train: 2: must be a number above 0 and below 1")
    assert test.startswith("c.yaml: data.splits.tset: unknown key 'tset'; did you mean 'test'?")
    (line,) = lines_of(changed("data.splits", "gven"))
    assert line.startswith("c.yaml: data.splits: 'gven': must be a section with some of the keys")
    assert line.endswith("or given; did you mean 'given'?")


def test_settings_of_a_choice_are_checked_all_even_those_its_own_check_reaches_last() -> None:
    loss = {"name": "adaptive_confidence", "temperature": 0, "tau": -1, "form": "cod", "q": 2}
    lines = lines_of(changed("rounds.loss", loss))
    keys = {line.split(": ")[1] for line in lines}
    assert keys == {f"rounds.loss.{name}" for name in ("temperature", "tau", "form", "q")}


def test_a_number_or_list_is_no_choice() -> None:
    (line,) = lines_of(changed("rounds.assignment", 7))
    assert line.startswith("c.yaml: rounds.assignment: 7: give the name of one assigner")
    (line,) = lines_of(changed("rounds.consistency", "unanimity"))
    assert line.startswith("c.yaml: rounds.consistency: 'unanimity': must be a list")


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
    lines = lines_of(tree, "execution.device", "run.seeds=[]")
    keys = sorted(line.split(": ")[1] for line in lines)
    assert keys == sorted(
        [
            "override 'execution.device'",
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
    (line,) = lines_of(changed("run.output", [0] * 1000))
    assert len(line) < 150


@pytest.mark.parametrize("tree", [None, [], "text", 3])
def test_a_config_that_is_no_mapping_names_the_sections(tree: Any) -> None:
    (line,) = lines_of(tree)
    assert "a config is a mapping of sections (run, data, teachers, student" in line
