"""Assigners that are fitted to shards, once for all who ask the same of the same evidence."""

from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.sharded.evidence import ShardParts

__all__ = ["Fits"]

KEPT_BYTES = 2**28
"""Memory for states that are kept."""


class Fits:
    """Fits assigners, and keeps the latest states.

    Recipes that are compared, the rounds of the run and its controls often fit the same assigner to
    the same evidence, for which all shards are read (as `cosup.assigning.Assignments` in memory).
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Tensor]] = {}

    def fit(
        self,
        assigner: Assigner,
        parts: ShardParts,
        seed: int,
        provenance: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Fit an assigner to all shards, or load what the same fit has found.

        seed: of the assigner. provenance: that of the level, if the assigner reads any; levels with
        the same samples and teachers have the same.
        """
        key = _key(assigner, parts, seed, provenance is not None)
        state = self._kept.pop(key, None)
        if state is None:
            assigner.fit_parts(parts, parts.stream.level.scopes, seed=seed, provenance=provenance)
            state = _copied(assigner.state_dict())
        else:
            assigner.load_state_dict(_copied(state))
        self._kept[key] = state
        while sum(map(_bytes, self._kept.values())) > KEPT_BYTES:
            del self._kept[next(iter(self._kept))]


def _key(assigner: Assigner, parts: ShardParts, seed: int, has_provenance: bool) -> str:
    """Return a text of all that a fit depends on."""
    stream, level = parts.stream, parts.stream.level
    about = (
        type(assigner).__name__,
        assigner,
        seed,
        has_provenance,
        level.index,
        level.samples.key,
        level.scopes.names,
        level.annotations,
        level.features,
        (stream.student, stream.coarse) if assigner.guided else None,
    )
    return repr(about)


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _bytes(state: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in state.values())
