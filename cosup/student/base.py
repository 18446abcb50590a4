"""The contract of students."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from cosup.probabilities import ProbTable


class Student(ABC):
    """Learns from weighted targets and predicts. `inputs` is what it reads, a row per sample."""

    @abstractmethod
    def update(self, inputs: Tensor, targets: ProbTable, weights: Tensor) -> None:
        """Train on inputs [N, ...] with targets over N samples and weights [N] (0: left out).

        Raises `RunError` when the loss is no longer finite.
        """

    @abstractmethod
    def predict(self, inputs: Tensor) -> ProbTable:
        """Class probabilities of samples it did not train on."""

    @abstractmethod
    def predict_own(self, inputs: Tensor) -> ProbTable:
        """Class probabilities of the samples it was updated with (cross-fitted where set)."""

    @abstractmethod
    def fit_parts(
        self, inputs: Tensor, targets: ProbTable, members: Sequence[Tensor]
    ) -> "PartPredictor":
        """Train one student like this per set of rows, all together; this one stays as it is."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Everything `load_state_dict` needs to predict alike."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the state that `state_dict` gave."""


class PartPredictor(ABC):
    """Students trained together on sets of rows (`fit_parts`)."""

    @abstractmethod
    def predict(self, part: int, inputs: Tensor) -> ProbTable:
        """Class probabilities by the student of this set."""
