"""Places on an axis: round ticks, and the axis that fits some values."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from cosup.report.views import Axis
from cosup.report.words import missing, percent


class Scale:
    """Maps values from [low, high] to [0, 1], with round ticks between.

    write: the text of a tick, given its value and the step from tick to tick.
    """

    def __init__(
        self, low: float, high: float, write: Callable[[float, float], str], most: int = 6
    ):
        self.low, self.high = low, high
        self._write, self._most = write, most

    @classmethod
    def of_shares(cls, values: Iterable[float | None], zero: bool = False) -> "Scale":
        """Fits fractions, drawn in percent; starts at 0 where asked for or where near it."""
        known = [float(v) for v in values if v is not None and not missing(v)] or [0.0, 1.0]
        low, high = min(known), max(known)
        step = _step(max(high - low, 0.05), 5)
        low = 0.0 if zero or low < 0.25 * high else math.floor(low / step + 1e-9) * step
        high = min(max(1.0, high), math.ceil(high / step - 1e-9) * step)
        high = max(high, min(1.0, low + 2 * step))  # also where all are the same
        low = min(low, max(0.0, high - 2 * step))
        return cls(low, high, lambda v, step: percent(v, 0 if step >= 0.00999 else 1))

    @classmethod
    def of_numbers(cls, values: Iterable[float], most: int = 5, zero: bool = False) -> "Scale":
        """Fits any numbers."""
        known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(known), max(known)
        low = min(low, 0.0) if zero or 0 < low < 0.3 * high else low
        step = _step(max(high - low, 1e-9), most - 1)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(low, high, lambda v, step: f"{v:,.0f}" if step >= 0.9999 else f"{v:.3g}", most)

    def at(self, value: float) -> float:
        """The place of a value; what lies outside is put on the edge."""
        if self.high == self.low:
            return 0.5
        return round(min(1.0, max(0.0, (float(value) - self.low) / (self.high - self.low))), 4)

    def span(self, low: Any, high: Any) -> tuple[float, float] | None:
        """The places of an interval; None where a bound is missing."""
        if missing(low) or missing(high):
            return None
        return self.at(low), self.at(high)

    def axis(self, title: str = "") -> Axis:
        """The ticks."""
        step = _step(max(self.high - self.low, 1e-9), self._most - 1)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [index * step for index in range(first, last + 1)]
        return Axis([(self.at(value), self._write(value, step)) for value in values], title)


def _step(width: float, parts: int) -> float:
    """1, 2 or 5 times a power of ten, at most `parts` of it in width."""
    raw = width / max(parts, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
