"""What waits, what is tried again, what is given back: bookkeeping without Ray."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.cluster.tasks import MOST_LOSSES, Task, Tasks, Unit
from cosup.errors import RunError


def unit(number: int, crew: Any = None, samples: tuple[str, ...] = ()) -> Unit:
    return Unit(f"unit {number}", "work", (number,), samples=lambda: samples, crew=crew)


def take(
    tasks: Tasks, worker: int = 1, crew: Any = None, workers: tuple[int, ...] = (1, 2)
) -> Task:
    task = tasks.take(worker, crew, workers)
    assert task is not None
    return task


def given_back(tasks: Tasks) -> list[int]:
    return [one.args[0] for one, _ in tasks.results()]


def test_only_so_many_are_open_whoever_doesnt_fetch_results() -> None:
    taken = 0

    def units() -> Iterator[Unit]:
        nonlocal taken
        for taken in range(1, 1000):
            yield unit(taken)

    tasks = Tasks(units(), tries=1, window=6, ordered=False)
    for _ in range(6):
        task = take(tasks)
        tasks.done(task, None)
    assert tasks.take(1, None, (1,)) is None
    assert (taken, tasks.open) == (6, 6)
    assert len(given_back(tasks)) == 6
    assert tasks.take(1, None, (1,)) is not None
    assert tasks.open == 6


def test_a_slow_unit_holds_up_no_more_than_the_window_in_order() -> None:
    tasks = Tasks((unit(n) for n in range(100)), tries=1, window=4, ordered=True)
    slow, *others = [take(tasks) for _ in range(4)]
    for task in reversed(others):
        tasks.done(task, None)
    assert given_back(tasks) == []
    assert tasks.take(1, None, (1,)) is None
    tasks.done(slow, None)
    assert given_back(tasks) == [0, 1, 2, 3]


def test_a_worker_gets_units_of_the_crew_whose_models_it_holds() -> None:
    crews = ["a", "a", "b", "b", "a"]
    tasks = Tasks((unit(n, crew) for n, crew in enumerate(crews)), 1, 10, ordered=False)
    assert [take(tasks, crew="b").number for _ in range(3)] == [2, 3, 0]


def test_what_failed_on_a_worker_goes_to_another_if_there_is_one() -> None:
    tasks = Tasks([unit(0), unit(1)], tries=5, window=10, ordered=False)
    first = take(tasks, worker=1)
    tasks.failed(first, 1, "broken")
    assert take(tasks, worker=1).number == 1
    assert tasks.take(1, None, (1, 2)) is None
    assert take(tasks, worker=2) is first
    tasks.failed(first, 2, "broken")
    assert take(tasks, worker=1, workers=(1, 2)) is first  # it failed on both
    tasks.failed(first, 1, "broken")
    assert take(tasks, worker=1, workers=(1,)) is first  # there is no other


def test_who_fails_for_good_is_reported_when_the_others_are_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids = tuple(f"s{n}" for n in range(7))
    tasks = Tasks([unit(0, samples=ids), unit(1)], tries=3, window=10, ordered=False)
    for number in range(3):
        tasks.failed(take(tasks, worker=number, workers=(number,)), number, f"reason {number}")
    tasks.done(take(tasks), "result")
    assert given_back(tasks) == [1]
    assert tasks.open == 0
    with pytest.raises(RunError) as caught:
        tasks.check()
    assert str(caught.value) == (
        "unit 0: given up after 3 tries, the last error: reason 2; "
        "samples s0, s1, s2, s3, s4 and 2 more (all in the log)"
    )
    assert "s0, s1, s2, s3, s4, s5, s6" in caplog.text


def test_in_order_nothing_follows_a_unit_that_failed() -> None:
    tasks = Tasks((unit(n) for n in range(9)), tries=1, window=4, ordered=True)
    three = [take(tasks) for _ in range(3)]
    tasks.failed(three[1], 1, "broken")
    tasks.done(three[2], None)
    assert given_back(tasks) == []  # the first is still to come
    tasks.done(three[0], None)
    results = tasks.results()
    assert next(results)[0].args == (0,)
    with pytest.raises(RunError, match="unit 1: given up after 1 try, the last error: broken"):
        next(results)


def test_a_node_that_dies_is_no_fault_of_its_unit_but_not_for_ever() -> None:
    tasks = Tasks([unit(0)], tries=1, window=4, ordered=False)
    for _ in range(MOST_LOSSES):
        tasks.lost(take(tasks), "its node died")
    tasks.check()
    tasks.lost(take(tasks), "its node died")
    with pytest.raises(RunError, match="its node died"):
        tasks.check()


@given(st.data(), st.integers(0, 12), st.integers(1, 5), st.booleans())
def test_every_unit_is_given_back_once_or_reported(
    data: st.DataObject, count: int, window: int, ordered: bool
) -> None:
    """Whatever happens to tasks, in whatever order."""
    tasks = Tasks((unit(n) for n in range(count)), tries=2, window=window, ordered=ordered)
    out: list[Task] = []
    back: list[int] = []
    failed = 0
    try:
        while tasks.open:
            assert tasks.open <= window
            workers = [1, 2]
            while (task := tasks.take(data.draw(st.sampled_from(workers)), None, workers)) or (
                task := tasks.take(1, None, workers) or tasks.take(2, None, workers)
            ):
                out.append(task)
            task = out.pop(data.draw(st.integers(0, len(out) - 1)))
            fate = data.draw(st.sampled_from(["done", "done", "failed", "lost", "back"]))
            if fate == "done":
                tasks.done(task, task.number)
            elif fate == "failed":
                tasks.failed(task, data.draw(st.sampled_from(workers)), "broken")
                failed += task.tries == 2
            elif fate == "lost":
                tasks.lost(task, "lost")
            else:
                tasks.back(task)
            back += given_back(tasks)
        tasks.check()
    except RunError:
        assert failed
    else:
        assert sorted(back) == list(range(count))
    assert len(set(back)) == len(back)
    if ordered:
        assert back == sorted(back)
    else:
        assert len(back) + failed >= count
