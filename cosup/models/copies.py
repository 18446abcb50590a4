"""Copy results from a device to the CPU while the device computes the next ones."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["on_cpu"]


def on_cpu(results: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the results on the CPU, in order, each after the next one was launched.

    results: each is launched when it is asked for. On a GPU its copy is queued right behind it, and
    only that copy is waited for: an ordinary one would be queued behind the next result as well,
    and the GPU would have nothing to do until the one after that is launched.
    """
    waiting: _Copy | None = None
    for result in results:
        begun = _Copy(result)
        if waiting is not None:
            yield waiting.finished()
        waiting = begun
    if waiting is not None:
        yield waiting.finished()


class _Copy:
    """The copy of a result to the CPU; that of a GPU is begun into page-locked memory."""

    def __init__(self, result: Tensor) -> None:
        on_gpu = result.device.type == "cuda"
        self._copy = result.to("cpu", non_blocking=on_gpu)
        self._done = torch.cuda.current_stream(result.device).record_event() if on_gpu else None

    def finished(self) -> Tensor:
        """Return the copy, once it is made."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy
