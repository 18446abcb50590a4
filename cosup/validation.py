"""Validate settings with pydantic, and find every mistake in them, each with what is allowed.

pydantic finds the mistakes. Their descriptions are made from the types of the settings
(`cosup.sections`), so that each states what is allowed, and the nearest name.
"""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic_core import CoreSchema

from cosup.errors import UserError, raise_all
from cosup.sections import (
    Section,
    SettingType,
    allowed,
    is_section,
    item_of,
    known_keys,
    nearest,
    options_of,
    settings_of,
)

__all__ = [
    "MissingKey",
    "UnknownKey",
    "find_mistakes",
    "setting_docs",
    "setting_names",
    "settings_schema",
    "validate_settings",
]

MOST_MISTAKES = 100
"""Nobody corrects more at a time, and each is looked up among the known names."""
LARGEST = 3.4e38
"""Beyond it a float32 is infinite."""
_ABSENT = object()


class MissingKey(UserError):
    """A setting that must be given is missing."""


class UnknownKey(UserError):
    """A key that its section does not have, perhaps misspelt (`nearest`)."""


def find_mistakes(cls: type[Any], value: Any) -> tuple[Any, list[UserError]]:
    """Build a section or a dataclass of settings, and find every mistake in `value`.

    Returns what was built (None if there is a mistake) and the mistakes; at most one per key, and
    the first hundreds of them.
    """
    unique: dict[tuple[str, ...], UserError] = {}
    for error in islice(_not_numbers(SettingType(cls), value, ()), MOST_MISTAKES):
        unique.setdefault(error.key, error)
    built, found = _validated(cls, value)
    for error in found:
        unique.setdefault(error.key, error)
    if dataclasses.is_dataclass(cls) and isinstance(value, Mapping):
        for error in _hidden(cls, value, unique):
            unique.setdefault(error.key, error)
    return (None if unique else built), list(unique.values())


def validate_settings(cls: type[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Validate settings against the fields of a dataclass, and fill in the defaults.

    Raises `UserError` with every mistake.
    """
    built, found = find_mistakes(cls, settings)
    raise_all(found)
    dumped: dict[str, Any] = _adapter(cls).dump_python(built, mode="json")
    return {name: dumped[name] for name in setting_names(cls)}


def setting_names(cls: type[Any]) -> list[str]:
    """Return the names of a dataclass's settings, in the order of the class."""
    return [field.name for field in dataclasses.fields(cls) if field.init]


def setting_docs(cls: type[Any]) -> dict[str, tuple[str, Any]]:
    """Return each setting's description and its default (`...` if it must be given)."""
    properties = _adapter(cls).json_schema().get("properties", {})
    made = {  # defaults that a JSON schema lacks
        field.name: field.default_factory()
        for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    return {
        name: (item.get("description", ""), item.get("default", made.get(name, ...)))
        for name, item in properties.items()
    }


def settings_schema(cls: type[Any]) -> CoreSchema:
    """Return pydantic's schema of a section or a dataclass of settings."""
    schema: CoreSchema = _adapter(cls).core_schema
    return schema


def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _validated(cls: type[Any], value: Any) -> tuple[Any, list[UserError]]:
    try:
        return _adapter(cls).validate_python(value), []
    except ValidationError as error:
        # A default that depends on other settings is not made if these have mistakes.
        found = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
        mistakes = (mistake for item in found for mistake in _mistakes(cls, value, item))
        return None, list(islice(mistakes, MOST_MISTAKES))


def _hidden(
    cls: type[Any], value: Mapping[str, Any], found: Mapping[tuple[str, ...], UserError]
) -> Iterator[UserError]:
    """Find the mistakes that others hide.

    A dataclass's own check runs only when all types are right, and stops at its first mistake. So
    settings with a mistake are left at their defaults, and the others are checked again.
    """
    wrong = {key[0] for key in found if key}
    while wrong & value.keys():
        value = {name: item for name, item in value.items() if name not in wrong}
        _, more = _validated(cls, value)
        more = [error for error in more if not isinstance(error, MissingKey)]
        yield from more
        wrong = {error.key[0] for error in more if error.key}


def _mistakes(cls: type[Any], whole: Any, item: Any) -> Iterator[UserError]:
    """Translate one of pydantic's errors."""
    place = _follow(cls, whole, item["loc"])
    if place is None:
        return
    key, setting = place.key, place.setting
    kind = item["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = known_keys(place.section, place.content)
        of = place.section.elsewhere(key[-1]) if issubclass(place.section, Section) else ""
        near = [] if of else difflib.get_close_matches(key[-1], known, n=1, cutoff=0.5)
        yield UnknownKey(
            f"unknown key {{value}}, a setting of {of}" if of else "unknown key {value}",
            key=key,
            value=key[-1],
            allowed=", ".join(sorted(known)),
            nearest=near,
        )
    elif kind == "missing":
        yield MissingKey("must be given: {allowed}", key=key, allowed=allowed(setting))
    elif kind in ("value_error", "assertion_error"):
        error = item["ctx"]["error"]
        own = error.errors if isinstance(error, UserError) else [UserError(str(error))]
        yield from (mistake.moved(key) for mistake in own)
    else:
        given = item["input"] if place.value is _ABSENT else place.value
        yield UserError(
            "must be {allowed}",
            key=key,
            value=given,
            allowed=allowed(setting),
            nearest=nearest(given, setting),
        )


class _Place(NamedTuple):
    """A key with its setting and value, and the section around it with its content."""

    key: tuple[str, ...]
    setting: SettingType
    value: Any
    section: type[Any]
    content: Any


def _follow(cls: type[Any], value: Any, location: Sequence[str | int]) -> _Place | None:
    """Follow pydantic's location.

    Locations also name the branches of unions, which are no part of a key. A branch is followed if
    the value is meant for it; the result is None, and the error ignored, if it is not.
    """
    key: list[str] = []
    setting = SettingType(cls)
    section, content = cls, value
    for part in location:
        options = [option for option in options_of(setting) if option is not type(None)]
        if len(options) > 1:
            meant = _meant(options, value)
            if meant is None:
                break
            if not _is_branch(meant, str(part)):
                return None
            setting = SettingType(meant)
            continue
        option = options[0] if options else Any
        if is_section(option):
            section, content = option, value
            setting = settings_of(option).get(str(part), SettingType(Any))
        else:
            setting = item_of(option)
        key.append(str(part))
        value = _item(value, part)
    return _Place(tuple(key), setting, value, section, content)


def _item(value: Any, part: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(part, _ABSENT)
    if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
        return value[part]
    return _ABSENT


def _meant(options: list[Any], value: Any) -> Any | None:
    """Return the option that a container is meant for; None if the value has no option's shape."""
    for option in options:
        shape = typing.get_origin(option) or option
        if isinstance(value, Mapping) and (is_section(option) or shape is dict):
            return option
        if isinstance(value, list | tuple) and shape in (list, tuple):
            return option
    return None


def _is_branch(option: Any, tag: str) -> bool:
    # A tag is the type's name, or contains it: `list[int]`, `function-after[check(), Shares]`.
    name = getattr(typing.get_origin(option) or option, "__name__", "")
    return re.search(rf"\b{re.escape(name)}\b", tag) is not None


def _not_numbers(setting: SettingType, value: Any, key: tuple[str, ...]) -> Iterator[UserError]:
    """Find what pydantic accepts as a number, and nothing can compute with: true and false,
    infinity and NaN, whole numbers beyond 64 bits, and others beyond float32."""
    options = options_of(setting)
    if isinstance(value, Mapping):
        for option in filter(is_section, options):
            inner = settings_of(option)
            for name, item in value.items():
                if name in inner:
                    yield from _not_numbers(inner[name], item, (*key, str(name)))
    elif isinstance(value, list):
        for option in options:
            if typing.get_origin(option) in (list, tuple):
                for index, item in enumerate(value):
                    yield from _not_numbers(item_of(option), item, (*key, str(index)))
    elif _is_odd_number(value) and {int, float} & set(options) and not {bool, Any} & set(options):
        limit = {bool: "", int: ", and within 64 bits", float: ", and finite in float32"}[
            type(value)
        ]
        yield UserError("must be {allowed}", key=key, value=value, allowed=allowed(setting) + limit)


def _is_odd_number(value: Any) -> bool:
    if type(value) is int:
        return not -(2**63) <= value < 2**63
    return type(value) is bool or (type(value) is float and not abs(value) <= LARGEST)
