"""Decoding in threads, ahead of whoever reads the batches."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosup.data.images import BrokenImage
from cosup.data.table import ImageData
from cosup.data.transforms import Transform
from cosup.errors import RunError

_AHEAD = 3


def image_batches(
    data: ImageData,
    rows: NDArray[np.int64],
    transform: Transform,
    batch_size: int,
    workers: int,
) -> Iterator[Tensor]:
    """The images of `rows`, in order, as uint8 batches [b, K, H, W].

    `workers` threads decode up to three batches ahead, while the consumer works on one; they end
    when the iterator is closed. A file that broke since it was checked is a `RunError`.
    """
    images = data.table["image"].to_numpy(np.int64)[np.asarray(rows, dtype=np.int64)]
    workers = max(1, workers)

    def decode(chunk: NDArray[np.int64]) -> Tensor:
        tensors = [transform(data.images.read(int(index))) for index in chunk]
        # Stacked by NumPy: torch would start a pool of threads of its own in each of ours.
        return torch.from_numpy(np.stack([tensor.numpy() for tensor in tensors]))

    pool = ThreadPoolExecutor(workers, thread_name_prefix="cosup-decode")
    waiting: deque[list[Future[Tensor]]] = deque()
    starts = iter(range(0, len(images), batch_size))
    try:
        while True:
            while len(waiting) < _AHEAD and (start := next(starts, None)) is not None:
                batch = images[start : start + batch_size]
                chunks = np.array_split(batch, min(workers, len(batch)))
                waiting.append([pool.submit(decode, chunk) for chunk in chunks])
            if not waiting:
                return
            yield torch.cat([part.result() for part in waiting.popleft()])
    except BrokenImage as error:
        raise RunError(f"an image broke since it was checked: {error}") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
