"""Checks of losses' settings: each raises `UserError` with the setting, its value and the range."""

import math

from cosup.errors import UserError


def check_positive(settings: object, *names: str) -> None:
    """The named settings are finite numbers greater than 0."""
    for name in names:
        value = getattr(settings, name)
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name}: {value}: must be greater than 0 and finite")


def check_weights(settings: object, *names: str) -> None:
    """The named settings are finite numbers, 0 or more."""
    for name in names:
        value = getattr(settings, name)
        if not (value >= 0 and math.isfinite(value)):
            raise UserError(f"{name}: {value}: must be 0 or more, and finite")


def check_shares(settings: object, *names: str) -> None:
    """The named settings are in 0 .. 1."""
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise UserError(f"{name}: {value}: must be in 0 .. 1")


def ramped(progress: float, ramp: float) -> float:
    """0 at the start, rising linearly to 1 at the share `ramp` of the training, and 1 from there.

    A ramp of 0 is 1 throughout.
    """
    return min(1.0, progress / ramp) if ramp > 0 else 1.0
