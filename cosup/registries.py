"""The registries of assigners, filters, losses and refinement, and what is built from them."""

from typing import TYPE_CHECKING, Any, TypeVar

from cosup.errors import within
from cosup.registry import Registry
from cosup.settings.assigners import ASSIGNERS
from cosup.settings.filters import FILTERS
from cosup.settings.losses import LOSSES
from cosup.settings.refiners import REFINERS

if TYPE_CHECKING:
    from cosup.assignment import Assigner
    from cosup.consistency import Filter
    from cosup.losses import Loss
    from cosup.refinement import ProductRefinement

__all__ = ["Assigners", "Filters", "Losses", "Refiners", "build"]

T = TypeVar("T")

Assigners: "Registry[Assigner]" = Registry("assigner", ASSIGNERS, "cosup.assigners")
Filters: "Registry[Filter]" = Registry("consistency filter", FILTERS, "cosup.filters")
Losses: "Registry[Loss]" = Registry("loss", LOSSES, "cosup.losses")
Refiners: "Registry[ProductRefinement]" = Registry("refinement", REFINERS)


def build(registry: Registry[T], given: Any, argument: str) -> T:
    """Build the object that a name or `{"name": ..., setting: ...}` stands for, as in a config.

    Raises `UserError` with the argument's name and every mistake.
    """
    with within(argument):
        return registry.build(registry.check(given))
