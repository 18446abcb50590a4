"""Settings and traits of registered classes, importable without torch and without pydantic."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["Entry"]


@dataclass(frozen=True)
class Entry:
    """A registered class.

    settings: the class that holds its settings and traits. implementation: where the class itself
    is, as `module:Class`.
    """

    settings: type[Any]
    implementation: str

    def load(self) -> Any:
        """Import the implementation and return it."""
        module, _, name = self.implementation.partition(":")
        return getattr(import_module(module), name)
