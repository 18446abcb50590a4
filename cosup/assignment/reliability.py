"""How far each source can be trusted, as `fused` estimates it without true labels."""

from dataclasses import dataclass

from torch import Tensor

from cosup.assignment.likelihood import Groups


@dataclass(frozen=True)
class Reliability:
    """Expected answers of S sources: the T teachers of a level and, if it is one, the student.

    names: [S]; the student is "student". regions: [R], names of the specialists that speak in a
    region, joined by " + ", numbers of domains, or "all". right, total: [S, R, C] float64, expected
    right answers and all answers, by region and true class; their sums are numbers of samples.
    given: [S, C] float64, how often each class was answered. soft: [S], read by probabilities.
    exponents: [S], 1 where none is fitted. groups: the sources that err together.

    Divide sums of `right` by sums of `total`: `right.sum((1, 2)) / total.sum((1, 2))` is the share
    of right answers where a source answered.
    """

    names: tuple[str, ...]
    regions: tuple[str, ...]
    right: Tensor
    total: Tensor
    given: Tensor
    soft: tuple[bool, ...]
    exponents: tuple[float, ...]
    groups: Groups

    def overall(self) -> Tensor:
        """Return the share [S] of answers that are right; nan without answers."""
        return self.right.sum((1, 2)) / self.total.sum((1, 2))

    def by_region(self) -> Tensor:
        """Return the share [S, R] of right answers in each region; nan without answers."""
        return self.right.sum(2) / self.total.sum(2)

    def by_class(self) -> Tensor:
        """Return the share [S, C] of right answers for each true class; nan without answers."""
        return self.right.sum(1) / self.total.sum(1)
