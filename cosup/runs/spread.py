"""Mean, deviation and interval of a number over seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

Z_975 = 1.959963985
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, sample deviation and 95 % interval (Student's t) of the values that are there.

    `{"mean", "deviation", "ci95", "values"}`; deviation and interval are None for fewer than two.
    """
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return {"mean": None, "deviation": None, "ci95": None, "values": list(values)}
    mean = statistics.fmean(found)
    if len(found) < 2:
        return {"mean": mean, "deviation": None, "ci95": None, "values": list(values)}
    deviation = statistics.stdev(found)
    half = t_975(len(found) - 1) * deviation / math.sqrt(len(found))
    return {
        "mean": mean,
        "deviation": deviation,
        "ci95": [mean - half, mean + half],
        "values": list(values),
    }


def t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; beyond the table by its expansion in 1 / degrees
    (Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5)."""
    if degrees <= len(T_975):
        return T_975[degrees - 1]
    z, n = Z_975, degrees
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3
