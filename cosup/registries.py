"""The registries of assigners, filters and losses, and objects built from what a user gives."""

from typing import TYPE_CHECKING, Any, TypeVar

from cosup.errors import within
from cosup.registry import Registry
from cosup.settings.assigners import ASSIGNERS
from cosup.settings.filters import FILTERS
from cosup.settings.losses import LOSSES

if TYPE_CHECKING:
    from cosup.assignment import Assigner
    from cosup.consistency import Filter
    from cosup.losses import Loss

__all__ = ["Assigners", "Filters", "Losses", "build"]

T = TypeVar("T")

Assigners: "Registry[Assigner]" = Registry("assigner", ASSIGNERS, "cosup.assigners")
Filters: "Registry[Filter]" = Registry("consistency filter", FILTERS, "cosup.filters")
Losses: "Registry[Loss]" = Registry("loss", LOSSES, "cosup.losses")


def build(registry: Registry[T], given: Any, argument: str) -> T:
    """Build the object that a name or `{"name": ..., setting: ...}` stands for, as in a config.

    Raises `UserError` with the argument's name and every mistake.
    """
    with within(argument):
        return registry.build(registry.check(given))
