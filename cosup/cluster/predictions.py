"""Predictions of network students by a pool of actors, a range of images at a time."""

import copy
import uuid
from collections.abc import Callable
from functools import partial

import ray

from cosup.cluster.actor import unpack
from cosup.cluster.pool import Pool
from cosup.cluster.work_queue import WorkItem
from cosup.data.loader import ImageRows
from cosup.models.classifier import Classifier
from cosup.probabilities import ProbTable

__all__ = ["predict_with_pool"]


def predict_with_pool(
    pool: Callable[[], Pool],
    network: Classifier,
    inputs: ImageRows,
    split: str,
    batch: int,
    block_rows: int,
) -> ProbTable:
    """Return a network's class probabilities of images of the run, as `predict_images` does.

    The network is sent to each actor once. pool: returns the pool. split: any split of the inputs'
    samples, as actors name it. batch: images per forward pass.
    block_rows: approximate number of images that an actor gets at a time; batches start at the
    first, so that they equal those of a local run.
    """
    step, rows = max(1, block_rows // batch) * batch, inputs.rows
    sent, key = (ray.put(copy.deepcopy(network).cpu().eval()),), uuid.uuid4().hex
    items = (
        WorkItem(
            f"predictions of images {start} to {stop - 1} of {len(rows)}",
            "predict",
            (key, sent, split, rows[start:stop]),
            samples=partial(inputs.data.sample_ids, rows[start:stop]),
            affinity=key,
        )
        for start in range(0, len(rows), step)
        for stop in [min(start + step, len(rows))]
    )
    found = [
        ProbTable.from_tensors(network.num_classes, unpack(arrays))
        for _, arrays in pool().run(items, ordered=True)
    ]
    return ProbTable.concat(found)
