"""Load a checked `Config` from a YAML file or a mapping and dotted overrides; write it as YAML."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import eq
from pathlib import Path
from typing import Any

from cosup.config.bases import BASE, Layer, file_of, layers_of, merge, read_layers
from cosup.config.draft import Draft, check_tree, plain_settings, without, written_key
from cosup.config.files import find_config
from cosup.config.plain import bad_texts, plain_tree
from cosup.config.references import literal_secrets, restore, written
from cosup.config.schema import Config
from cosup.config.yaml import apply_override, describe_content, to_yaml
from cosup.errors import Key, UserError, raise_all
from cosup.validation import MOST_MISTAKES, MissingKey, UnknownKey

IDENTITY_EXCLUDES = ("run.name", "run.output", "run.loggers", "execution")
"""Settings that change where a run is written or how it is computed, but not its results."""
UNNAMED = "config"
"""What errors name where a config is in no file."""
OVERRIDE = "override"
"""What errors name instead of a file for a setting that an override gives."""

Given = str | os.PathLike[str] | Mapping[str, Any] | Config
"""A config: its file or name, its nested settings, or the checked settings themselves."""


def load_config(given: Given, *overrides: str) -> Config:
    """Load a config, and check its settings.

    given, overrides: as for `read_config`, each override `"section.key=value"`. What the settings
    name, such as folders and networks, is not looked for (`cosup.validate`).

    Raises `UserError` with every mistake.
    """
    return read_config(given, overrides).checked()


def read_config(given: Given, overrides: Sequence[str] = ()) -> Draft:
    """Read a config, as far as it is valid.

    given: a YAML file, the name of a config that comes with cosup (`quickstart`), a nested mapping
    (`cosup.config.plain` tells what it may hold), or a `Config`. Its settings replace those of the
    config that it extends (`cosup.config.bases`), and the overrides `section.key=value` replace
    both. Paths within a config are relative to the working directory, except for `base`, which is
    relative to the file with the key.

    Raises `UserError` for what cannot be read as a mapping of sections.
    """
    if isinstance(given, Config):
        tree = config_tree(given)
        is_read = written(tree).keys() == given.references.keys() and not any(literal_secrets(tree))
        if is_read and not overrides:
            return Draft.of(given)
        given = tree
    if isinstance(given, Mapping):
        layers = layers_of(plain_tree(given, UNNAMED), Path(UNNAMED))
    elif isinstance(given, str | os.PathLike):
        layers = read_layers(find_config(Path(os.path.expanduser(given))))
    else:
        raise UserError(
            "must be {allowed}",
            value=given,
            allowed="the name or the path of a config, a mapping of sections, or a Config",
            where=UNNAMED,
        )
    return check_layers(layers, overrides)


def check_layers(layers: Sequence[Layer], overrides: Sequence[str] = ()) -> Draft:
    """Return the config of these layers, as far as it is valid; the settings of each replace those
    of the layers after it, and the overrides replace all."""
    raise_all(_not_text(overrides))
    return _draft(merge(layers), overrides, lambda key: file_of(key, layers))


def check_config(
    tree: Any, where: str = UNNAMED, overrides: Sequence[str] = (), *, expanded: bool = True
) -> Config:
    """Return the config of a nested mapping that extends no other and holds plain values.

    expanded: references to the environment are replaced, and their variables must be set. Errors as
    for `load_config`, with `where` as file; a run's own config may hold secrets.
    """
    return _draft(tree, overrides, lambda key: where, stored=True, expanded=expanded).checked()


def dump_config(config: Config) -> str:
    """Return YAML of every setting, with defaults filled in; it loads as the same config."""
    return to_yaml(config_tree(config))


def config_tree(config: Config) -> dict[str, Any]:
    """Return the config as nested plain values, with the keys of the YAML file, and references to
    the environment as they are written."""
    tree: dict[str, Any] = restore(plain_settings(config), config.references)
    return tree


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


def _not_text(overrides: Sequence[Any]) -> Iterator[UserError]:
    for override in overrides:
        if not isinstance(override, str):
            allowed = "text of the form section.key=value"
            yield UserError("must be {allowed}", value=override, allowed=allowed, where=OVERRIDE)


def _draft(
    tree: Any,
    overrides: Sequence[str],
    where: Callable[[Key], object],
    *,
    stored: bool = False,
    expanded: bool = True,
) -> Draft:
    """Check a tree with overrides. where: the file of a key; of the empty key, the main file.

    stored: it is the config of a run, not one to run. expanded: as for `check_config`.
    """
    if not isinstance(tree, dict):
        raise UserError(
            f"{describe_content(tree)}; a config is a mapping of sections "
            f"({', '.join(Config.model_fields)})",
            where=str(where(())),
        )
    found: list[UserError] = []
    wrong: list[UserError] = []
    overridden: list[Key] = []
    given = tree
    for override in overrides:
        try:
            overridden.append(_key_of(override))
            tree = apply_override(tree, override)
        except UserError as error:
            wrong.append(error)

    def place_of(key: Key) -> str:
        if any(_is_given_by(other, key, given) for other in overridden):
            return OVERRIDE
        changed = any(all(map(eq, key, other)) for other in overridden)
        return str(where(() if changed else key))

    found += islice(bad_texts(tree), MOST_MISTAKES)
    secrets = [] if stored else list(literal_secrets(tree))
    draft = check_tree(tree, expanded)
    found += secrets + [error.at(written_key(error.key)) for error in draft.errors]
    moved = (error.moved(where=place_of(error.key)) for error in _without_misspelt(found))
    errors = [*wrong, *moved]
    sections = without(draft.sections, secrets)
    return Draft(None if errors else draft.config, sections, tuple(errors))


def _is_given_by(overridden: Key, key: Key, tree: dict[str, Any]) -> bool:
    """Return whether an override says what is at a key: a part of what it gives, or a section that
    is not in the tree of the files."""
    if key[: len(overridden)] == overridden:
        return True
    return bool(key) and overridden[: len(key)] == key and not _is_in(tree, key)


def _is_in(tree: Any, key: Key) -> bool:
    for part in key:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _key_of(override: str) -> Key:
    key = tuple(override.partition("=")[0].strip().split("."))
    if key[0] == BASE:
        raise UserError(
            f"only a file can extend another config; write '{BASE}: ...' in it",
            where=f"override '{override}'",
        )
    return key


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
        if not any(f"{key}.".startswith(f"{excluded}.") for excluded in IDENTITY_EXCLUDES)
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
