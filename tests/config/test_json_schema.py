"""The JSON schema accepts configs as they are written, and refuses what cosup refuses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cosup.cli import call
from cosup.config import config_tree, load_config
from cosup.config.files import shipped_configs
from cosup.config.json_schema import config_schema
from cosup.config.keys import documented_settings
from cosup.config.yaml import parse_yaml

README = Path(__file__).parents[2] / "README.md"
LEAST = {"data": {"source": "digits"}, "student": {"backbone": {"name": "resnet18"}}}
SCHEMA = config_schema()
CHECK = jsonschema.Draft7Validator(SCHEMA)


def accepted(tree: Any) -> bool:
    return bool(CHECK.is_valid(json.loads(json.dumps(tree))))  # keys that are numbers are text


def with_(key: str, value: Any, tree: Any = LEAST) -> Any:
    """A copy of a config with one key set."""
    copy = json.loads(json.dumps(tree))
    *sections, last = key.split(".")
    spot = copy
    for section in sections:
        spot = spot.setdefault(section, {})
    spot[last] = value
    return copy


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_are_accepted_as_written_and_as_resolved(name: str) -> None:
    text = shipped_configs()[name].read_text()
    assert accepted(parse_yaml(text, name))
    assert accepted(config_tree(load_config(name)))


def readme_configs() -> Iterator[Any]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", README.read_text(), flags=re.M | re.S)
    yield from (parse_yaml(block, "README") for block in blocks)


def test_the_configs_of_the_readme_are_accepted() -> None:
    whole = [tree for tree in readme_configs() if {"data", "student"} <= tree.keys()]
    assert whole
    assert all(map(accepted, whole))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds.assignment", "fused"),
        ("rounds.assignment", {"name": "gate", "hard": True}),
        ("rounds.consistency", ["local_global", {"name": "teacher_student", "k": 5}]),
        ("rounds.losses", ["cross_entropy", {"name": "distillation", "tau": 2}]),
        ("rounds.choose", "auto"),
        ("rounds.repeat", "auto"),
        ("run.seeds", [0, 1]),
        ("teachers.hierarchy", None),
        ("teachers.external", [{"annotations": "a.csv", "scope": "all", "annotators": 3}]),
        ("teachers.external", [{"annotations": "a.csv", "scope": {"domain": "sketch"}}]),
        (
            "teachers.model",
            {"name": "resnet18", "use": "pretrained", "classes": {0: 281, "dog": [1]}},
        ),
        ("data.splits", {"student_train": 0.5, "test": 0.5}),
        ("data.splits", "given"),
        ("data.rotations", [0, 45]),
        ("data.noise", {"kind": "asymmetric", "map": {1: 7}, "rate": 0.2}),
        ("student.head.class_names", [1, "two"]),
        ("execution.workers", 3),
    ],
)
def test_short_forms_are_accepted(key: str, value: Any) -> None:
    assert accepted(with_(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rouns", {}),
        ("rounds.assingment", "gate"),
        ("rounds.assignment", "gaet"),
        ("rounds.assignment", {"name": "gate", "hrad": True}),
        ("rounds.assignment", {"hard": True}),
        ("rounds.assignment", {"name": "gate", "hard": "yes"}),
        ("rounds.consistency", "local_global"),
        ("rounds.repeat", 0),
        ("rounds.repeat", True),
        ("run.seed", -1),
        ("run.seeds", []),
        ("data.source", "digit"),
        ("data.root", "x"),  # of another source
        ("data.splits", "some"),
        ("student.mode", "tune"),
        ("student.backbone", {"image_size": 64}),
        ("controls", ["celing"]),
    ],
)
def test_mistakes_are_refused(key: str, value: Any) -> None:
    assert accepted(LEAST)
    assert not accepted(with_(key, value))


def test_a_config_must_be_complete_unless_it_extends_another() -> None:
    part = {"student": {"training": {"steps": 5}}, "rounds": {"assignment": {"hard": False}}}
    assert not accepted(part)
    assert accepted({"base": "quickstart", **part})
    assert accepted({"base": "quickstart"})
    assert not accepted({"base": "quickstart", "rounds": {"assignment": {"hrad": False}}})
    assert not accepted({"base": 3})
    assert not accepted({"data": LEAST["data"]})


def test_a_mapping_is_refused_where_none_is_meant() -> None:
    """For every key of a config outside of lists, those of registered names left out."""
    tried = 0
    for one in documented_settings():
        if one.choice or ".N." in one.key or "mapping" in one.allowed:
            continue
        assert not accepted(with_(one.key, {"nonsense": 1})), one.key
        tried += 1
    assert tried > 150


def test_editors_are_told_what_keys_and_names_are() -> None:
    rounds = SCHEMA["$defs"]["RoundsSection"]["properties"]
    assert "Rounds per level" in rounds["repeat"]["description"]
    named = {
        one["const"]: one["description"] for one in rounds["assignment"]["anyOf"] if "const" in one
    }
    assert "EM" in named["gate"]
    (gate,) = [
        one["properties"]
        for one in rounds["assignment"]["anyOf"]
        if one.get("properties", {}).get("name", {}).get("const") == "gate"
    ]
    assert gate["hard"]["description"]
    assert gate["hard"]["default"] in (True, False)


def test_the_command_prints_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(SCHEMA))
