"""All teachers together: the mean of the annotations, a plain ensemble.

One teacher annotates everything: the plain weak-to-strong setting.

A teacher drawn at random for each sample: what routing is worth is measured against it.

Assignment by the truth: what perfect routing would give. It sees true labels: never a result.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.errors import UserError, unknown_name
from cosup.evidence import Batches, Scopes, Truth
from cosup.seeds import seed_for
from cosup.settings.assigners import MeanSettings, OracleSettings, RandomSettings, SingleSettings


@dataclass
class Mean(MeanSettings, Assigner):
    """Equal weights over the teachers that answer."""

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """Weights [N, T], equal over the answering teachers of each sample."""
        answers = available(annotations).to(annotations.dtype)
        return answers / answers.sum(1, keepdim=True)


@dataclass
class Single(SingleSettings, Assigner):
    """Every sample goes to one teacher.

    Nobody steps in where that teacher abstains, since then it would no longer be the only one: the
    assigned annotation is empty there, and the consistency chain rejects the sample.
    """

    def check(self, scopes: Scopes) -> None:
        """`UserError` if the level has no such teacher."""
        self._index(scopes)

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """One-hot weights [N, T], the same row for all; `UserError` if there is no such teacher."""
        weights = torch.zeros_like(annotations[:, :, 0])
        weights[:, self._index(scopes)] = 1
        return weights

    def _index(self, scopes: Scopes) -> int:
        if self.teacher is not None:
            if self.teacher not in scopes.names:
                raise unknown_name("teacher", self.teacher, scopes.names)
            return scopes.names.index(self.teacher)
        if len(scopes) != 1:
            raise UserError(
                f"assigner single: the level has {len(scopes)} teachers; set 'teacher' to one of "
                f"{', '.join(scopes.names)}"
            )
        return 0


@dataclass
class Random(RandomSettings, Assigner):
    """Each sample goes to one of its answering teachers, all equally likely.

    The draw is a hash of the seed, the teacher's name and the sample's place: `fit` sets the seed
    and goes back to place 0, every `assign` moves on by the samples it was given. So neither the
    size of batches nor the order of teachers changes who gets what. Call `fit` before each pass
    that must give the same weights again.
    """

    def __post_init__(self) -> None:
        self.seed_ = 0
        self.place_ = 0

    def fit(
        self,
        batches: Batches,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Take up the seed and start again at the first sample; `batches` is not read."""
        self.seed_ = seed
        self.place_ = 0

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """One-hot weights [N, T] for the next N samples."""
        samples = len(annotations)
        place = torch.arange(self.place_, self.place_ + samples, device=annotations.device)
        self.place_ += samples
        streams = [seed_for(self.seed_, "random", name) for name in scopes.names]
        stream = torch.tensor(streams, dtype=torch.int64, device=annotations.device)
        draws = _uniform(_scramble(stream)[None, :] + place[:, None])
        return to_weights(draws, available(annotations), hard=True).to(annotations.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """The seed and the next sample's place."""
        return {"seed": torch.tensor(self.seed_), "place": torch.tensor(self.place_)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where `state_dict` was taken."""
        self.seed_ = int(state["seed"])
        self.place_ = int(state["place"])


def _uniform(keys: Tensor) -> Tensor:
    """Uniform float64 in [0, 1) from int64 keys."""
    return (_scramble(keys) >> 11 & (1 << 53) - 1).to(torch.float64) / (1 << 53)


def _scramble(keys: Tensor) -> Tensor:
    """SplitMix64's output function (Steele, Lea and Flood 2014) on int64, which wraps around."""
    z = keys * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    return z >> bits & (1 << 64 - bits) - 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


@dataclass
class Oracle(OracleSettings, Assigner):
    """ORACLE: sees the true class and domain, and sends a sample to those whose scope holds it.

    Where no answering teacher's scope holds the sample, or its class is unknown, all answering
    teachers count as holding it.
    """

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """Weights [N, T], equal over the holders (one-hot when hard); `UserError` without truth."""
        if truth is None:
            raise UserError("assigner oracle: no true labels were given; it needs 'truth'")
        answers = available(annotations)
        holders = scopes.hold(truth).to(answers.device) & answers
        holders |= answers & ~holders.any(1, keepdim=True)
        return to_weights(annotations.new_zeros(holders.shape), holders, self.hard)
