"""Heads that were fitted already: of equal fits of a run only the first is computed.

The candidates of a choice, and the run and its controls, often fit the same heads: those of round 1
of two candidates with one loss, or those of the candidate that is the run with a plain loss.
"""

import hashlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cosup.losses.base import Objective
from cosup.models.compute import Compute
from cosup.models.fit import fit_together
from cosup.models.head_fit import HeadFit
from cosup.models.heads import HeadBank
from cosup.models.watch import OnStep

__all__ = ["FittedHeads"]


@dataclass(frozen=True, eq=False)
class _Kept:
    """Fitted heads, and what they were fitted to.

    features: a reference that keeps nothing alive. content: a hash of everything else but the
    objective, which is compared as an object.
    """

    features: "weakref.ref[torch.Tensor]"
    content: str
    objective: Objective
    bank: HeadBank

    def answers(self, fit: HeadFit, content: str) -> bool:
        """Whether these are the heads of a fit."""
        same = self.features() is fit.features and self.content == content
        return same and self.objective == fit.objective

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.bank.state_dict().values())


class FittedHeads:
    """Fits heads as `fit_together` does, and keeps the latest for those who ask for the same.

    most_bytes: memory for heads that are kept; with 0, only equal fits of one call are shared.
    """

    def __init__(self, most_bytes: int = 0) -> None:
        self.most_bytes = most_bytes
        self._kept: list[_Kept] = []

    def fit(
        self, fits: Sequence[HeadFit], compute: Compute, on_step: OnStep | None, *, anew: bool
    ) -> list[HeadBank]:
        """Return the bank of each fit, equal to that of `fit_heads`; errors as of `fit_together`.

        Banks are shared: they must not be changed. anew: fit all of them again, as somebody records
        their steps.
        """
        contents = [_content(fit, compute) for fit in fits]
        banks: dict[int, HeadBank] = {}
        for place, (fit, content) in enumerate(zip(fits, contents, strict=True)):
            kept = None if anew else self._find(fit, content)
            if kept is not None:
                banks[place] = kept.bank
        waiting = [place for place in range(len(fits)) if place not in banks]
        found = [self._first(waiting, fits, contents, place) for place in waiting]
        firsts = list(dict.fromkeys(found))
        for place, bank in zip(
            firsts, fit_together([fits[place] for place in firsts], compute, on_step), strict=True
        ):
            banks[place] = bank
            self._keep(fits[place], contents[place], bank)
        banks |= {place: banks[first] for place, first in zip(waiting, found, strict=True)}
        return [banks[place] for place in range(len(fits))]

    @staticmethod
    def _first(
        waiting: Sequence[int], fits: Sequence[HeadFit], contents: Sequence[str], place: int
    ) -> int:
        """Return the first of the waiting fits that is equal to this one."""
        mine = fits[place]
        return next(
            other
            for other in waiting
            if fits[other].features is mine.features
            and contents[other] == contents[place]
            and fits[other].objective == mine.objective
        )

    def _find(self, fit: HeadFit, content: str) -> _Kept | None:
        kept = next((one for one in self._kept if one.answers(fit, content)), None)
        if kept is not None:
            self._kept.remove(kept)
            self._kept.append(kept)
        return kept

    def _keep(self, fit: HeadFit, content: str, bank: HeadBank) -> None:
        self._kept.append(_Kept(weakref.ref(fit.features), content, fit.objective, bank))
        while sum(one.nbytes for one in self._kept) > self.most_bytes:
            del self._kept[0]


def _content(fit: HeadFit, compute: Compute) -> str:
    """Return a hash of all that the heads depend on but features and objective."""
    fit.check_shapes()
    settings = (
        fit.head.model_dump_json(),
        fit.training.model_dump_json(),
        (fit.seed, fit.total_steps, fit.hard, fit.targets.num_classes),
        str(compute.device),
    )
    digest = hashlib.sha256(repr(settings).encode())
    tensors = {**fit.targets.tensors(), **{f"rows {h}": rows for h, rows in enumerate(fit.members)}}
    tensors |= {} if fit.weights is None else {"weights": fit.weights}
    tensors |= {} if fit.labels is None else {"labels": fit.labels}
    tensors |= (
        {} if fit.init is None else {f"init {k}": v for k, v in fit.init.state_dict().items()}
    )
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
