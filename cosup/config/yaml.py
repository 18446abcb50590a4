"""YAML as configs use it: true and false are the only truth values, `1e-3` is a number, a key
given twice is a mistake.

The plain YAML 1.1 of PyYAML reads `no` as false, `1e-3` as text and `on:` as a key named true.

Dotted overrides: `rounds.consistency.0.k=5`.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from cosup.errors import UserError

_RULES: list[tuple[str, str, str]] = [
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:merge", r"^(?:<<)$", "<"),
]


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first in _RULES:
        for letter in first:
            table.setdefault("" if letter == "\0" else letter, []).append(
                (tag, re.compile(pattern))
            )
    return table


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"'{name}' is given twice (first in line {seen[name]})",
                    key.start_mark,
                )
            seen[name] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text; `UserError` naming where, line and column if it can't be read."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UserError(f"{where}{at}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def to_yaml(tree: Any) -> str:
    """YAML that `parse_yaml` reads back to the same tree, keys in the order given."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def read_text(path: Path) -> str:
    """The text of a config file; `UserError` naming it if it isn't there or isn't text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        there = f" (in {path.parent}: {', '.join(near)})" if near else ""
        raise UserError(f"config {path}: no such file{there}") from None
    except IsADirectoryError:
        raise UserError(f"config {path}: is a folder; give a YAML file") from None
    except PermissionError:
        raise UserError(f"config {path}: not readable (permission denied)") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"config {path}: not a text file (byte {error.start} isn't UTF-8)"
        ) from None
    except OSError as error:
        raise UserError(f"config {path}: not readable ({error.strerror})") from None


def apply_override(tree: dict[str, Any], override: str) -> dict[str, Any]:
    """A copy of the tree with `section.key=value` set; the value is read as YAML.

    Sections on the way that aren't there are made (the check of the whole config then names those
    that nothing knows). A list is entered by index. Within `rounds`, a bare name on the way
    (`assignment: gate`) becomes `{name: gate}`, so that its settings can be overridden.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"override '{override}': write it as section.key=value")
    value = parse_yaml(text, f"override '{override}'")
    try:
        tree = _copied(tree)
    except RecursionError:
        raise UserError(f"override '{override}': the config has an anchor within itself") from None
    spot: Any = tree
    for depth, part in enumerate(parts[:-1]):
        spot = _enter(spot, part, parts[: depth + 1], override)
    if isinstance(spot, list):
        spot[_index(spot, parts[-1], parts[:-1], override)] = value
    else:
        spot[parts[-1]] = value
    return tree


def _copied(node: Any) -> Any:
    """A copy in which nothing is shared: what YAML repeats by `*anchor` is overridden in one place
    alone."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(item) for item in node] if isinstance(node, list) else node


def _enter(spot: Any, part: str, path: list[str], override: str) -> Any:
    """The section or list under `part`, made or spelled out where needed."""
    name: Any = _index(spot, part, path[:-1], override) if isinstance(spot, list) else part
    inner = spot[name] if isinstance(spot, list) else spot.get(name)
    if inner is None:
        inner = {}
    elif isinstance(inner, str) and path[0] == "rounds":
        inner = {"name": inner}
    elif not isinstance(inner, dict | list):
        raise UserError(
            f"override '{override}': {'.'.join(path)} is {inner!r}, not a section; "
            "override it whole"
        )
    spot[name] = inner
    return inner


def _index(items: list[Any], part: str, path: list[str], override: str) -> int:
    where = ".".join(path)
    if not items:
        raise UserError(f"override '{override}': {where} is an empty list; override it whole")
    if not part.isdecimal() or int(part) >= len(items):
        raise UserError(
            f"override '{override}': {where}.{part}: {where} is a list; "
            f"give an index from 0 to {len(items) - 1}"
        )
    return int(part)
