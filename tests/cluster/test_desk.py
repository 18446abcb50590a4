"""The desk by itself: who is given what, how often, and what stragglers say."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from cosup.cluster import training_queue as desk_module
from cosup.cluster.training_queue import Desk


def run(what: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(what, 20))


def test_every_rank_gets_every_training_once() -> None:
    async def play() -> None:
        desk = Desk(3)
        waiting = [asyncio.create_task(desk.next(rank, 0)) for rank in range(2)]
        assert await desk.post("first") == 1
        assert await asyncio.gather(*waiting) == [(1, "first")] * 2
        waiting = [asyncio.create_task(desk.next(rank, 1)) for rank in range(2)]
        await desk.step(1, 50, 0.5, {})
        await desk.done(1)
        events, _ = await desk.take(1)
        assert events == [("step", (50, 0.5, {})), ("done", None)]
        assert (await desk.take(0.01))[0] == []
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        await desk.post("second")
        assert await asyncio.gather(*waiting) == [(2, "second")] * 2
        waiting = [asyncio.create_task(desk.next(rank, 2)) for rank in range(2)]
        await desk.stop()
        assert await asyncio.gather(*waiting) == [None, None]
        assert await desk.closed()

    run(play())


def test_a_training_is_given_up_after_so_many_tries_without_getting_further(tmp_path: Path) -> None:
    async def play() -> None:
        desk, file = Desk(2), str(tmp_path / "state")
        await desk.post("job")
        for _ in range(3):  # each gets further
            assert await desk.next(0, 0) == (1, "job")
            await desk.write(1, file, 0, b"saved", True)
        assert await desk.next(0, 0) == (1, "job")
        await desk.crashed(1, "why")
        await desk.crashed(1, "what followed from it")
        waiting = asyncio.create_task(desk.next(0, 0))
        events, _ = await desk.take(5)
        assert events == [("failed", ("", "why"))]
        await desk.post("next")
        assert await waiting == (2, "next")

    run(play())


def test_files_come_in_pieces_and_take_their_place_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "CHUNK", 4)
    path = tmp_path / "folder" / "state"

    async def play() -> None:
        desk = Desk(1)
        await desk.post("job")
        assert await desk.read(str(path), 0) == b""
        await desk.write(1, str(path), 0, b"0123", False)
        assert not path.exists()
        await desk.write(1, str(path), 4, b"45", True)
        assert path.read_bytes() == b"012345"
        assert [await desk.read(str(path), start) for start in (0, 4, 6)] == [b"0123", b"45", b""]
        await desk.write(1, str(path), 0, b"new", True)
        assert path.read_bytes() == b"new"
        assert [file.name for file in path.parent.iterdir()] == ["state"]

    run(play())


def test_what_is_said_of_another_training_doesnt_count(tmp_path: Path) -> None:
    async def play() -> None:
        desk = Desk(1)
        await desk.post("first")
        await desk.post("second")
        await desk.done(1)
        await desk.failed(1, "RunError", "late")
        await desk.step(1, 1, 0.0, {})
        await desk.write(1, str(tmp_path / "state"), 0, b"late", True)
        assert (await desk.take(0.01))[0] == []
        assert not list(tmp_path.iterdir())
        await desk.failed(2, "UserError", "text")
        assert (await desk.take(1))[0] == [("failed", ("UserError", "text"))]

    run(play())
