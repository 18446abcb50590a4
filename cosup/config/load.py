"""From a YAML file and dotted overrides to a checked `Config`, and back."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from operator import eq
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cosup.config.bases import BASE, file_of, read_layers, together
from cosup.config.errors import Key, config_error, contents, flatten
from cosup.config.schema import Config
from cosup.config.yaml import apply_override, to_yaml
from cosup.errors import UserError
from cosup.validation import Mistake, find_mistakes

IDENTITY_EXCLUDES = ("run.name", "run.output", "execution")
"""What changes where a run is written or how it is computed, but not what is computed."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in a YAML file, laid over its `base` (`cosup.config.bases`) if it names one, with
    `section.key=value` overrides laid over both.

    Raises `UserError` with one line per mistake: all of them, each with the file it stands in, its
    full key, the value given and what is allowed. Paths within a config are relative to the working
    directory, but for that of `base`, which is relative to the file that names it.
    """
    layers = read_layers(Path(path))
    return _checked(together(layers), overrides, lambda key: file_of(key, layers))


def check_config(tree: Any, where: str = "config", overrides: Sequence[str] = ()) -> Config:
    """The config of a nested mapping; errors as `load_config`'s, with `where` for the file."""
    return _checked(tree, overrides, lambda key: where)


def _checked(tree: Any, overrides: Sequence[str], where: Callable[[Key], object]) -> Config:
    """where: says which file a key stands in; of the empty key, the one that was asked for."""
    if not isinstance(tree, dict):
        sections = ", ".join(Config.model_fields)
        raise UserError(
            f"{where(())}: {contents(tree)}; a config is a mapping of sections ({sections})"
        )
    found: list[Mistake] = []
    overridden: list[Key] = []
    for override in overrides:
        try:
            overridden.append(_key_of(override))
            tree = apply_override(tree, override)
        except UserError as error:
            found.append(((), str(error)))
    config, more = find_mistakes(Config, _adapter(), tree)
    if found or more:
        raise config_error(
            [*found, *more], lambda key: where(() if _touched(key, overridden) else key)
        )
    checked: Config = config
    return checked


def _key_of(override: str) -> Key:
    key = tuple(override.partition("=")[0].strip().split("."))
    if key[0] == BASE:
        raise UserError(
            f"override '{override}': only a file can name its base; write '{BASE}: ...' in it"
        )
    return key


def _touched(key: Key, overridden: Sequence[Key]) -> bool:
    """Whether an override set a key, or something within or around it."""
    return any(all(map(eq, key, other)) for other in overridden)


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
