"""Read and write the YAML of configs, and apply dotted overrides (`rounds.consistency.0.k=5`).

In a config only true and false are booleans, `1e-3` is a number, and a key given twice is an error.
PyYAML's YAML 1.1 reads `no` as false, `1e-3` as text and `on:` as a key named true.
"""

import copy
import re
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, NamedTuple

import yaml

from cosup.errors import UserError, about, in_short
from cosup.secrets import mask
from cosup.words import shorten

MOST_VALUES = 100_000
MOST_LEVELS = 50
"""Limits of a config: a matrix of 300 classes is within, and no section is ten levels deep."""
_TAGS = (None, "!", "tag:yaml.org,2002:str")

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


class _Extent(NamedTuple):
    """The values in a node and the levels that they are nested in, with aliases written out."""

    values: int
    levels: int


class _Loader(yaml.SafeLoader):
    """Reads plain values within limits, as a few aliases of aliases stand for billions of values.

    Values are counted with aliases written out, before any is made.
    """

    yaml_implicit_resolvers = _resolvers()

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._level = self._deepest = 0
        self._extents: dict[yaml.Node, _Extent] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            known: Any = super().compose_node(parent, index)
            self._grow(self._extent_of(known, event), event)
            return known
        values, deepest = self._values, self._deepest
        self._deepest = self._level
        self._grow(_Extent(1, 1), event)
        self._level += 1
        node: Any = super().compose_node(parent, index)
        self._level -= 1
        self._extents[node] = _Extent(self._values - values, self._deepest - self._level)
        self._deepest = max(deepest, self._deepest)
        return node

    def _extent_of(self, node: yaml.Node, alias: Any) -> _Extent:
        if node not in self._extents:  # it is not complete yet
            raise _error("an anchor within itself", alias)
        return self._extents[node]

    def _grow(self, extent: _Extent, event: Any) -> None:
        """Count a node that begins or is repeated here; raise an error beyond the limits."""
        self._values += extent.values
        self._deepest = max(self._deepest, self._level + extent.levels)
        if self._values > MOST_VALUES:
            raise _error(f"more than {MOST_VALUES:,} values (each alias counted in full)", event)
        if self._deepest > MOST_LEVELS:
            raise _error(f"nested in more than {MOST_LEVELS} levels", event)
        if getattr(event, "tag", None) not in _TAGS:
            raise _error(f"the tag {event.tag}; a config holds plain values alone", event)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                raise _error(f"'{name}' is given twice (first in line {seen[name]})", key)
            seen[name] = line
        return super().construct_mapping(node, deep)


def _error(problem: str, at: Any) -> yaml.MarkedYAMLError:
    """Return an error about an event or a node of PyYAML's."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True


@lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    """Return the content of a YAML text; a run reads its config several times, and PyYAML takes a
    tenth of a second for it."""
    return yaml.load(text, _Loader)


def parse_yaml(text: str, where: str) -> Any:
    """Return the content of a YAML text.

    Raises `UserError` with `where`, the line and the column if the text is not valid.
    """
    try:
        return copy.deepcopy(_parsed(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UserError(f"not valid YAML: {error.problem}", where=f"{where}{at}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"not valid YAML: {in_short(error)}", where=where) from None


def to_yaml(tree: Any) -> str:
    """Return YAML that `parse_yaml` reads as the same tree, with the keys in the order given."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def to_line(value: Any) -> str:
    """Write a value as YAML in one line, for `parse_yaml`."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        sort_keys=False,
        width=10**6,
        allow_unicode=True,
    )
    return text.removesuffix("...\n").strip()


def describe_content(tree: Any) -> str:
    """Describe the content of a file that is not a mapping."""
    return "empty" if tree is None else f"contains a {type(tree).__name__}"


def apply_override(tree: dict[str, Any], override: str) -> dict[str, Any]:
    """Return a copy of the tree with `section.key=value` set; the value is read as YAML.

    Sections that are missing on the way are created (the check of the whole config reports those
    that do not exist). A list is entered by index. Within `rounds`, a bare name on the way
    (`assignment: gate`) becomes `{name: gate}`, so that its settings can be overridden.
    """
    where = f"override '{shorten(mask(override), 200)}'"
    with about(where):
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) > MOST_LEVELS:
            raise UserError("write it as section.key=value")
    value = parse_yaml(text, where)
    with about(where):
        tree = _copied(tree)
        spot: Any = tree
        for depth, part in enumerate(parts[:-1]):
            spot = _enter(spot, part, parts[: depth + 1])
        if isinstance(spot, list):
            spot[_index(spot, parts[-1], parts[:-1])] = value
        else:
            spot[parts[-1]] = value
    return tree


def _copied(node: Any) -> Any:
    """Copy a tree so that nothing is shared: an override changes one place, even where YAML repeats
    a part by `*anchor`."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(item) for item in node] if isinstance(node, list) else node


def _enter(spot: Any, part: str, path: list[str]) -> Any:
    """Return the section or list under `part`; create or expand it where needed."""
    name: Any = _index(spot, part, path[:-1]) if isinstance(spot, list) else part
    inner = spot[name] if isinstance(spot, list) else spot.get(name)
    if inner is None:
        inner = {}
    elif isinstance(inner, str) and path[0] == "rounds":
        inner = {"name": inner}
    elif not isinstance(inner, dict | list):
        raise UserError("not a section; override it whole", key=path, value=inner)
    spot[name] = inner
    return inner


def _index(items: list[Any], part: str, path: list[str]) -> int:
    if not items:
        raise UserError("an empty list; override it whole", key=path)
    if not part.isdecimal() or int(part) >= len(items):
        raise UserError(
            f"{'.'.join(path)} is a list; give an index",
            key=(*path, part),
            allowed=f"0 to {len(items) - 1}",
        )
    return int(part)
