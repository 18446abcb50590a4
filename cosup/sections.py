"""The base of config sections, and what a setting takes, in words: `a whole number above 0`."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_serializer
from pydantic.fields import FieldInfo

from cosup.secrets import mask

__all__ = [
    "Choice",
    "Described",
    "FileName",
    "Section",
    "SettingType",
    "allowed",
    "is_section",
    "item_of",
    "known_keys",
    "members_of",
    "nearest",
    "options_of",
    "settings_of",
]


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
"""A name that files and folders get. A file system takes 255 bytes; cosup adds to names."""


class Section(BaseModel):
    """A frozen group of settings. Unknown keys are errors; attribute docstrings describe keys.

    It is printed without the secrets that its settings may hold.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    later: ClassVar[tuple[str, ...]] = ()
    """Settings that were added after hashes of the section were stored."""

    @classmethod
    def known_keys(cls, value: object) -> list[str]:
        """Return the keys that are allowed in this section, given its content."""
        return list(settings_of(cls))

    def given(self, names: Iterable[str]) -> list[str]:
        """Return those of the named settings that differ from their default."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]

    @classmethod
    def elsewhere(cls, key: str) -> str:
        """Return what has an unknown key as a setting, in words; empty if nothing near has."""
        return ""

    def hashed(self) -> dict[str, Any]:
        """Return the settings as plain values for a hash: those that were added `later` only where
        they differ from their default, so that stored hashes hold."""
        tree = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Section):
                tree[name] = value.hashed()
            elif name in self.later and value == field.default:
                del tree[name]
        return tree

    def __repr__(self) -> str:
        return mask(super().__repr__())

    def __str__(self) -> str:
        return mask(super().__str__())


class Choice(BaseModel):
    """A registered name with all of its settings (defaults filled in)."""

    model_config = ConfigDict(frozen=True)

    name: str
    settings: dict[str, Any] = {}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.settings}


@runtime_checkable
class Described(Protocol):
    """Metadata of an annotated type that describes what is allowed."""

    def allowed(self) -> str:
        """Return what is allowed, in words."""


class SettingType(NamedTuple):
    """The type of a setting and its constraints."""

    annotation: Any
    constraints: tuple[Any, ...] = ()


def settings_of(cls: type[Any]) -> dict[str, SettingType]:
    """Return the settings of a section or dataclass, by the key they are written under."""
    if issubclass(cls, BaseModel):
        return {
            field.alias or name: SettingType(field.annotation, tuple(field.metadata))
            for name, field in cls.model_fields.items()
        }
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: _plain(SettingType(hints[f.name])) for f in dataclasses.fields(cls) if f.init}


def known_keys(cls: type[Any], value: Any) -> list[str]:
    """Return the keys of a section (which may depend on its content) or of a dataclass."""
    return cls.known_keys(value) if issubclass(cls, Section) else list(settings_of(cls))


def is_section(option: Any) -> bool:
    """Return whether a type is a group of settings with keys of their own."""
    if not isinstance(option, type) or issubclass(option, Choice):
        return False
    return issubclass(option, BaseModel) or dataclasses.is_dataclass(option)


def options_of(setting: SettingType) -> list[Any]:
    """Return the types of a union's members, or the type itself."""
    return [member.annotation for member in members_of(setting)]


def item_of(option: Any) -> SettingType:
    """Return the type of the items of a list, or of the values of a mapping."""
    arguments = [a for a in typing.get_args(option) if a is not Ellipsis]
    return _plain(SettingType(arguments[-1])) if arguments else SettingType(Any)


def allowed(setting: SettingType, with_keys: bool = True) -> str:
    """Return what a setting takes, in words: `a whole number above 0 or null`.

    with_keys: name the keys of a section.
    """
    texts = [
        _words(
            SettingType(option.annotation, (*option.constraints, *setting.constraints)), with_keys
        )
        for option in members_of(setting)
    ]
    return " or ".join(dict.fromkeys(texts))


def nearest(given: Any, setting: SettingType) -> list[str]:
    """Return the choice of a setting that is closest to a misspelt one, if there is one."""
    if not isinstance(given, str):
        return []
    choices = [
        str(choice)
        for option in options_of(setting)
        if typing.get_origin(option) is typing.Literal
        for choice in typing.get_args(option)
    ]
    return difflib.get_close_matches(given, choices, n=1, cutoff=0.6)


def _plain(setting: SettingType) -> SettingType:
    """Separate the type and the constraints of an `Annotated`."""
    annotation, constraints = setting
    while typing.get_origin(annotation) is typing.Annotated:
        annotation, *extra = typing.get_args(annotation)
        for entry in extra:
            constraints += tuple(entry.metadata) if isinstance(entry, FieldInfo) else (entry,)
    return SettingType(annotation, constraints)


def members_of(setting: SettingType) -> list[SettingType]:
    """Return a union's members, each with its own constraints, or the setting itself."""
    plain = _plain(setting)
    if typing.get_origin(plain.annotation) in (typing.Union, types.UnionType):
        return [_plain(SettingType(option)) for option in typing.get_args(plain.annotation)]
    return [plain]


def _words(setting: SettingType, with_keys: bool) -> str:
    option, constraints = _plain(setting)
    origin = typing.get_origin(option) or option
    if origin is typing.Literal:
        return _one_of([str(choice) for choice in typing.get_args(option)])
    if option is int or option is float:
        name = "a whole number" if option is int else "a number"
        return " ".join(filter(None, (name, _range(constraints))))
    if origin in (list, tuple):
        return f"a list{_many(constraints)} (each item: {allowed(item_of(option), with_keys)})"
    if origin is dict:
        return f"a mapping (each value: {allowed(item_of(option), with_keys)})"
    if option is str:
        return _text(constraints)
    if is_section(option):
        keys = f" with some of the keys {', '.join(settings_of(option))}" if with_keys else ""
        return f"a section{keys}"
    described = next((c for c in constraints if isinstance(c, Described)), None)
    if described is not None:
        return described.allowed()
    return _SIMPLE.get(option, "a value of type " + getattr(option, "__name__", str(option)))


def _text(constraints: tuple[Any, ...]) -> str:
    pattern = next((c.pattern for c in constraints if getattr(c, "pattern", None)), None)
    longest = _length(constraints, "max_length")
    return " ".join(
        [
            f"text of the form {pattern}" if pattern else "text",
            *([f"with at most {longest:,} characters"] if longest else ()),
        ]
    )


def _many(constraints: tuple[Any, ...]) -> str:
    """Return ` of at least 1 and at most 100` for the length of a list."""
    least, most = (_length(constraints, name) for name in ("min_length", "max_length"))
    words = [f"at least {least:,}" if least else "", f"at most {most:,}" if most else ""]
    many = " and ".join(filter(None, words))
    return f" of {many}" if many else ""


def _length(constraints: tuple[Any, ...], name: str) -> int | None:
    return next((getattr(c, name) for c in constraints if getattr(c, name, None)), None)


_SIMPLE: dict[Any, str] = {bool: "true or false", type(None): "null", Any: "any value"}


def _one_of(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"


def _range(constraints: tuple[Any, ...]) -> str:
    """Return `of at least 0 and below 1` for annotated-types constraints."""
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    limits = {
        name: _number(getattr(constraint, name))
        for name in words
        for constraint in constraints
        if getattr(constraint, name, None) is not None
    }
    if limits.keys() == {"ge", "le"}:
        return f"from {limits['ge']} to {limits['le']}"
    return " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
