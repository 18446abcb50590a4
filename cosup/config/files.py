"""YAML as configs use it: true and false are the only truth values, `1e-3` is a number, a key
given twice is a mistake.

The plain YAML 1.1 of PyYAML reads `no` as false, `1e-3` as text and `on:` as a key named true.
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
