"""The base of every config section.

Registries: a literal dict `NAME -> class` beside the classes, third parties' entry points, and
the config value `{name: gate, hard: true}` that names an entry and its settings.

A registered class is a dataclass whose fields are its settings; an attribute docstring describes
each. pydantic checks the settings against the fields, so an assigner needs no pydantic itself.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_serializer
from pydantic_core import PydanticCustomError

from cosup.errors import UserError, unknown_name
from cosup.settings import Entry
from cosup.validation import Mistake, find_mistakes
from cosup.words import literal


class Section(BaseModel):
    """A frozen group of settings: unknown keys are mistakes, attribute docstrings describe keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    @classmethod
    def known_keys(cls, value: object) -> list[str]:
        """The keys that may stand in this section, given what does stand in it."""
        return [field.alias or name for name, field in cls.model_fields.items()]


class Choice(BaseModel):
    """A registered name with its settings, all of them (defaults filled in)."""

    model_config = ConfigDict(frozen=True)

    name: str
    settings: dict[str, Any] = {}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.settings}


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

    def check(self, value: Any) -> Choice:
        """Validate `"name"` or `{name: ..., setting: ...}` and fill in the defaults.

        Made for a pydantic `BeforeValidator`: raises `PydanticCustomError`, whose context carries
        every mistake found, each with the key it stands under.
        """
        if isinstance(value, Choice):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise mistakes(
                [
                    (
                        (),
                        f"{literal(value)}: give the name of one {self.kind}, or "
                        f"{{name: ..., setting: ...}} (known: {', '.join(sorted(self.known()))})",
                    )
                ]
            )
        try:
            cls = self.entry(value["name"]).settings
        except UserError as error:
            raise mistakes([(("name",), str(error))]) from None
        settings = {str(key): item for key, item in value.items() if key != "name"}
        return Choice(name=value["name"], settings=check_settings(cls, settings))


def check_settings(cls: type[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Validate settings against a dataclass's fields; the settings with defaults filled in."""
    adapter = _adapter(cls)
    built, found = find_mistakes(cls, adapter, settings)
    if found:
        raise mistakes(found)
    dumped: dict[str, Any] = adapter.dump_python(built, mode="json")
    return {name: dumped[name] for name in setting_names(cls)}


def setting_names(cls: type[Any]) -> list[str]:
    """The names of a dataclass's settings, in the order they are written."""
    return [field.name for field in fields(cls) if field.init]


def setting_docs(cls: type[Any]) -> dict[str, tuple[str, Any]]:
    """For each setting its description and its default (`...` where it must be given)."""
    properties = _adapter(cls).json_schema().get("properties", {})
    return {
        name: (item.get("description", ""), item.get("default", ...))
        for name, item in properties.items()
    }


def mistakes(found: list[Mistake]) -> PydanticCustomError:
    """A pydantic error that carries several (key, message) pairs to the config's error report."""
    text = "; ".join(": ".join(filter(None, (".".join(key), message))) for key, message in found)
    return PydanticCustomError("cosup_mistakes", "{text}", {"text": text, "found": found})


def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


@cache
def _from_entry_points(group: str | None) -> dict[str, Entry]:
    found = entry_points(group=group) if group else ()
    return {point.name: _entry(point.load()) for point in found}


def _entry(item: Entry | type[T]) -> Entry:
    return item if isinstance(item, Entry) else Entry.of(item)
