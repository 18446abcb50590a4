"""What a setting takes, in words, from its type: `a whole number above 0 or null`."""

import dataclasses
import difflib
import types
import typing
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WIDTH = 80


class Setting(NamedTuple):
    """The type of a setting and its constraints."""

    annotation: Any
    constraints: tuple[Any, ...] = ()


def fields(cls: type[Any]) -> dict[str, Setting]:
    """The settings of a section or dataclass, by the name they are written under."""
    if issubclass(cls, BaseModel):
        return {
            field.alias or name: Setting(field.annotation, tuple(field.metadata))
            for name, field in cls.model_fields.items()
        }
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: _plain(Setting(hints[f.name])) for f in dataclasses.fields(cls) if f.init}


def allowed(setting: Setting) -> str:
    """What a setting takes, in words: `a whole number above 0, or null`."""
    texts = [
        _words(Setting(option.annotation, (*option.constraints, *setting.constraints)))
        for option in _members(setting)
    ]
    return " or ".join(dict.fromkeys(texts))


def shown(value: Any) -> str:
    """A value as its author wrote it, cut where it is long."""
    text = {True: "true", False: "false", None: "null"}[value] if _is_word(value) else repr(value)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def is_section(option: Any) -> bool:
    from cosup.registry import Choice  # registry needs this module, and Choice explains itself

    if not isinstance(option, type) or issubclass(option, Choice):
        return False
    return issubclass(option, BaseModel) or dataclasses.is_dataclass(option)


def _plain(setting: Setting) -> Setting:
    """Take `Annotated` apart into the type and its constraints."""
    annotation, constraints = setting
    while typing.get_origin(annotation) is typing.Annotated:
        annotation, *extra = typing.get_args(annotation)
        for entry in extra:
            constraints += tuple(entry.metadata) if isinstance(entry, FieldInfo) else (entry,)
    return Setting(annotation, constraints)


def options_of(setting: Setting) -> list[Any]:
    """The types of a union's members, or the type itself."""
    return [member.annotation for member in _members(setting)]


def _members(setting: Setting) -> list[Setting]:
    """A union's members, each with its own constraints, or the setting itself."""
    plain = _plain(setting)
    if typing.get_origin(plain.annotation) in (typing.Union, types.UnionType):
        return [_plain(Setting(option)) for option in typing.get_args(plain.annotation)]
    return [plain]


def item_of(option: Any) -> Setting:
    """The type of the items of a list or of the values of a mapping."""
    arguments = [a for a in typing.get_args(option) if a is not Ellipsis]
    return _plain(Setting(arguments[-1])) if arguments else Setting(Any)


def _words(setting: Setting) -> str:
    option, constraints = _plain(setting)
    origin = typing.get_origin(option) or option
    if origin is typing.Literal:
        return _one_of([str(choice) for choice in typing.get_args(option)])
    if option is int or option is float:
        name = "a whole number" if option is int else "a number"
        return " ".join(filter(None, (name, _range(constraints))))
    if origin in (list, tuple):
        least = next((c.min_length for c in constraints if hasattr(c, "min_length")), None)
        many = f" of at least {least}" if least else ""
        return f"a list{many} (each item: {allowed(item_of(option))})"
    if origin is dict:
        return f"a mapping (each value: {allowed(item_of(option))})"
    if option is str:
        pattern = next((c.pattern for c in constraints if getattr(c, "pattern", None)), None)
        return f"text of the form {pattern}" if pattern else "text"
    if is_section(option):
        return f"a section with some of the keys {', '.join(fields(option))}"
    return _registered(constraints) or _SIMPLE.get(option, "a value of type " + _name(option))


def _registered(constraints: tuple[Any, ...]) -> str | None:
    """The words for a registered name: known to the registry that checks the setting."""
    from cosup.registry import Registry

    for constraint in constraints:
        registry = getattr(getattr(constraint, "func", None), "__self__", None)
        if isinstance(registry, Registry):
            return f"the name of one {registry.kind} (known: {', '.join(sorted(registry.known()))})"
    return None


_SIMPLE: dict[Any, str] = {bool: "true or false", type(None): "null", Any: "any value"}


def _name(option: Any) -> str:
    return getattr(option, "__name__", str(option))


def _one_of(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"


def _range(constraints: tuple[Any, ...]) -> str:
    """`of at least 0 and below 1`, from annotated-types constraints."""
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    limits = {
        name: f"{getattr(constraint, name):g}"
        for name in words
        for constraint in constraints
        if getattr(constraint, name, None) is not None
    }
    if limits.keys() == {"ge", "le"}:
        return f"from {limits['ge']} to {limits['le']}"
    return " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())


def nearest(given: Any, setting: Setting) -> str:
    """A hint for a misspelt choice."""
    choices = [
        str(choice)
        for option in options_of(setting)
        if typing.get_origin(option) is typing.Literal
        for choice in typing.get_args(option)
    ]
    near = difflib.get_close_matches(str(given), choices, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near and isinstance(given, str) else ""
