"""Tests of the pool on two nodes: actors and nodes that die, hang, raise or are missing.

The actors here load no models; see test_actors.py for those that do.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from cluster_helpers import CPUS, TwoNodes, actor_pids, left, wait_until

from cosup.cluster import pool as pool_module
from cosup.cluster.pool import Limits, Pool
from cosup.cluster.room import Allocation
from cosup.cluster.work_queue import WorkItem
from cosup.errors import RunError, UserError

pytestmark = pytest.mark.ray

# Actors cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class FakeActor:
    """Replaces `PoolActor`. folder: for the notes of what was done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def node_id(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def prepare(self) -> None:
        self._note("ready")

    def square(self, number: int) -> int:
        self._note(f"square {number}")
        return number * number

    def slowly(self, number: int) -> int:
        time.sleep(0.2)
        return self.square(number)

    def killed(self, times: int) -> str:
        if self._note("killed") <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return "lived"

    def hangs(self, times: int) -> str:
        if self._note("hangs") <= times:
            time.sleep(1000)
        return "went on"

    def raises(self, error: Exception, times: int) -> str:
        if self._note(f"raises {os.getpid()}") <= times:
            raise error
        return "worked"

    def node(self, seconds: float) -> str:
        time.sleep(seconds)
        return self.node_id()

    def _note(self, what: str) -> int:
        """Note this, and return how often it was noted by all actors."""
        with (self.folder / "notes").open("a+") as file:
            file.write(what + "\n")
            file.flush()
            file.seek(0)
            return sum(line.split()[0] == what.split()[0] for line in file)


class WrongData(FakeActor):
    """An actor whose node has other data."""

    def prepare(self) -> None:
        self._note("ready")
        raise UserError("data.root: 'images' is not here")


class DiesAtStart(FakeActor):
    """An actor that dies while it starts."""

    def prepare(self) -> None:
        self._note("ready")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def folder(nodes: TwoNodes, tmp_path: Path) -> Path:
    return tmp_path


def pool(
    folder: Path,
    count: int = 2,
    num_cpus: float = CPUS,  # one actor per node
    actor: type = FakeActor,
    **limits: Any,
) -> Pool:
    setup: Any = folder
    settings = Limits(**{"tries": 3, "timeout": 60, "wait": 60, **limits})
    return Pool(setup, Allocation(count, num_cpus, 0), settings, "squares", actor)


def items(numbers: Iterable[int], method: str = "square") -> list[WorkItem]:
    return [
        WorkItem(f"the square of {n}", method, (n,), samples=lambda n=n: [f"id{n}"])
        for n in numbers
    ]


def squares(found: Iterable[tuple[WorkItem, Any]]) -> dict[int, int]:
    """Return the results by number; each occurs once."""
    pairs = [(item.args[0], result) for item, result in found]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def both(here: Pool) -> set[str]:
    """Wait until both actors work; return their nodes."""
    seen: set[str] = set()
    while len(seen) < 2:
        seen |= {result for _, result in here.run([WorkItem("a node", "node", (0.5,))] * 4)}
    return seen


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def test_work_is_shared_bounded_and_optionally_ordered(folder: Path) -> None:
    expected = {n: n * n for n in range(30)}
    with pool(folder) as here:
        assert list(here.run([])) == []
        assert left() == []  # no actor is started without work
        assert squares(here.run(items(range(30)))) == expected
        both(here)
        ordered = squares(here.run(items(range(30)), ordered=True))
        assert list(ordered.items()) == list(expected.items())
        taken = 0

        def lazy() -> Iterator[WorkItem]:
            nonlocal taken
            for one in items(range(1000)):
                taken += 1
                yield one

        results = here.run(lazy())
        next(results)
        before = taken
        time.sleep(0.3)
        assert taken == before <= 9  # four per actor, and one given back
        results.close()
        assert squares(here.run(items(range(3)))) == {0: 0, 1: 1, 2: 4}  # new actors are started


def test_killed_actors_are_replaced_and_no_result_is_lost(folder: Path) -> None:
    work = [*items(range(6)), WorkItem("a death", "killed", (2,)), *items(range(6, 12))]
    with pool(folder) as here:
        found = list(here.run(work, ordered=True))
    assert [result for _, result in found] == [*(n * n for n in range(6)), "lived"] + [
        n * n for n in range(6, 12)
    ]


def test_an_item_that_always_kills_its_actor_is_given_up_and_the_rest_finished(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = WorkItem("a death", "killed", (99,), samples=lambda: ["x", "y"])
    found: list[tuple[WorkItem, Any]] = []
    with pool(folder, tries=2) as here, pytest.raises(RunError) as caught:
        found.extend(here.run([bad, *items(range(8))]))
    assert squares(found) == {n: n * n for n in range(8)}
    assert "a death: failed after 2 tries; the last error: its process died" in str(caught.value)
    assert str(caught.value).endswith("samples x, y")
    assert notes(folder).count("killed") == 2
    assert "try 1 of 2" in caplog.text


def test_an_item_that_raises_is_tried_by_another_actor(folder: Path) -> None:
    with pool(folder) as here:
        both(here)
        odd = WorkItem("it", "raises", (OSError("the disk is away"), 1))
        assert [result for _, result in here.run([odd, *items(range(4))])].count("worked") == 1
        tried = [line for line in notes(folder) if line.startswith("raises")]
        assert len(set(tried)) == len(tried) == 2
        diverged = WorkItem("it", "raises", (RunError("the loss is not finite"), 99))
        with pytest.raises(RunError, match=r"it: failed after 3 tries; .* the loss is not"):
            list(here.run([diverged]))
        mistake = WorkItem("it", "raises", (UserError("missing", key="data.root", value="x"), 99))
        before = len(notes(folder))
        with pytest.raises(UserError) as caught:
            list(here.run([mistake]))
        assert (caught.value.key, caught.value.value) == (("data", "root"), "x")
        assert len(notes(folder)) == before + 1


def test_a_hanging_actor_is_killed_and_its_item_tried_again(folder: Path) -> None:
    with pool(folder, timeout=2) as here:
        found = list(here.run([WorkItem("it", "hangs", (1,)), *items(range(4))]))
        assert "went on" in [result for _, result in found]
        assert len(found) == 5
        slow = WorkItem("it", "node", (3,))
        assert len(list(here.run([slow], unlimited=True))) == 1  # without a time limit


@pytest.mark.parametrize(
    ("actor", "error", "text"),
    [
        (WrongData, UserError, r"^data.root: 'images' is not here$"),
        (DiesAtStart, RunError, "squares: no actor starts: its process died"),
    ],
)
def test_failing_starts_are_not_repeated_forever(
    folder: Path, actor: type, error: type, text: str
) -> None:
    with pool(folder, count=1, tries=2, actor=actor) as here, pytest.raises(error, match=text):
        list(here.run(items(range(4))))
    assert notes(folder) == ["ready"] * 2


def test_the_work_of_a_dead_node_is_done_elsewhere(
    nodes: TwoNodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pool(tmp_path, tries=1) as here:  # so that a counted try fails the item
        work = here.run(items(range(20), "slowly"))
        found = [next(work)]
        wait_until(lambda: len(actor_pids("FakeActor")) == 2, "both actors are there")
        nodes.kill()
        found += work
        assert squares(found) == {n: n * n for n in range(20)}
        assert "its node died; starting another actor" in caplog.text
        nodes.add()
        assert both(here) == {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_no_actor_remains_after_an_error(folder: Path, error: type[BaseException]) -> None:
    work = [*items(range(3)), *[WorkItem("it", "hangs", (99,))] * 2]
    with pytest.raises(error), pool(folder) as here:
        raise error(next(here.run(work)))
    assert actor_pids("FakeActor") == {}


def test_missing_and_lost_resources(
    nodes: TwoNodes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "ACTOR_START_SECONDS", 0)
    wait_until(lambda: ray.available_resources().get("CPU") == 2 * CPUS, "some CPUs are in use")
    with pool(folder, num_cpus=64, wait=1) as here, pytest.raises(RunError) as caught:
        list(here.run(items([1])))
    assert str(caught.value) == (
        "squares: no actor found a place within 1 s; each needs 64 CPUs and 0 GPUs; the "
        "cluster has 2 nodes of 2 CPUs and 0 GPUs, of which 4 CPUs and 0 GPUs are free"
    )
    here_node = ray.get_runtime_context().get_node_id()
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here_node, soft=False)
    blocker = (
        ray.remote(FakeActor).options(num_cpus=CPUS, scheduling_strategy=strategy).remote(folder)
    )
    ray.get(blocker.prepare.remote())
    monkeypatch.setattr(pool_module, "ACTOR_START_SECONDS", 60)
    with pool(folder, wait=3) as here:
        work = here.run(items(range(100), "slowly"))
        next(work)
        monkeypatch.setattr(pool_module, "ACTOR_START_SECONDS", 0)
        nodes.kill()
        with pytest.raises(RunError, match="found a place within 3 s"):
            list(work)
    ray.kill(blocker)
