"""Checks of assigners' settings, for those who build them in Python as for those who write YAML."""

from collections.abc import Sequence

from cosup.errors import UserError


def at_least(low: float, **settings: float) -> None:
    """`UserError` naming the first setting that is below `low` (or not a number)."""
    for name, value in settings.items():
        if not value >= low:
            raise UserError(f"{name}: {value}: must be at least {low:g}")


def above(low: float, **settings: float) -> None:
    """`UserError` naming the first setting that is not above `low`."""
    for name, value in settings.items():
        if not value > low:
            raise UserError(f"{name}: {value}: must be above {low:g}")


def one_of(allowed: Sequence[str], **settings: str) -> None:
    """`UserError` naming the first setting whose value isn't allowed."""
    for name, value in settings.items():
        if value not in allowed:
            raise UserError(f"{name}: '{value}': must be one of {', '.join(allowed)}")
