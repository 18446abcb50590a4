"""Scores of predictions, assignments and filters, with intervals, comparisons and tests.

Arrays are NumPy arrays or CPU tensors. A label of -1 is unknown and not counted. A share of no
samples is nan.
"""

from cosup.metrics.intervals import (
    Comparison,
    Shares,
    holm,
    lower_bound,
    mcnemar,
    no_gap,
    paired_comparison,
    pgr_interval,
    ratio_intervals,
    resampled_means,
    shares,
    wilson,
)
from cosup.metrics.over_seeds import OverSeeds, over_seeds, spread, t_975
from cosup.metrics.scores import (
    accuracy,
    agreement,
    assignment_accuracy,
    brier,
    effective_teachers,
    expected_calibration_error,
    kappa,
    kept_precision,
    kept_recall,
    negative_log_likelihood,
    per_group_accuracy,
    pgr,
)

__all__ = [
    "Comparison",
    "OverSeeds",
    "Shares",
    "accuracy",
    "agreement",
    "assignment_accuracy",
    "brier",
    "effective_teachers",
    "expected_calibration_error",
    "holm",
    "kappa",
    "kept_precision",
    "kept_recall",
    "lower_bound",
    "mcnemar",
    "negative_log_likelihood",
    "no_gap",
    "over_seeds",
    "paired_comparison",
    "per_group_accuracy",
    "pgr",
    "pgr_interval",
    "ratio_intervals",
    "resampled_means",
    "shares",
    "spread",
    "t_975",
    "wilson",
]


def __dir__() -> list[str]:
    return __all__
