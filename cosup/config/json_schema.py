"""The JSON schema of configs as they are written, with which editors complete and check them.

It is pydantic's, in draft 7, which editors know best: sections describe themselves, registries
their names with settings, and validators the short forms that they accept. A config with `base`
need not be complete, so for one no key is required.
"""

from collections.abc import Callable
from typing import Any

from cosup.config.bases import BASE
from cosup.config.schema import Config

__all__ = ["config_schema"]

DRAFT = "http://json-schema.org/draft-07/schema#"
PARTIAL = "Partial"
"""The end of the names of definitions in which no key is required."""


def config_schema() -> dict[str, Any]:
    """Return the schema of a config file (YAML's keys that are numbers count as text)."""
    whole = _mapped(Config.model_json_schema(), _in_draft_7)
    definitions = whole.pop("$defs")
    whole["properties"] = {
        BASE: {"type": "string", "description": "Extend another config: its file, or its name."},
        **whole["properties"],
    }
    every = {**definitions, "Config": whole}
    partial = {f"{name}{PARTIAL}": _mapped(item, _incomplete) for name, item in every.items()}
    return {
        "$schema": DRAFT,
        "title": "cosup config",
        "type": "object",
        "if": {"required": [BASE]},
        "then": {"$ref": f"#/$defs/Config{PARTIAL}"},
        "else": {"$ref": "#/$defs/Config"},
        "$defs": {**every, **partial},
    }


def _mapped(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a copy of a schema in which every schema within it is changed."""
    if isinstance(node, list):
        return [_mapped(item, change) for item in node]
    if not isinstance(node, dict):
        return node
    changed = change(node)
    return {
        # What `properties` holds are names, which are no keywords.
        key: {name: _mapped(one, change) for name, one in item.items()}
        if key in ("properties", "$defs")
        else item
        if key in ("default", "const", "enum")
        else _mapped(item, change)
        for key, item in changed.items()
    }


def _in_draft_7(schema: dict[str, Any]) -> dict[str, Any]:
    """Leave out what repeats names and defaults of whole sections, and write tuples as lists."""
    kept = {key: item for key, item in schema.items() if key not in ("title", "discriminator")}
    if isinstance(kept.get("default"), dict):
        del kept["default"]
    if "description" in kept:
        kept["description"] = " ".join(kept["description"].split())
    if "prefixItems" in kept:
        kept["items"] = {"anyOf": kept.pop("prefixItems")}
    return kept


def _incomplete(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {key: item for key, item in schema.items() if key != "required"}
    if "$ref" in kept:
        kept["$ref"] += PARTIAL
    return kept
