"""A config may stand on another: `base: other.yaml` beside its sections.

The base's keys are taken, and this file's are laid over them; then come the overrides. A base may
have a base, and need not be complete by itself. Its path is relative to the file that names it.

- Mappings merge key by key; anything else (a value, a list, null) replaces what was there.
- What names another choice starts afresh: where a mapping's `name` or `kind` (`rounds.loss`,
  `student.backbone`, `student.head`, ...) or the `source` of `data` isn't the base's, nothing of
  the base's is left in it, so that no setting is kept which was meant for something else. Of
  `data` these are the splits too. With the same name, or none, it merges. The command line has no
  such rule: `student.backbone.name=resnet50` sets that one key.
- A bare name (`assignment: gate`) is a whole choice: it replaces the base's and all its settings.
  Where the base gives one, settings alone (`assignment: {hard: false}`) are added to it.
- What the base repeats by an `&anchor` is changed in the one place that is written here.
- `run.name` is inherited like the rest, and with it the run's directory.
"""

import os
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from cosup.config.errors import contents
from cosup.config.yaml import parse_yaml, read_text
from cosup.errors import UserError, about
from cosup.words import literal

BASE = "base"
"""The key that names the base."""

_BY_NAME = (("rounds", "assignment"), ("rounds", "loss"), ("student", "meta", "loss"))
"""What may be written as a bare name."""


class Layer(NamedTuple):
    """What one file says."""

    path: Path
    tree: Any
    """Without `base`."""


def read_layers(path: Path) -> list[Layer]:
    """A config's file, then its base, then the base's base, and so on.

    `UserError` for a file that can't be read, a base that is no mapping, and one that stands on
    itself; of a base it names the file that asked for it too.
    """
    tree = parse_yaml(read_text(path), str(path))
    layers = [_layer(path, tree)]
    while isinstance(tree, dict) and BASE in tree:
        with about(f"{path}: {BASE}"):
            path = _path_of(tree[BASE], path)
            _check_no_cycle(path, layers)
            tree = parse_yaml(read_text(path), str(path))
            if not isinstance(tree, dict):
                raise UserError(f"{path}: {contents(tree)}; a base is a mapping of sections")
        layers.append(_layer(path, tree))
    return layers


def together(layers: Sequence[Layer]) -> Any:
    """The tree of all layers, each laid over those after it."""
    trees = [layer.tree for layer in reversed(layers)]
    try:
        return reduce(_laid, trees)
    except RecursionError:
        paths = ", ".join(str(layer.path) for layer in layers)
        raise UserError(f"{paths}: each has an anchor within itself; write it out") from None


def file_of(key: Sequence[str], layers: Sequence[Layer]) -> Path:
    """The file whose value counts at a key; the first of them for what stands in none."""
    stands = _holds(together(layers), key)
    return next((one.path for one in layers if stands and _holds(one.tree, key)), layers[0].path)


def _layer(path: Path, tree: Any) -> Layer:
    if not isinstance(tree, dict):
        return Layer(path, tree)
    return Layer(path, {key: value for key, value in tree.items() if key != BASE})


def _path_of(value: Any, named_in: Path) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UserError(f"{literal(value)}: must be the path of one YAML file")
    return named_in.parent / value


def _check_no_cycle(path: Path, layers: Sequence[Layer]) -> None:
    real = os.path.realpath(path)
    if any(os.path.realpath(layer.path) == real for layer in layers):
        chain = " -> ".join(str(one) for one in (*(layer.path for layer in layers), path))
        raise UserError(f"a config can't stand on itself: {chain}")


def _laid(base: Any, over: Any, at: tuple[str, ...] = ()) -> Any:
    """A tree of both, `over` first; neither is changed, and what is merged is new."""
    if at in _BY_NAME and isinstance(base, str):
        base = {"name": base}
    if not (isinstance(base, dict) and isinstance(over, dict)) or _is_another(base, over, at):
        return over
    merged = {
        key: _laid(base[key], value, (*at, str(key))) if key in base else value
        for key, value in over.items()
    }
    return {**base, **merged}


def _is_another(base: dict[Any, Any], over: dict[Any, Any], at: tuple[str, ...]) -> bool:
    """Whether `over` names another choice than the base does."""
    if len(at) < 2 and at != ("data",):  # `run.name` names no choice
        return False
    key = "source" if at == ("data",) else "name" if "name" in {**base, **over} else "kind"
    return key in base and key in over and bool(base[key] != over[key])


def _holds(node: Any, key: Sequence[str]) -> bool:
    """Whether a key stands in a tree; one within a plain value does (a bare name's `name`)."""
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
