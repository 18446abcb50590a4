"""From a YAML file and dotted overrides to a checked `Config`, and back."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cosup.config.errors import config_error, flatten
from cosup.config.files import parse_yaml, read_text, to_yaml
from cosup.config.overrides import apply_override
from cosup.config.schema import Config
from cosup.errors import UserError
from cosup.explain import Mistake, find_mistakes

IDENTITY_EXCLUDES = ("run.name", "run.output", "execution")
"""What changes where a run is written or how it is computed, but not what is computed."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a YAML file, with `section.key=value` overrides laid over it.

    Raises `UserError` with one line per mistake: all of them, each with its full key, the value
    given and what is allowed. Paths within a config are relative to the working directory.
    """
    path = Path(path)
    tree = parse_yaml(read_text(path), str(path))
    return check_config(tree, str(path), overrides)


def check_config(tree: Any, where: str = "config", overrides: Sequence[str] = ()) -> Config:
    """The config of a nested mapping; errors as `load_config`'s, with `where` for the file."""
    if not isinstance(tree, dict):
        sections = ", ".join(Config.model_fields)
        what = "empty" if tree is None else f"holds {type(tree).__name__}"
        raise UserError(f"{where}: {what}; a config is a mapping of sections ({sections})")
    found: list[Mistake] = []
    for override in overrides:
        try:
            tree = apply_override(tree, override)
        except UserError as error:
            found.append(((), str(error)))
    config, more = find_mistakes(Config, _adapter(), tree)
    if found or more:
        raise config_error([*found, *more], where)
    checked: Config = config
    return checked


def dump_config(config: Config) -> str:
    """YAML of every setting, defaults filled in; it loads back to the same config."""
    return to_yaml(config_tree(config))


def config_tree(config: Config) -> dict[str, Any]:
    """The config as nested plain values, keys as they are written in YAML."""
    return config.model_dump(mode="json", by_alias=True)


def config_hash(config: Config) -> str:
    """Of everything that decides a run's numbers: not its name, folder, or execution."""
    text = json.dumps(_identity(config_tree(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old -> new` for each setting that decides numbers and differs between two trees."""
    before, after = _identity(old), _identity(new)
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: {_text(before, key)} -> {_text(after, key)}"
        for key in keys
        if key not in before or key not in after or before[key] != after[key]
    ]


def _text(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "(not there)"


def settings(tree: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of each setting in a config's tree that decides a run's numbers; a list
    of plain values is one value."""
    return _identity(tree, whole=True)


def _identity(tree: dict[str, Any], whole: bool = False) -> dict[str, Any]:
    return {
        key: value
        for key, value in flatten(tree, whole=whole).items()
        if key not in IDENTITY_EXCLUDES and key.split(".")[0] not in IDENTITY_EXCLUDES
    }


@cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)
