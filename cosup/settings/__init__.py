"""Settings of everything a config chooses by name, without torch or pydantic.

A registered class has its settings in a dataclass of its own, from which it inherits:
`class Gate(GateSettings, Assigner)`. Configs are checked against the dataclass, whose attribute
docstrings describe the keys; the class itself is imported only when it is built.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cosup.errors import UserError


class Settings:
    """Base of the settings of a registered class.

    Subclasses are dataclasses. `__post_init__` raises `UserError` for a value that is not allowed.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }


@dataclass(frozen=True)
class Entry:
    """A registered class.

    settings: the class with its settings and traits. implementation: where the class itself is
    imported from, as `module:Class`.
    """

    settings: type[Any]
    implementation: str

    @staticmethod
    def of(cls: type[Any]) -> "Entry":
        """Return the entry of a class that is its own settings."""
        return Entry(cls, _path(cls))

    def load(self) -> Any:
        """Import the class and return it."""
        if _path(self.settings) == self.implementation:
            return self.settings
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(module), name)


def registered_name(entries: Mapping[str, Entry], item: object) -> str:
    """Return the name under which the class of `item` is registered, or the name of its class."""
    path = _path(type(item))
    found = (name for name, entry in entries.items() if entry.implementation == path)
    return next(found, type(item).__name__)


def _path(cls: type[Any]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


MOST_ITERATIONS = 10_000
"""EM has converged long before, or never will."""
MOST_CLASSES = 1_000_000
"""More than any data set has."""
MOST_WEIGHT = 1e6
"""A term of a loss that weighs a million times as much as the other is alone."""
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e6
"""Beyond them float32 rounds the softmax to one class, or to equal shares."""


def between(low: float, high: float, **settings: float) -> None:
    """Raise `UserError` for the first setting that is not from `low` to `high`."""
    for name, value in settings.items():
        require(name, value, low <= value <= high, f"from {_number(low)} to {_number(high)}")


def temperature(**settings: float) -> None:
    """Raise `UserError` for the first setting that is no temperature of a softmax."""
    between(LEAST_TEMPERATURE, MOST_TEMPERATURE, **settings)


def share(**settings: float) -> None:
    """Raise `UserError` for the first setting that is not in 0 .. 1."""
    for name, value in settings.items():
        require(name, value, 0 <= value <= 1, "in 0 .. 1")


def positive_share(**settings: float) -> None:
    """Raise `UserError` for the first setting that is not above 0 and at most 1."""
    for name, value in settings.items():
        require(name, value, 0 < value <= 1, "above 0 and at most 1")


def one_of(allowed: Sequence[str], **settings: str) -> None:
    """Raise `UserError` for the first setting whose value is not allowed."""
    for name, value in settings.items():
        require(name, value, value in allowed, "one of " + ", ".join(map(repr, allowed)))


def require(name: str, value: object, condition: bool, allowed: str) -> None:
    """Raise `UserError` with the setting's name, its value and what is allowed, unless it holds."""
    if not condition:
        raise UserError("must be {allowed}", key=name, value=value, allowed=allowed)


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
