"""Registries: classes that a config chooses by name.

A registry holds cosup's own entries, from a literal dict beside the settings (`cosup.settings`),
and the entry points of installed packages. A config value `{name: gate, hard: true}` names an entry
and its settings. The settings are checked against a dataclass, and the class itself is imported
only when it is built.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

from cosup.errors import UserError, known_names, unknown_name, within
from cosup.sections import Choice
from cosup.settings import Entry
from cosup.validation import settings_schema, validate_settings

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Registered classes of one kind by name: those of cosup, and those of installed packages."""

    def __init__(
        self, kind: str, builtin: Mapping[str, Entry | type[T]], group: str | None = None
    ) -> None:
        self.kind = kind
        self.builtin = {name: _entry(item) for name, item in builtin.items()}
        self.group = group

    def known(self) -> dict[str, Entry]:
        """Return every entry, entry points included (a name of cosup's cannot be replaced)."""
        return {**_from_entry_points(self.group), **self.builtin}

    def entry(self, name: str) -> Entry:
        """Return the entry of this name; raise `UserError` with the nearest name if unknown."""
        if name in self.builtin:
            return self.builtin[name]
        known = self.known()
        if name not in known:
            raise unknown_name(self.kind, name, known)
        return known[name]

    def get(self, name: str) -> type[T]:
        """Import and return the class of this name; errors as for `entry`."""
        cls: type[T] = self.entry(name).load()
        return cls

    def build(self, choice: Choice, **extra: Any) -> T:
        """Build an object of the chosen class; `extra` fills fields that are not settings."""
        return self.get(choice.name)(**choice.settings, **extra)

    def settings(self, choice: Choice) -> Any:
        """Build the settings of a choice alone, without importing its class."""
        return self.entry(choice.name).settings(**choice.settings)

    def allowed(self) -> str:
        """Return the known names, in words."""
        return f"the name of one {self.kind} (known: {known_names(self.known())})"

    def check(self, value: Any) -> Choice:
        """Validate `"name"` or `{name: ..., setting: ...}`, and fill in the defaults.

        Raises `UserError` with every mistake.
        """
        if isinstance(value, Choice):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise UserError(
                f"must be the name of one {self.kind}, or {{name: ..., setting: ...}}",
                value=value,
                allowed=known_names(self.known()),
            )
        with within("name"):
            settings_class = self.entry(value["name"]).settings
        settings = {str(key): item for key, item in value.items() if key != "name"}
        return Choice(name=value["name"], settings=validate_settings(settings_class, settings))

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Let pydantic check a setting declared as `Annotated[Choice, registry]`."""
        return no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the JSON schema of what `check` accepts: a name, or a name with its settings."""
        names, objects = [], []
        for name, own in self.setting_schemas(handler).items():
            names.append({"const": name, "description": own.get("description", "")})
            named = {"const": name, "description": own.get("description", "")}
            objects.append(
                {
                    "type": "object",
                    "properties": {"name": named, **own.get("properties", {})},
                    "required": ["name", *own.get("required", ())],
                    "additionalProperties": False,
                }
            )
        return {"anyOf": [*names, *objects]}

    def setting_schemas(self, handler: GetJsonSchemaHandler) -> dict[str, JsonSchemaValue]:
        """Return the JSON schema of the settings of every known name."""
        return {
            name: handler.resolve_ref_schema(handler(settings_schema(entry.settings)))
            for name, entry in sorted(self.known().items())
        }


@cache
def _from_entry_points(group: str | None) -> dict[str, Entry]:
    found = entry_points(group=group) if group else ()
    return {point.name: _entry(point.load()) for point in found}


def _entry(item: Entry | type[T]) -> Entry:
    return item if isinstance(item, Entry) else Entry.of(item)
