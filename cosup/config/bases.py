"""Extend one config by another: `base: other.yaml` beside the sections.

The settings of the file replace those of its base, and overrides replace both. A base may have a
base itself, and need not be complete. Its path is relative to the file with the key; a config that
comes with cosup is found by its name (`base: quickstart`), unless there is a file of that name.

- Mappings merge key by key; any other value (a list and null included) replaces the base's.
- A mapping that chooses something else replaces the base's mapping whole: where its `name` or
  `kind` (`rounds.loss`, `student.backbone`, `student.head`, ...) or the `source` of `data` differs
  from the base's, no setting of the base is kept, as it was meant for another choice. For `data`
  this includes the splits. Mappings with the same name, or without one, merge. Overrides set single
  keys: `student.backbone.name=resnet50` changes that key only.
- A bare name (`assignment: gate`) is a complete choice: it replaces the base's with all its
  settings. If the base has a bare name, settings alone (`assignment: {hard: false}`) are added.
- What the base repeats by an `&anchor` changes only where this file sets it.
- `run.name`, and with it the run's directory, is taken from the base like any other setting.
"""

import os
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from cosup.config.files import find_base, read_text
from cosup.config.yaml import describe_content, parse_yaml
from cosup.errors import UserError, about

BASE = "base"
"""The key that names the base."""

_BARE_NAMES = (("rounds", "assignment"), ("rounds", "loss"), ("student", "meta", "loss"))
"""Choices that may be written as a bare name."""


class Layer(NamedTuple):
    """The content of one file, without the key `base`."""

    path: Path
    tree: Any


def read_layers(path: Path) -> list[Layer]:
    """Read a config's file, and return it with its bases (`layers_of`).

    Raises `UserError` for a file that cannot be read.
    """
    return layers_of(parse_yaml(read_text(path), str(path)), path)


def layers_of(tree: Any, path: Path) -> list[Layer]:
    """Return the content of a config, then that of its base, then of the base's base, and so on.

    path: where the content is from; bases are relative to its folder.

    Raises `UserError` for a file that cannot be read, a base that is not a mapping, and a base that
    extends itself; an error about a base also names the file that extends it.
    """
    layers = [_layer(path, tree)]
    while isinstance(tree, dict) and BASE in tree:
        with about(f"{path}: {BASE}"):
            path = _path_of(tree[BASE], path)
            _check_no_cycle(path, layers)
            tree = parse_yaml(read_text(path), str(path))
            if not isinstance(tree, dict):
                text = f"{describe_content(tree)}; a base is a mapping of sections"
                raise UserError(text, where=str(path))
        layers.append(_layer(path, tree))
    return layers


def merge(layers: Sequence[Layer]) -> Any:
    """Return the tree of all layers; each layer's settings replace those of the layers after it."""
    return reduce(_merged, [layer.tree for layer in reversed(layers)])


def file_of(key: Sequence[str], layers: Sequence[Layer]) -> Path:
    """Return the file that sets a key; the first file for a key that none sets."""
    is_set = _has(merge(layers), key)
    return next((one.path for one in layers if is_set and _has(one.tree, key)), layers[0].path)


def _layer(path: Path, tree: Any) -> Layer:
    if not isinstance(tree, dict):
        return Layer(path, tree)
    return Layer(path, {key: value for key, value in tree.items() if key != BASE})


def _path_of(value: Any, named_in: Path) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UserError("must be {allowed}", value=value, allowed="the path of one YAML file")
    return find_base(value, named_in)


def _check_no_cycle(path: Path, layers: Sequence[Layer]) -> None:
    real = os.path.realpath(path)
    if any(os.path.realpath(layer.path) == real for layer in layers):
        chain = " -> ".join(str(one) for one in (*(layer.path for layer in layers), path))
        raise UserError(f"a config cannot extend itself: {chain}")


def _merged(base: Any, over: Any, at: tuple[str, ...] = ()) -> Any:
    """Merge two trees into a new one, `over` first; neither is changed."""
    if at in _BARE_NAMES and isinstance(base, str):
        base = {"name": base}
    if not (isinstance(base, dict) and isinstance(over, dict)) or _chooses_other(base, over, at):
        return over
    merged = {
        key: _merged(base[key], value, (*at, str(key))) if key in base else value
        for key, value in over.items()
    }
    return {**base, **merged}


def _chooses_other(base: dict[Any, Any], over: dict[Any, Any], at: tuple[str, ...]) -> bool:
    """Return whether `over` names another choice than the base."""
    if len(at) < 2 and at != ("data",):  # `run.name` names no choice
        return False
    key = "source" if at == ("data",) else "name" if "name" in {**base, **over} else "kind"
    return key in base and key in over and bool(base[key] != over[key])


def _has(node: Any, key: Sequence[str]) -> bool:
    """Return whether a tree has a key; a plain value has every key (a bare name's `name`)."""
    for part in key:
        if isinstance(node, dict):
            inner = {str(name): value for name, value in node.items()}
        elif isinstance(node, list):
            inner = {str(index): value for index, value in enumerate(node)}
        else:
            return True
        if part not in inner:
            return False
        node = inner[part]
    return True
