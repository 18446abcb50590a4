"""The pool on two nodes: what dies, hangs, raises or is missing, and nobody left afterwards.

Its actors load no models here; those that do are in test_actors.py.
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

from cosup.cluster.pool import Pool, Unit
from cosup.errors import RunError, UserError

pytestmark = pytest.mark.ray

# The actors can't import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Hand:
    """A stand-in for `Worker`. folder: where what was done is noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hello(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def ready(self) -> None:
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
        return self.hello()

    def _note(self, what: str) -> int:
        """How often this was noted before, by anyone, and now."""
        with (self.folder / "notes").open("a+") as file:
            file.write(what + "\n")
            file.flush()
            file.seek(0)
            return sum(line.split()[0] == what.split()[0] for line in file)


class Useless(Hand):
    """Its node has other data."""

    def ready(self) -> None:
        self._note("ready")
        raise UserError("data.root: 'images' is not here")


class Broken(Hand):
    """It dies as it starts."""

    def ready(self) -> None:
        self._note("ready")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def folder(nodes: TwoNodes, tmp_path: Path) -> Path:
    return tmp_path


def pool(folder: Path, **changes: Any) -> Pool:
    settings: dict[str, Any] = {
        "count": 2,
        "num_cpus": CPUS,  # so that each node has one
        "num_gpus": 0,
        "tries": 3,
        "timeout": 60,
        "wait": 60,
        "name": "squares",
        "worker": Hand,
    }
    setup: Any = folder
    return Pool(setup, **{**settings, **changes})


def units(numbers: Iterable[int], method: str = "square") -> list[Unit]:
    return [
        Unit(f"the square of {n}", method, (n,), samples=lambda n=n: [f"id{n}"]) for n in numbers
    ]


def squares(found: Iterable[tuple[Unit, Any]]) -> dict[int, int]:
    """By number; each is there once."""
    pairs = [(unit.args[0], result) for unit, result in found]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def both(here: Pool) -> set[str]:
    """The nodes of its two actors, once both are at work."""
    seen: set[str] = set()
    while len(seen) < 2:
        seen |= {result for _, result in here.run([Unit("a node", "node", (0.5,))] * 4)}
    return seen


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def test_work_is_shared_bounded_and_in_order_if_asked(folder: Path) -> None:
    expected = {n: n * n for n in range(30)}
    with pool(folder) as here:
        assert list(here.run([])) == []
        assert left() == []  # nobody is started for nothing
        assert squares(here.run(units(range(30)))) == expected
        both(here)
        ordered = squares(here.run(units(range(30)), ordered=True))
        assert list(ordered.items()) == list(expected.items())
        taken = 0

        def lazy() -> Iterator[Unit]:
            nonlocal taken
            for one in units(range(1000)):
                taken += 1
                yield one

        results = here.run(lazy())
        next(results)
        before = taken
        time.sleep(0.3)
        assert taken == before <= 9  # four per actor, and one given back
        results.close()
        assert squares(here.run(units(range(3)))) == {0: 0, 1: 1, 2: 4}  # others are started


def test_actors_that_are_killed_are_replaced_and_nothing_is_lost(folder: Path) -> None:
    work = [*units(range(6)), Unit("a death", "killed", (2,)), *units(range(6, 12))]
    with pool(folder) as here:
        found = list(here.run(work, ordered=True))
    assert [result for _, result in found] == [*(n * n for n in range(6)), "lived"] + [
        n * n for n in range(6, 12)
    ]


def test_what_always_kills_its_actor_is_given_up_and_the_rest_is_finished(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Unit("a death", "killed", (99,), samples=lambda: ["x", "y"])
    found: list[tuple[Unit, Any]] = []
    with pool(folder, tries=2) as here, pytest.raises(RunError) as caught:
        found.extend(here.run([bad, *units(range(8))]))
    assert squares(found) == {n: n * n for n in range(8)}
    assert "a death: given up after 2 tries, the last error: its process died" in str(caught.value)
    assert str(caught.value).endswith("samples x, y")
    assert notes(folder).count("killed") == 2
    assert "try 1 of 2" in caplog.text


def test_what_raises_is_tried_by_another_actor_and_errors_arrive_as_they_are(folder: Path) -> None:
    with pool(folder) as here:
        both(here)
        odd = Unit("it", "raises", (OSError("the disk is away"), 1))
        assert [result for _, result in here.run([odd, *units(range(4))])].count("worked") == 1
        tried = [line for line in notes(folder) if line.startswith("raises")]
        assert len(set(tried)) == len(tried) == 2
        diverged = Unit("it", "raises", (RunError("the loss is not finite"), 99))
        with pytest.raises(RunError, match=r"it: given up after 3 tries, .* the loss is not"):
            list(here.run([diverged]))
        mistake = Unit("it", "raises", (UserError("data.root: 'x' is not here"), 99))
        before = len(notes(folder))
        with pytest.raises(UserError, match=r"^data.root: 'x' is not here$"):
            list(here.run([mistake]))
        assert len(notes(folder)) == before + 1


def test_what_hangs_is_killed_and_tried_again(folder: Path) -> None:
    with pool(folder, timeout=2) as here:
        found = list(here.run([Unit("it", "hangs", (1,)), *units(range(4))]))
        assert "went on" in [result for _, result in found]
        assert len(found) == 5
        slow = Unit("it", "node", (3,))
        assert len(list(here.run([slow], long=True))) == 1  # which has no limit


@pytest.mark.parametrize(
    ("worker", "error", "text"),
    [
        (Useless, UserError, r"^data.root: 'images' is not here$"),
        (Broken, RunError, "squares: no actor starts: its process died"),
    ],
)
def test_actors_that_cant_start_are_not_started_for_ever(
    folder: Path, worker: type, error: type, text: str
) -> None:
    with pool(folder, count=1, tries=2, worker=worker) as here, pytest.raises(error, match=text):
        list(here.run(units(range(4))))
    assert notes(folder) == ["ready"] * 2


def test_a_node_that_dies_is_noticed_and_its_work_done_elsewhere(
    nodes: TwoNodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pool(tmp_path, tries=1) as here:  # so that a try that is counted fails
        work = here.run(units(range(40), "slowly"))
        found = [next(work)]
        wait_until(lambda: len(actor_pids("Hand")) == 2, "both actors are there")
        nodes.kill()
        found += work
        assert squares(found) == {n: n * n for n in range(40)}
        assert "its node died; starting another actor" in caplog.text
        nodes.add()
        assert both(here) == {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nobody_is_left_however_the_pool_is_left(folder: Path, error: type[BaseException]) -> None:
    work = [*units(range(3)), *[Unit("it", "hangs", (99,))] * 2]
    with pytest.raises(error), pool(folder) as here:
        raise error(next(here.run(work)))
    assert actor_pids() == {}


def test_resources_that_are_missing_or_go_missing_are_named(
    nodes: TwoNodes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosup.cluster.pool.STARTING", 0)
    with pool(folder, num_cpus=64, wait=1) as here, pytest.raises(RunError) as caught:
        list(here.run(units([1])))
    assert str(caught.value) == (
        "squares: no actor found a place within 1 s; each asks for 64 CPUs and 0 GPUs; the "
        "cluster has 2 nodes of 2 CPUs and 0 GPUs, of which 4 CPUs and 0 GPUs are free"
    )
    here_node = ray.get_runtime_context().get_node_id()
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here_node, soft=False)
    blocker = ray.remote(Hand).options(num_cpus=CPUS, scheduling_strategy=strategy).remote(folder)
    ray.get(blocker.ready.remote())
    with pool(folder, wait=3) as here:
        work = here.run(units(range(100), "slowly"))
        next(work)
        nodes.kill()
        with pytest.raises(RunError, match="found a place within 3 s"):
            list(work)
    ray.kill(blocker)
