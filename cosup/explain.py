"""Mistakes in settings, all at once, each as one line: what was given, and what is allowed.

pydantic finds the mistakes; the words are made from the types of the settings (`cosup.allowed`),
so that every line carries the whole of what is allowed, and the nearest name.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cosup.allowed import Setting, allowed, fields, is_section, item_of, nearest, options_of, shown
from cosup.errors import unknown_name

Mistake = tuple[tuple[str, ...], str]
"""Where a mistake stands (a key within keys, or an index of a list), and the line about it."""

_MISSING = object()


def find_mistakes(
    cls: type[Any], adapter: TypeAdapter[Any], value: Any
) -> tuple[Any, list[Mistake]]:
    """What `value` builds (None if anything is wrong), and every mistake in it.

    cls is a section (a pydantic model) or a dataclass of settings; adapter validates it.
    """
    unique = dict(_lookalikes(Setting(cls), value, ()))
    built, found = _validated(cls, adapter, value)
    for key, message in found:
        unique.setdefault(key, message)
    if dataclasses.is_dataclass(cls) and isinstance(value, Mapping):
        for key, message in _behind(cls, adapter, value, unique):
            unique.setdefault(key, message)
    return (None if unique else built), list(unique.items())


def _validated(cls: type[Any], adapter: TypeAdapter[Any], value: Any) -> tuple[Any, list[Mistake]]:
    try:
        return adapter.validate_python(value), []
    except ValidationError as error:
        return None, [line for item in error.errors() for line in _explain(cls, value, item)]


def _behind(
    cls: type[Any], adapter: TypeAdapter[Any], value: Mapping[str, Any], found: Mapping[Any, str]
) -> Iterator[Mistake]:
    """The mistakes that others hide: a dataclass's own check runs only once all types are right,
    and stops at the first it finds. What is wrong is left at its default, and the rest checked.
    """
    wrong = {key[0] for key in found if key}
    while wrong & value.keys():
        value = {name: item for name, item in value.items() if name not in wrong}
        _, more = _validated(cls, adapter, value)
        more = [(key, text) for key, text in more if not text.startswith("must be given")]
        yield from more
        wrong = {key[0] for key, _ in more if key}


def _explain(cls: type[Any], whole: Any, item: Any) -> Iterator[Mistake]:
    """The lines about one of pydantic's errors."""
    place = _walk(cls, whole, item["loc"])
    if place is None:
        return
    key, setting, parent, value = place
    kind, given = item["type"], item["input"]
    if kind == "cosup_mistakes":
        yield from (((*key, *inner), message) for inner, message in item["ctx"]["found"])
    elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
        yield key, str(unknown_name("key", key[-1], known_keys(parent[0], parent[1])))
    elif kind == "missing":
        yield key, f"must be given: {allowed(setting)}"
    elif kind in ("value_error", "assertion_error"):
        yield _of_setting(key, setting, str(item["ctx"]["error"]))
    else:
        given = given if value is _MISSING else value
        yield key, f"{shown(given)}: must be {allowed(setting)}{nearest(given, setting)}"


def _of_setting(key: tuple[str, ...], setting: Setting, message: str) -> Mistake:
    """A section's own message may begin with the setting it is about: `k: 0: at least 1`."""
    name, colon, rest = message.partition(": ")
    inner = setting.annotation
    if colon and is_section(inner) and name in fields(inner):
        return (*key, name), rest
    return key, message


def known_keys(cls: type[Any], value: Any) -> list[str]:
    """The keys of a section (which may depend on what stands in it) or of a dataclass."""
    hook = getattr(cls, "known_keys", None)
    keys: list[str] = hook(value) if hook else list(fields(cls))
    return keys


def _walk(
    cls: type[Any], value: Any, loc: Sequence[str | int]
) -> tuple[tuple[str, ...], Setting, tuple[type[Any], Any], Any] | None:
    """Follow pydantic's location: the key, its setting, the section around it and the value.

    Locations name the branches of unions, which no reader of a config knows; a branch is
    followed if it is the one that the value is meant for, and None tells to leave the error out.
    """
    key: list[str] = []
    setting, parent = Setting(cls), (cls, value)
    for part in loc:
        options = [o for o in options_of(setting) if o is not type(None)]
        if len(options) > 1:
            meant = _meant(options, value)
            if meant is None:
                break
            if not _is_branch(meant, str(part)):
                return None
            setting = Setting(meant)
            continue
        option = options[0] if options else Any
        if is_section(option):
            parent, setting = (option, value), fields(option).get(str(part), Setting(Any))
        else:
            setting = item_of(option)
        key.append(str(part))
        value = _inside(value, part)
    return tuple(key), setting, parent, value


def _inside(value: Any, part: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(part, _MISSING)
    if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
        return value[part]
    return _MISSING


def _meant(options: list[Any], value: Any) -> Any | None:
    """The option a container is meant for; None where the value fits the shape of none."""
    for option in options:
        shape = typing.get_origin(option) or option
        if isinstance(value, Mapping) and (is_section(option) or shape is dict):
            return option
        if isinstance(value, list | tuple) and shape in (list, tuple):
            return option
    return None


def _is_branch(option: Any, tag: str) -> bool:
    # A tag is the type's name, or holds it: `list[int]`, `function-after[check(), Shares]`.
    name = getattr(typing.get_origin(option) or option, "__name__", "")
    return re.search(rf"\b{re.escape(name)}\b", tag) is not None


def _lookalikes(setting: Setting, value: Any, key: tuple[str, ...]) -> Iterator[Mistake]:
    """What pydantic lets pass: true where a number belongs, numbers that aren't finite."""
    options = options_of(setting)
    if isinstance(value, Mapping):
        for option in filter(is_section, options):
            inner = fields(option)
            for name, item in value.items():
                if name in inner:
                    yield from _lookalikes(inner[name], item, (*key, str(name)))
    elif isinstance(value, list):
        for option in options:
            if typing.get_origin(option) in (list, tuple):
                for index, item in enumerate(value):
                    yield from _lookalikes(item_of(option), item, (*key, str(index)))
    elif _is_odd_number(value) and {int, float} & set(options) and not {bool, Any} & set(options):
        finite = "" if isinstance(value, bool) else ", and finite"
        yield key, f"{shown(value)}: must be {allowed(setting)}{finite}"


def _is_odd_number(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value))
