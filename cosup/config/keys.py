"""Every setting of a config by its dotted key: what is allowed, its default and what it does."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, get_origin

from pydantic_core import PydanticUndefined, to_jsonable_python

from cosup.config.schema import Config
from cosup.errors import MISSING, unknown_of_many
from cosup.registry import Registry
from cosup.sections import (
    Choice,
    Section,
    SettingType,
    allowed,
    is_section,
    item_of,
    members_of,
    settings_of,
)
from cosup.validation import setting_docs

__all__ = ["Setting", "choice_settings", "documented_settings", "settings_below"]

ITEM = "N"
"""Stands for an index in the key of a setting within a list."""


@dataclass(frozen=True)
class Setting:
    """One setting, as it is documented."""

    key: str
    allowed: str
    description: str
    required: bool
    default: Any = MISSING
    """Its default as plain values; `MISSING` if it must be given, if it depends on other settings,
    and for a section, whose settings have defaults of their own."""
    choice: str | None = None
    """The registered name that has this setting, such as `gate`; None for a setting that is always
    there."""
    chosen_by: str | None = None
    """The key under which that name is chosen, such as `rounds.assignment`."""


def settings_below(key: str = "") -> list[Setting]:
    """Return a setting with those below it, in the order of a config; all without a key.

    The settings of registered names are among them only if their choice itself is asked for
    (`rounds.assignment`). Raises `UserError` for an unknown key, with the nearest.
    """
    every = documented_settings()
    parts = [ITEM if part.isdecimal() else part for part in key.split(".") if part]
    wanted = ".".join(parts)
    if not wanted:
        return [one for one in every if one.choice is None]
    found = [one for one in every if _is_below(one.key, wanted) and one.choice is None]
    if not found:
        found = [one for one in every if one.key == wanted]
    if not found:
        keys = dict.fromkeys(one.key for one in every)
        raise unknown_of_many("key", key, keys, "a section or key that `cosup ls keys` lists")
    return found + [one for one in every if one.chosen_by == wanted]


@cache
def documented_settings() -> tuple[Setting, ...]:
    """Return every setting in the order of a config, with those of all registered names."""
    return tuple(_settings(Config, "", None))


def choice_settings(registry: Registry[Any], name: str, prefix: str = "") -> Iterator[Setting]:
    """Yield the settings of a registered name. prefix: what their keys begin with."""
    cls = registry.known()[name].settings
    types = settings_of(cls)
    for key, (text, default) in setting_docs(cls).items():
        yield Setting(
            key=f"{prefix}{key}",
            allowed=allowed(types[key]),
            description=" ".join(text.split()),
            required=default is ...,
            default=MISSING if default is ... else default,
            choice=name,
        )


def _settings(cls: type[Section], prefix: str, instance: Section | None) -> Iterator[Setting]:
    """Yield the settings of a section and of those within it. instance: its default."""
    types = settings_of(cls)
    for name, field in cls.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        setting = types[field.alias or name]
        value = getattr(instance, name) if instance is not None else field.default
        yield Setting(
            key=key,
            allowed=allowed(setting, with_keys=False),
            description=" ".join((field.description or _about(setting)).split()),
            required=field.is_required(),
            default=_plain(value),
        )
        for suffix, member in _members(setting):
            if is_section(member.annotation):
                inner = value if isinstance(value, member.annotation) else None
                yield from _settings(member.annotation, f"{key}{suffix}.", inner)
            elif member.annotation is Choice:
                yield from _of_choices(f"{key}{suffix}", member)


def _of_choices(key: str, setting: SettingType) -> Iterator[Setting]:
    registry = next(c for c in setting.constraints if isinstance(c, Registry))
    # The settings of a source stand beside it.
    prefix = "data." if key == "data.source" else f"{key}."
    for name in sorted(registry.known()):
        for one in choice_settings(registry, name, prefix):
            yield replace(one, chosen_by=key.removesuffix(f".{ITEM}"))


def _members(setting: SettingType) -> Iterator[tuple[str, SettingType]]:
    """Yield the types that a setting may have, those of a list's items with the key's suffix."""
    for member in members_of(setting):
        if get_origin(member.annotation) is list:
            for suffix, item in _members(item_of(member.annotation)):
                yield f".{ITEM}{suffix}", item
        else:
            yield "", member


def _about(setting: SettingType) -> str:
    """Return what the docstring of a section says, for a setting without a description."""
    sections = [member.annotation for _, member in _members(setting)]
    return next((cls.__doc__ or "" for cls in sections if is_section(cls)), "")


def _plain(default: Any) -> Any:
    """Return a default as plain values."""
    if default is PydanticUndefined or isinstance(default, Section):
        return MISSING
    return default.name if isinstance(default, Choice) else to_jsonable_python(default)


def _is_below(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")
