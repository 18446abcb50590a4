"""Dotted overrides: `rounds.consistency.0.k=5`."""

from typing import Any

from cosup.config.files import parse_yaml
from cosup.errors import UserError


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
