"""Configs load from YAML with overrides, dump to what loads back, and have a stable identity."""

from pathlib import Path
from typing import Any

import pytest
from helpers.user_errors import key_of, mistakes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.config import (
    Config,
    check_config,
    config_differences,
    config_hash,
    config_tree,
    dump_config,
    load_config,
)
from cosup.config.files import shipped_configs
from cosup.config.yaml import parse_yaml, to_yaml
from cosup.errors import UserError

TEXT = """\
# a comment
run: {name: tiny, seed: 3}
data: {source: digits, rotations: [0, 90]}
teachers:
  hierarchy: {by: domain, levels: [1, 2]}
  external: [{name: a, annotations: a.csv, scope: {class: "no"}}]
student:
  backbone: {name: resnet18, weights: null}
  training: {steps: 10, lr: 1e-3}
rounds:
  assignment: agreement
  consistency: [teacher_student, {name: unanimity, share: 0.5}]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "c.yaml"
    file.write_text(TEXT)
    return file


def test_a_file_loads_with_defaults_filled_in(path: Path) -> None:
    config = load_config(path)
    assert config.run.seed == 3
    assert config.data.source.settings["rotations"] == [0.0, 90.0]
    assert config.student.training.lr == 1e-3
    assert config.teachers.external[0].scope.classes == ["no"]
    assert config.rounds.consistency[0].settings["k"] == 3
    assert config.execution.device == "auto"


def test_a_dump_loads_back_to_the_same_config(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config
    assert dump_config(load_config(again)) == dump_config(config)


@pytest.mark.parametrize("file", shipped_configs().values(), ids=str)
def test_shipped_configs_load_and_dump(file: Path, tmp_path: Path) -> None:
    config = load_config(file)
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"]))
    | st.sampled_from(["no", "on", "1e3", "0o7", "010", "1:30", "2024-01-01", "~", "<<", ".inf"])
)


@settings(deadline=None)
@given(
    st.recursive(scalars, lambda x: st.lists(x) | st.dictionaries(st.text("abc"), x), max_leaves=25)
)
def test_yaml_written_is_read_back_exactly(tree: object) -> None:
    back = parse_yaml(to_yaml(tree), "here")
    assert back == tree
    assert repr(back) == repr(tree)  # 1 is not True, and 1.0 is not 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("no", "no"), ("2024-01-01", "2024-01-01"), ("12:30", "12:30"), ("-3", -3)],
)
def test_yaml_has_no_surprises(text: str, value: object) -> None:
    assert parse_yaml(text, "here") == value


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3:1", "'a' is given twice (first in line 1)"),
        ("a: [1, 2\nb: 3\n", "c.yaml:2:", "YAML"),
        ("a:\n\t- 1\n", "c.yaml:2:1", "YAML"),
        ("a: !!python/object:os.system {}\n", "c.yaml:1:4", "YAML"),
    ],
)
def test_bad_yaml_names_file_and_line(tmp_path: Path, text: str, where: str, problem: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    (error,) = mistakes_of(load_config, file)
    assert str(error.where).startswith(str(file.parent / where))
    assert problem in error.problem


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("")
    (error,) = mistakes_of(load_config, tmp_path / "c.yaml")
    assert error.where == f"config {tmp_path / 'c.yaml'}"
    assert "other.yaml" in error.problem
    (error,) = mistakes_of(load_config, tmp_path)
    assert error.where == f"config {tmp_path}"
    (tmp_path / "b.yaml").write_bytes(b"run: \xff\xfe")
    (error,) = mistakes_of(load_config, tmp_path / "b.yaml")
    assert error.where == f"config {tmp_path / 'b.yaml'}"
    assert "byte 5" in error.problem
    (error,) = mistakes_of(load_config, tmp_path / "other.yaml")
    assert error.where == str(tmp_path / "other.yaml")


def test_overrides_are_read_as_yaml(path: Path) -> None:
    config = load_config(
        path,
        "run.seeds=[0, 1]",
        "rounds.repeat=2",
        "teachers.hierarchy.levels.1=4",
        "rounds.consistency.0.k=5",
        "rounds.assignment.measure=ce",
        "execution.cache=null",
        "student.training.lr=1e-4",
        "student.backbone.name=a=b",
    )
    assert config.run.seeds == [0, 1]
    assert config.rounds.repeat == 2
    assert config.teachers.hierarchy is not None
    assert config.teachers.hierarchy.levels == [1, 4]
    assert config.rounds.consistency[0].settings["k"] == 5
    assert config.rounds.assignment.name == "agreement"
    assert config.rounds.assignment.settings["measure"] == "ce"
    assert config.student.training.lr == 1e-4
    assert config.student.backbone.name == "a=b"


def test_what_yaml_repeats_is_overridden_in_one_place_alone(path: Path) -> None:
    path.write_text(
        TEXT.replace("training: {steps: 10, lr: 1e-3}", "training: *same").replace(
            "teachers:\n", "teachers:\n  training: &same {steps: 10}\n"
        )
    )
    config = load_config(path, "student.training.steps=7")
    assert config.student.training.steps == 7
    assert config.teachers.training.steps == 10
    path.write_text("run: &same {name: x, seed: *same}\n")
    with pytest.raises(UserError, match="an anchor within itself"):
        load_config(path, "run.name=y")


@pytest.mark.parametrize(
    ("override", "key", "allowed"),
    [
        ("rounds.repeat", "", None),
        ("=3", "", None),
        ("a..b=3", "", None),
        ("rounds.consistency.7.k=1", "rounds.consistency.7", "0 to 1"),
        ("rounds.consistency.last.k=1", "rounds.consistency.last", "0 to 1"),
        ("run.seed.x=1", "run.seed", None),
        ("rounds.repeat=[1", "", None),
    ],
)
def test_bad_overrides(path: Path, override: str, key: str, allowed: str | None) -> None:
    (error,) = mistakes_of(load_config, path, override)
    assert str(error.where).startswith(f"override '{override}'")
    assert (key_of(error), error.allowed) == (key, allowed)


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("controls=[x]", "controls.0", ()),
        ("round.repeat=1", "round", ("rounds",)),
        ("rounds.repat=1", "rounds.repat", ("repeat",)),
    ],
)
def test_overrides_are_checked(
    path: Path, override: str, key: str, nearest: tuple[str, ...]
) -> None:
    (error,) = mistakes_of(load_config, path, override)
    assert (error.where, key_of(error), error.nearest) == ("override", key, nearest)


def test_an_override_is_not_blamed_for_what_the_file_says(path: Path) -> None:
    path.write_text(TEXT.replace("steps: 10,", "steps: 10, lrr: 1,"))
    override, file = mistakes_of(load_config, path, "student.training.steps=x")
    assert (override.where, key_of(override)) == ("override", "student.training.steps")
    assert (file.where, key_of(file)) == (str(path), "student.training.lrr")
    path.write_text("run: {name: x}")
    (error,) = [e for e in mistakes_of(load_config, path, "run.seed=1") if key_of(e) == "data"]
    assert error.where == str(path)


def test_the_identity_is_of_what_decides_numbers(path: Path) -> None:
    config = load_config(path)
    elsewhere = ["run.name=x", "run.output=y", "execution.workers=1", "execution.batch_size=8"]
    assert config_hash(load_config(path, *elsewhere)) == config_hash(config)
    for other in ("run.seed=4", "rounds.repeat=2", "data.limit=9", "controls=[]"):
        changed = load_config(path, other)
        assert config_hash(changed) != config_hash(config)
        (line,) = config_differences(config_tree(config), config_tree(changed))[-1:]
        assert line.startswith(other.split("=")[0])


def test_a_difference_shows_both_values(path: Path) -> None:
    old, new = load_config(path), load_config(path, "rounds.repeat=2")
    assert config_differences(config_tree(old), config_tree(new)) == ['rounds.repeat: "auto" -> 2']


def test_configs_are_frozen(path: Path) -> None:
    config: Config = load_config(path)
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 4


@pytest.mark.parametrize("scope", ["all", {"class": "all"}, {"domain": "all", "class": None}])
def test_a_scope_of_all_is_the_whole_task(scope: Any) -> None:
    tree = {
        "data": {"source": "digits"},
        "teachers": {"external": [{"name": "a", "annotations": "a.csv", "scope": scope}]},
        "student": {"backbone": {"name": "resnet18"}},
    }
    found = check_config(tree).teachers.external[0].scope
    assert found.resolve(["x", "y"], ["d"]) == (None, None)
