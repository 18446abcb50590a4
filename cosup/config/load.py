"""Load a checked `Config` from a YAML file and dotted overrides, and write it back to YAML."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from operator import eq
from pathlib import Path
from typing import Any

from cosup.config.bases import BASE, file_of, merge, read_layers
from cosup.config.schema import Config
from cosup.config.yaml import apply_override, describe_content, to_yaml
from cosup.errors import Key, UserError, raise_all
from cosup.validation import MissingKey, UnknownKey, find_mistakes

IDENTITY_EXCLUDES = ("run.name", "run.output", "execution")
"""Settings that change where a run is written or how it is computed, but not its results."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load the config in a YAML file.

    The file's settings replace those of the config that it extends (`cosup.config.bases`), and the
    overrides `section.key=value` replace both. Paths within a config are relative to the working
    directory, except for `base`, which is relative to the file with the key.

    Raises `UserError` with every mistake, each with its file, its full key, its value and what is
    allowed.
    """
    layers = read_layers(Path(path))
    return _checked(merge(layers), overrides, lambda key: file_of(key, layers))


def check_config(tree: Any, where: str = "config", overrides: Sequence[str] = ()) -> Config:
    """Return the config of a nested mapping; errors as for `load_config`, with `where` as file."""
    return _checked(tree, overrides, lambda key: where)


def dump_config(config: Config) -> str:
    """Return YAML of every setting, with defaults filled in; it loads as the same config."""
    return to_yaml(config_tree(config))


def config_tree(config: Config) -> dict[str, Any]:
    """Return the config as nested plain values, with the keys of the YAML file."""
    return config.model_dump(mode="json", by_alias=True)


def config_hash(config: Config) -> str:
    """Return a hash of all settings that decide a run's results."""
    text = json.dumps(_identity(config_tree(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return `key: old -> new` for each setting that decides results and differs between trees."""
    before, after = _identity(old), _identity(new)
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: {_text(before, key)} -> {_text(after, key)}"
        for key in keys
        if key not in before or key not in after or before[key] != after[key]
    ]


def settings(tree: dict[str, Any]) -> dict[str, Any]:
    """Return dotted key -> value of each setting of a config's tree that decides results; a list of
    plain values is one value."""
    return _identity(tree, whole=True)


def _checked(tree: Any, overrides: Sequence[str], where: Callable[[Key], object]) -> Config:
    """Check a tree with overrides. where: the file of a key; of the empty key, the main file."""
    if not isinstance(tree, dict):
        raise UserError(
            f"{describe_content(tree)}; a config is a mapping of sections "
            f"({', '.join(Config.model_fields)})",
            where=str(where(())),
        )
    found: list[UserError] = []
    overridden: list[Key] = []
    for override in overrides:
        try:
            overridden.append(_key_of(override))
            tree = apply_override(tree, override)
        except UserError as error:
            found.append(error)
    config, more = find_mistakes(Config, tree)
    found += [error.at(_written_key(error.key)) for error in more]

    def file_with(key: Key) -> str:
        changed = any(all(map(eq, key, other)) for other in overridden)
        return str(where(() if changed else key))

    raise_all(error.moved(where=file_with(error.key)) for error in _without_misspelt(found))
    checked: Config = config
    return checked


def _key_of(override: str) -> Key:
    key = tuple(override.partition("=")[0].strip().split("."))
    if key[0] == BASE:
        raise UserError(
            f"only a file can extend another config; write '{BASE}: ...' in it",
            where=f"override '{override}'",
        )
    return key


def _written_key(key: Key) -> Key:
    """Return a key as it is in the file: settings of a source are not within it, but beside it."""
    if key[:2] != ("data", "source"):
        return key
    inner = key[2:]
    return ("data", *inner) if inner and inner != ("name",) else ("data", "source")


def _without_misspelt(errors: Iterable[UserError]) -> list[UserError]:
    """Leave out that a key is missing if it is there, but misspelt."""
    errors = list(errors)
    meant = {
        (*error.key[:-1], name)
        for error in errors
        if isinstance(error, UnknownKey)
        for name in error.nearest
    }
    return [e for e in errors if not (isinstance(e, MissingKey) and e.key in meant)]


def _text(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "(not there)"


def _identity(tree: dict[str, Any], whole: bool = False) -> dict[str, Any]:
    return {
        key: value
        for key, value in _flatten(tree, whole=whole).items()
        if key not in IDENTITY_EXCLUDES and key.split(".")[0] not in IDENTITY_EXCLUDES
    }


def _flatten(tree: Any, key: Key = (), whole: bool = False) -> dict[str, Any]:
    """Return dotted key -> value for every leaf. whole: a list of plain values is one leaf."""
    if isinstance(tree, dict) and tree:
        items: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, list) and tree and not (whole and _is_plain(tree)):
        items = enumerate(tree)
    else:
        return {".".join(key): tree}
    return {
        k: v for name, item in items for k, v in _flatten(item, (*key, str(name)), whole).items()
    }


def _is_plain(values: list[Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in values)
