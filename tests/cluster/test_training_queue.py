"""Tests of the training queue, without Ray."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from cosup.cluster import training_queue
from cosup.cluster.training_queue import TrainingQueue
from cosup.errors import RunError, UserError


def run(test: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(test, 20))


def test_every_rank_gets_every_training_once() -> None:
    async def check() -> None:
        queue = TrainingQueue(3)
        waiting = [asyncio.create_task(queue.next(rank, 0)) for rank in range(2)]
        assert await queue.submit("first") == 1
        assert await asyncio.gather(*waiting) == [(1, "first")] * 2
        waiting = [asyncio.create_task(queue.next(rank, 1)) for rank in range(2)]
        await queue.step(1, 50, 0.5, {})
        await queue.done(1)
        events = await queue.take_events(1)
        assert events == [("step", (50, 0.5, {})), ("done", None)]
        assert await queue.take_events(0.01) == []
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        await queue.submit("second")
        assert await asyncio.gather(*waiting) == [(2, "second")] * 2
        waiting = [asyncio.create_task(queue.next(rank, 2)) for rank in range(2)]
        await queue.stop()
        assert await asyncio.gather(*waiting) == [None, None]
        assert not queue.aborted

    run(check())


def test_a_training_ends_after_too_many_tries_without_progress(tmp_path: Path) -> None:
    async def check() -> None:
        queue, file = TrainingQueue(2), str(tmp_path / "state")
        await queue.submit("job")
        for _ in range(3):  # each makes progress
            assert await queue.next(0, 0) == (1, "job")
            await queue.write(1, file, 0, b"saved", True)
        assert await queue.next(0, 0) == (1, "job")
        await queue.crashed(1, "why")
        await queue.crashed(1, "what followed from it")
        waiting = asyncio.create_task(queue.next(0, 0))
        assert await queue.take_events(5) == [("exhausted", "why")]
        await queue.submit("next")
        assert await waiting == (2, "next")

    run(check())


def test_files_are_written_in_pieces_and_replaced_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_queue, "PIECE_BYTES", 4)
    path = tmp_path / "folder" / "state"

    async def check() -> None:
        queue = TrainingQueue(1)
        await queue.submit("job")
        assert await queue.read(str(path), 0) == b""
        await queue.write(1, str(path), 0, b"0123", False)
        assert not path.exists()
        await queue.write(1, str(path), 4, b"45", True)
        assert path.read_bytes() == b"012345"
        assert [await queue.read(str(path), start) for start in (0, 4, 6)] == [b"0123", b"45", b""]
        await queue.write(1, str(path), 0, b"new", True)
        assert path.read_bytes() == b"new"
        assert [file.name for file in path.parent.iterdir()] == ["state"]

    run(check())


def test_late_reports_of_another_training_are_ignored(tmp_path: Path) -> None:
    async def check() -> None:
        queue = TrainingQueue(1)
        await queue.submit("first")
        await queue.submit("second")
        await queue.done(1)
        await queue.failed(1, RunError("late"))
        await queue.step(1, 1, 0.0, {})
        await queue.write(1, str(tmp_path / "state"), 0, b"late", True)
        assert await queue.take_events(0.01) == []
        assert not list(tmp_path.iterdir())
        error = UserError("text", key="data.root")
        await queue.failed(2, error)
        assert await queue.take_events(1) == [("failed", error)]

    run(check())
