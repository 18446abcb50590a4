"""References to the environment: expanded in the config, but kept in what is written of it."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.user_errors import key_of, mistakes_of

from cosup.config import check_config, config_hash, config_tree, dump_config, load_config
from cosup.config.references import expand
from cosup.errors import UserError

TREE: dict[str, Any] = {
    "data": {"source": "image_folder", "root": "${ROOT}/photos"},
    "student": {"backbone": {"name": "resnet18", "weights": "file:${ROOT}/w.safetensors"}},
    "teachers": {"external": [{"name": "a", "annotations": "${ROOT}/${TABLE}"}]},
    "run": {"output": "s3://me:${PASSWORD}@bucket/runs?region=${REGION}"},
    "execution": {"address": "${ADDRESS}"},
}
VALUES = {
    "ROOT": "/data",
    "TABLE": "a.csv",
    "PASSWORD": "hunter2",
    "REGION": "x",
    "ADDRESS": "ray://me:hunter2@host:1",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOTHING", raising=False)


def mistake(*given: Any) -> UserError:
    """Return the only mistake of a config."""
    (error,) = mistakes_of(load_config, *given)
    return error


def changed(**sections: Any) -> dict[str, Any]:
    return {**TREE, **sections}


def test_references_are_expanded() -> None:
    config = load_config(TREE)
    assert config.data.source.settings["root"] == "/data/photos"
    assert config.student.backbone.weights == "file:/data/w.safetensors"
    assert config.teachers.external[0].annotations == "/data/a.csv"
    assert config.run.output == "s3://me:hunter2@bucket/runs?region=x"
    assert config.execution.address == VALUES["ADDRESS"]


def test_what_is_written_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(TREE)
    text = dump_config(config)
    assert "hunter2" not in text
    tree = yaml.safe_load(text)
    assert tree["data"]["root"] == "${ROOT}/photos"
    assert tree["teachers"]["external"][0]["annotations"] == "${ROOT}/${TABLE}"
    assert tree["run"]["output"] == TREE["run"]["output"]
    assert load_config(tree) == config
    first = config_hash(config)
    monkeypatch.setenv("ROOT", "/elsewhere")
    assert config_hash(load_config(TREE)) == first
    assert load_config(tree).data.source.settings["root"] == "/elsewhere/photos"


def test_copies_keep_them_but_for_what_they_change() -> None:
    config = load_config(TREE)
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert dump_config(other) == dump_config(config)
    run = config.run.model_copy(update={"output": "elsewhere", "seed": 3})
    tree = config_tree(config.model_copy(update={"run": run}))
    assert tree["run"]["output"] == "elsewhere"
    assert tree["execution"]["address"] == "${ADDRESS}"
    assert config_tree(load_config(config, "run.seed=3"))["data"]["root"] == "${ROOT}/photos"


def test_overrides_and_files_may_hold_them(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(TREE))
    config = load_config(file, "data.root=${ROOT}/other")
    assert config.data.source.settings["root"] == "/data/other"
    assert config_tree(config)["data"]["root"] == "${ROOT}/other"


def test_a_variable_that_is_not_set_is_named() -> None:
    error = mistake(changed(run={"output": "${NOTHING}/runs"}))
    assert key_of(error) == "run.output"
    assert "NOTHING" in str(error)


@pytest.mark.parametrize("text", ["${", "a ${b c}", "${1}", "${NAME:-x}", "${}"])
def test_what_is_no_reference_is_an_error(text: str) -> None:
    error = mistake(changed(run={"output": text}))
    assert key_of(error) == "run.output"
    assert error.value == text


def test_a_variable_that_holds_no_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYTES", "\udcff")
    error = mistake(changed(run={"output": "${BYTES}/runs"}))
    assert key_of(error) == "run.output"
    assert "BYTES" in str(error)


def test_a_config_is_printed_without_secrets() -> None:
    config = load_config(TREE)
    for text in (repr(config), str(config), repr(config.run), f"{config.execution}"):
        assert "hunter2" not in text
    assert "bucket/runs" in repr(config.run)


def test_a_text_may_hold_the_sign_itself() -> None:
    config = load_config(changed(run={"output": "$${ROOT}/$ROOT/$"}))
    assert config.run.output == "${ROOT}/$ROOT/$"
    assert config_tree(config)["run"]["output"] == "$${ROOT}/$ROOT/$"
    assert load_config(config) == config
    assert expand("100 $") == "100 $"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.seed", "1"),
        ("rounds.repeat", "2"),
        ("rounds.assignment", "gate"),
        ("rounds.assignment.name", "gate"),
        ("student.backbone.name", "resnet18"),
        ("student.mode", "head"),
        ("data.source", "image_folder"),
        ("controls.0", "ceiling"),
        ("teachers.external.0.scope.class", "all"),
    ],
)
def test_results_depend_on_no_reference(
    key: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOSEN", value)
    tree = copy.deepcopy(TREE)
    tree["controls"] = ["team"]
    tree["rounds"] = {"assignment": {"name": "gate"}}
    error = mistake(tree, key + "=${CHOSEN}")
    found = key_of(error)
    assert key in (found, f"{found}.name", found.removesuffix(".name"), found.removesuffix(".0"))
    assert "${CHOSEN}" in str(error)


def test_an_error_shows_the_reference_not_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE", "nope://me:hunter2@x/" + "y" * 100)
    error = mistake(changed(execution={"cache": "${CACHE}"}))
    assert key_of(error) == "execution.cache"
    assert "hunter2" not in f"{error!r} {error}"
    assert error.value == "${CACHE}"


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"run": {"output": "s3://b/runs?access_key=A&secret_key=hunter2"}}, "run.output"),
        ({"execution": {"address": "ray://you:hunter2@host:1"}}, "execution.address"),
        ({"execution": {"address": f"ray://you:hunter2{'x' * 300}@host:1"}}, "execution.address"),
        (
            {"run": {"loggers": [{"name": "mlflow", "tracking_uri": "http://me:hunter2@host"}]}},
            "run.loggers.0.tracking_uri",
        ),
    ],
)
def test_a_secret_that_is_written_out_is_refused(section: dict[str, Any], key: str) -> None:
    for tree in (changed(**section), load_config(TREE).model_copy(update=sections(section))):
        error = mistake(tree)
        assert key_of(error) == key
        assert "hunter2" not in str(error)
        assert "${NAME}" in str(error)
    assert check_config(changed(**section)), "but a run that holds one can be read"


def sections(section: dict[str, Any]) -> dict[str, Any]:
    config = check_config(changed(**section))
    return {name: getattr(config, name) for name in section}


def test_all_mistakes_are_found_at_once() -> None:
    tree = changed(
        run={"output": "${NOTHING}", "seed": "${ROOT}"},
        execution={"address": "ray://a:b@c", "batch_size": 0},
    )
    found = {key_of(error) for error in mistakes_of(load_config, tree)}
    assert found == {"run.output", "run.seed", "execution.address", "execution.batch_size"}
