"""Baseline assigners: one teacher, the mean of all, a random teacher, and two oracles."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.errors import UserError, unknown_name
from cosup.evidence import Batches, Evidence, Scopes
from cosup.seeds import seed_for
from cosup.settings.assigners import (
    LossOracleSettings,
    MeanSettings,
    OracleSettings,
    RandomSettings,
    SingleSettings,
)


@dataclass
class Mean(MeanSettings, Assigner):
    """Give equal weights to the teachers that answer: a plain ensemble."""

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return weights [N, T], equal over the answering teachers of each sample."""
        answers = available(evidence.annotations).to(evidence.annotations.dtype)
        return answers / answers.sum(1, keepdim=True)


@dataclass
class Single(SingleSettings, Assigner):
    """Assign every sample to one teacher: the plain weak-to-strong setting.

    Where that teacher abstains no other one is used; the assigned annotation is empty there, and
    the filters reject the sample.
    """

    def check(self, scopes: Scopes) -> None:
        """Raise `UserError` if the level has no such teacher."""
        self._index(scopes)

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return one-hot weights [N, T], all rows alike; raise `UserError` as `check` does."""
        weights = torch.zeros_like(evidence.annotations[:, :, 0])
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
    """Assign each sample to one of its answering teachers, drawn uniformly.

    The baseline for what routing is worth. A draw is a hash of the seed given to `fit`, the name of
    the teacher and the index of the sample, so neither the batches nor the order of the teachers
    change it.
    """

    def __post_init__(self) -> None:
        self.seed_ = 0

    def fit(
        self,
        batches: Batches,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Set the seed; `batches` is not read."""
        self.seed_ = seed

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return one-hot weights [N, T]."""
        annotations = evidence.annotations
        index = evidence.indices().to(annotations.device)
        streams = [seed_for(self.seed_, "random", name) for name in scopes.names]
        stream = torch.tensor(streams, dtype=torch.int64, device=annotations.device)
        draws = _uniform(scramble(stream)[None, :] + index[:, None])
        return to_weights(draws, available(annotations), hard=True).to(annotations.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the seed."""
        return {"seed": torch.tensor(self.seed_)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state returned by `state_dict`."""
        self.seed_ = int(state["seed"])


def scramble(keys: Tensor) -> Tensor:
    """Return the output function of SplitMix64 (Steele, Lea and Flood, 2014) of int64 keys.

    Integers wrap around at 64 bits.
    """
    z = keys * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _uniform(keys: Tensor) -> Tensor:
    """Return uniform float64 numbers in [0, 1) from int64 keys."""
    return (scramble(keys) >> 11 & (1 << 53) - 1).to(torch.float64) / (1 << 53)


def _shift(z: Tensor, bits: int) -> Tensor:
    return z >> bits & (1 << 64 - bits) - 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


@dataclass
class Oracle(OracleSettings, Assigner):
    """ORACLE: assign each sample to the teachers whose scope contains its true class and domain.

    Never a result: it reads the true labels. Among those teachers the specialists (with a
    restricted scope) are preferred to the others, which every sample is in scope of. Where no
    answering teacher's scope contains the sample, or its class is unknown, all answering teachers
    are used. It bounds what routing by scope can give, if specialists know their scope best.
    """

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return weights [N, T], equal over those teachers (one-hot if hard).

        Raises `UserError` without true labels.
        """
        if evidence.truth is None:
            raise UserError("assigner oracle: no true labels were given; it needs 'truth'")
        answers = available(evidence.annotations)
        holders = scopes.hold(evidence.truth).to(answers.device) & answers
        specialists = holders & scopes.restricted.to(answers.device)
        holders = torch.where(specialists.any(1, keepdim=True), specialists, holders)
        holders |= answers & ~holders.any(1, keepdim=True)
        return to_weights(evidence.annotations.new_zeros(holders.shape), holders, self.hard)


@dataclass
class LossOracle(LossOracleSettings, Assigner):
    """ORACLE: assign each sample to the teacher with the least cross-entropy on its true label.

    No routing to one teacher per sample gives annotations with less loss. Of equal teachers, and
    where the class is unknown, the first one that answers is used.
    """

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return one-hot weights [N, T]; raise `UserError` without true labels."""
        if evidence.truth is None:
            raise UserError("assigner loss_oracle: no true labels were given; it needs 'truth'")
        annotations = evidence.annotations
        labels = evidence.truth.labels.to(annotations.device)
        index = labels.clamp_min(0)[:, None, None].expand(-1, annotations.shape[1], 1)
        true = annotations.gather(2, index)[:, :, 0] * (labels >= 0)[:, None]
        return to_weights(true, available(annotations), hard=True)
