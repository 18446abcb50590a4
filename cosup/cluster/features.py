"""Features on a cluster: actors extract ranges of rows, the driver writes them in their order."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cosup.cluster.pool import Pool
from cosup.cluster.tasks import Unit
from cosup.data.table import ImageData
from cosup.models.section import BackboneSection
from cosup.teachers.base import Blocks

__all__ = ["feature_blocks"]


def feature_blocks(
    pool: Callable[[], Pool],
    data: ImageData,
    batch_size: int,
    shard_rows: int,
    identity: Callable[[BackboneSection], str] | None = None,
) -> Blocks:
    """Has a pool extract features of `data`, which its actors read too, about `shard_rows` at a
    time; those of other samples (novel classes) are left to this process.

    pool: gives the pool, asked for when there is something to do. identity: of the driver's own
    backbone, which every actor's must have; None asks for none.
    """
    rows = max(1, shard_rows // batch_size) * batch_size  # so that every batch is the local run's

    def blocks(
        section: BackboneSection, asked: ImageData, split: str, start: int
    ) -> Iterator[Tensor] | None:
        if asked is not data:
            return None
        places = np.arange(len(data)) if data.drawn else data.rows(split)
        return _extract(start, places, section, split)

    def _extract(
        start: int, places: np.ndarray, section: BackboneSection, split: str
    ) -> Iterator[Tensor]:
        units = (
            Unit(
                f"features of {'all samples' if data.drawn else split}, rows {first} to {last - 1}",
                "extract",
                (section, None if identity is None else identity(section), split, first, last),
                samples=partial(data.sample_ids, places[first:last]),
            )
            for first in range(start, len(places), rows)
            for last in [min(first + rows, len(places))]
        )
        for _, block in pool().run(units, ordered=True):
            yield torch.from_numpy(np.array(block))

    return blocks
