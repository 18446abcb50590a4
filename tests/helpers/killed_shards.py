"""Kill a sharded run after the work on some shards."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from cosup.models.compute import Compute
from cosup.runs import backend
from cosup.sharded.shards import Shard
from cosup.sharded.work import LocalExecutor, Work


class Killed(BaseException):
    """Ends a run, as a signal does."""


def kill_after(
    monkeypatch: pytest.MonkeyPatch, shards: int, since: Callable[[], bool] = lambda: True
) -> None:
    """End the run after the work on so many shards, counted while `since` says so."""
    left = shards

    class Dying(LocalExecutor):
        def run(self, work: Work[Any], shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
            nonlocal left
            for found in super().run(work, shards):
                if left == 0:
                    raise Killed
                left -= since()
                yield found

    def dying(compute: Compute) -> Dying:
        return Dying(compute)

    monkeypatch.setattr(backend, "LocalExecutor", dying)
