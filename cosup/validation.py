"""What a setting takes, in words, from its type: `a whole number above 0 or null`.

Mistakes in settings, all at once, each as one line: what was given, and what is allowed.

pydantic finds the mistakes; the words are made from the types of the settings (`cosup.validation`),
so that every line carries the whole of what is allowed, and the nearest name.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from cosup.errors import unknown_name
from cosup.words import literal


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
        yield key, f"{literal(given)}: must be {allowed(setting)}{nearest(given, setting)}"


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
        yield key, f"{literal(value)}: must be {allowed(setting)}{finite}"


def _is_odd_number(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value))
