"""`cosup ls`: one structure behind text and JSON, and the documentation of every key."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cosup.cli import call
from cosup.config import Config, config_tree, load_config
from cosup.config.keys import documented_settings, settings_below
from cosup.errors import MISSING, UserError
from cosup.settings import Settings
from cosup.validation import setting_docs


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert call(["ls", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "kind",
    [
        "configs",
        "assigners",
        "consistency",
        "losses",
        "loggers",
        "sources",
        "teachers",
        "controls",
        "runs",
    ],
)
def test_json_has_what_the_text_has(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    things = listed(capsys, kind)
    assert things == listed(capsys)[kind]
    assert call(["ls", kind]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for thing in things:
        assert thing["name"] in text
        assert " ".join(thing["description"].split()) in text
        for setting in thing.get("settings", []):
            assert " ".join(setting["description"].split()) in text


def test_filters_are_found_by_both_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, "filters") == listed(capsys, "consistency")
    assert "filters" not in listed(capsys)


def flat(tree: Any, key: str = "") -> list[str]:
    """The dotted keys of a config's tree, with N for an index; settings of choices left out."""
    if isinstance(tree, dict):
        return [one for name, item in tree.items() for one in flat(item, f"{key}.{name}")]
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return [one for item in tree for one in flat(item, f"{key}.N")]
    return [key[1:]]


@pytest.mark.parametrize("name", ["quickstart", "digits_annotators", "fashion_mnist_few_shot"])
def test_every_key_that_a_config_can_have_is_documented(name: str) -> None:
    documented = {one.key for one in documented_settings()}
    choices = {"rounds.assignment.name", "rounds.loss.name", "student.meta.loss.name"}
    keys = set(flat(config_tree(load_config(name)))) - choices
    # Mappings from names, such as accuracies of domains, end in a name of the task, and choices in
    # a list in `name`.
    above = {key: key.rpartition(".")[0].removesuffix(".N") for key in keys}
    unknown = {key for key in keys if not {key, above[key]} & documented}
    assert unknown == set()


def test_defaults_are_those_of_a_config() -> None:
    source = "data: {source: digits}\nstudent: {backbone: {name: resnet18}}\n"
    Path("c.yaml").write_text(source)
    tree = config_tree(load_config("c.yaml"))
    compared = 0
    for one in documented_settings():
        if one.choice or one.required or one.default is MISSING or ".N." in one.key:
            continue
        value: Any = tree
        for part in one.key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, dict) and "name" in value and isinstance(one.default, str):
            value = value["name"]
        if value is not None:
            assert value == one.default, one.key
            compared += 1
    assert compared > 60


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_keys_of_a_section_and_of_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    keys = [one["key"] for one in listed(capsys, "keys", "rounds")]
    assert keys[0] == "rounds"
    assert "rounds.assignment" in keys
    assert "rounds.assignment.hard" not in keys
    assert all(key.partition(".")[0] == "rounds" for key in keys)
    of_gate = [
        one for one in listed(capsys, "keys", "rounds.assignment") if one.get("choice") == "gate"
    ]
    assert {"rounds.assignment.hard", "rounds.assignment.prior"} <= {o["key"] for o in of_gate}
    assert all(one["description"] for one in of_gate)
    (root,) = [one for one in settings_below("data.root") if one.choice == "images"]
    assert root.required
    assert settings_below("teachers.external.0.name") == settings_below("teachers.external.N.name")


def test_every_setting_has_a_description() -> None:
    assert [one.key for one in documented_settings() if not one.description] == []
    assert {one.key for one in settings_below()} >= set(Config.model_fields)


@dataclass
class Listed(Settings):
    """Settings with a list."""

    size: int
    """A size."""
    names: list[str] = field(default_factory=lambda: ["a"])
    """Some names."""


def test_a_default_that_is_made_anew_is_a_default() -> None:
    assert setting_docs(Listed) == {"names": ("Some names.", ["a"]), "size": ("A size.", ...)}


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        settings_below("student.bakcbone")
    assert caught.value.nearest[0] == "student.backbone"
    assert caught.value.value == "student.bakcbone"


def test_a_run_without_a_measure_is_listed_as_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "outputs" / "one"
    folder.mkdir(parents=True)
    (folder / ".cosup-run.json").write_text('{"format": 1, "config_hash": ""}')
    summary = {"status": "finished", "student": {"accuracy": None, "pgr": None}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (run,) = listed(capsys, "runs")
    assert (run["status"], run["accuracy"], run["pgr"]) == ("finished", None, None)
    assert run["description"] == "finished"


def test_tables_keep_to_the_columns_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    widths = {}
    for columns in ("70", "120", "", "wide"):
        monkeypatch.setenv("COLUMNS", columns)
        assert call(["ls", "keys", "rounds"]) == 0
        widths[columns] = max(map(len, capsys.readouterr().out.splitlines()))
    assert widths["70"] <= 70 < widths["120"] <= 120 < widths[""] == widths["wide"] <= 160
