"""Configs that a few lines blow up are refused where they go too far, before it costs anything."""

import time
from pathlib import Path
from typing import Any

import pytest
from helpers.user_errors import error_of, mistakes_of

from cosup.config import load_config
from cosup.config.yaml import MOST_VALUES, parse_yaml

LEVELS = range(1, 30)
BILLIONS = "a0: &a0 [1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in LEVELS
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in LEVELS
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 5000))


@pytest.mark.parametrize(
    "text",
    [
        *(BILLIONS, MERGED, CHAIN, "run: &a {name: *a}"),
        *("[" * 20_000, "{a: " * 20_000, "- " * 20_000, "? " * 20_000),
        *("run: !!python/object/apply:os.getcwd []", "a: !!int ''", "a: !!bool x", "a: !!float x"),
        "a: " + "9" * 5000,
    ],
    ids=lambda text: text[:24],
)
def test_a_text_that_grows_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    error = error_of(parse_yaml, text, "c.yaml")
    assert error.where is not None
    assert error.where.startswith("c.yaml")
    assert len(str(error).splitlines()) == 1
    assert time.process_time() - started < 30


@pytest.mark.parametrize("text", ["a: [" + "1," * 1200 + "]", "- 1\n" * 1500])
def test_values_written_out_are_counted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_VALUES == 100_000, "as many take seconds to read"
    monkeypatch.setattr("cosup.config.yaml.MOST_VALUES", 1000)
    error = error_of(parse_yaml, text, "c.yaml")
    assert "more than 1,000 values" in str(error)
    assert error.where is not None
    assert error.where.startswith("c.yaml")


def test_aliases_and_merges_of_usual_size_are_read() -> None:
    text = "a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n"
    assert parse_yaml(text, "c.yaml") == {
        "a": {"x": [1, 2]},
        "b": {"x": [1, 2]},
        "c": {"x": [1, 2], "y": 3},
    }


@pytest.mark.parametrize("content", [b"#" * 2_000_000, b"\xff\xfe", b"\0" * 100])
def test_a_file_that_is_no_config_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert str(path) in str(error_of(load_config, path))


def test_a_device_without_an_end_is_not_read_to_its_end() -> None:
    assert "/dev/zero" in str(error_of(load_config, "/dev/zero"))


def test_an_override_may_not_be_nested_without_end() -> None:
    (error,) = mistakes_of(load_config, "quickstart", f"{'a.' * 20_000}b=1")
    assert error.where is not None
    assert len(str(error)) < 500


def shared(levels: int) -> dict[str, Any]:
    tree: Any = [1]
    for _ in range(levels):
        tree = [tree] * 9
    return {"run": {"name": tree}}


def nested(levels: int) -> dict[str, Any]:
    tree: Any = 1
    for _ in range(levels):
        tree = {"a": tree}
    return {"run": tree}


@pytest.mark.parametrize("tree", [shared(20), nested(900), nested(60), {("a", "b"): 1}])
def test_a_config_of_python_has_the_same_limits(tree: dict[Any, Any]) -> None:
    (error,) = mistakes_of(load_config, tree)
    assert error.where == "config"


def test_a_number_that_python_does_not_write_is_named() -> None:
    (error,) = mistakes_of(load_config, {"run": {"seed": 10**5000}})
    assert error.key == ("run", "seed")
    assert "bits" in str(error)
