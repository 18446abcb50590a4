"""Tests of the work queue, without Ray."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.cluster.work_queue import MOST_LOSSES, ItemState, WorkItem, WorkQueue
from cosup.errors import RunError


def item(number: int, affinity: Any = None, samples: tuple[str, ...] = ()) -> WorkItem:
    return WorkItem(f"item {number}", "work", (number,), lambda: samples, affinity)


def take(
    queue: WorkQueue, actor: int = 1, affinity: Any = None, actors: tuple[int, ...] = (1, 2)
) -> ItemState:
    state = queue.take(actor, affinity, actors)
    assert state is not None
    return state


def returned(queue: WorkQueue) -> list[int]:
    return [item.args[0] for item, _ in queue.results()]


def test_the_window_bounds_open_items() -> None:
    taken = 0

    def items() -> Iterator[WorkItem]:
        nonlocal taken
        for taken in range(1, 1000):
            yield item(taken)

    queue = WorkQueue(items(), tries=1, window=6, ordered=False)
    for _ in range(6):
        state = take(queue)
        queue.done(state, None)
    assert queue.take(1, None, (1,)) is None
    assert (taken, queue.open) == (6, 6)
    assert len(returned(queue)) == 6
    assert queue.take(1, None, (1,)) is not None
    assert queue.open == 6


def test_a_slow_item_delays_at_most_the_window_if_ordered() -> None:
    queue = WorkQueue((item(n) for n in range(100)), tries=1, window=4, ordered=True)
    slow, *others = [take(queue) for _ in range(4)]
    for state in reversed(others):
        queue.done(state, None)
    assert returned(queue) == []
    assert queue.take(1, None, (1,)) is None
    queue.done(slow, None)
    assert returned(queue) == [0, 1, 2, 3]


def test_items_of_an_actors_affinity_come_first() -> None:
    affinities = ["a", "a", "b", "b", "a"]
    queue = WorkQueue((item(n, a) for n, a in enumerate(affinities)), 1, 10, ordered=False)
    assert [take(queue, affinity="b").number for _ in range(3)] == [2, 3, 0]


def test_a_failed_item_goes_to_another_actor_if_there_is_one() -> None:
    queue = WorkQueue([item(0), item(1)], tries=5, window=10, ordered=False)
    first = take(queue, actor=1)
    queue.failed(first, 1, "broken")
    assert take(queue, actor=1).number == 1
    assert queue.take(1, None, (1, 2)) is None
    assert take(queue, actor=2) is first
    queue.failed(first, 2, "broken")
    assert take(queue, actor=1, actors=(1, 2)) is first  # it failed on both
    queue.failed(first, 1, "broken")
    assert take(queue, actor=1, actors=(1,)) is first  # there is no other


def test_failed_items_are_reported_when_the_others_are_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids = tuple(f"s{n}" for n in range(7))
    queue = WorkQueue([item(0, samples=ids), item(1)], tries=3, window=10, ordered=False)
    for number in range(3):
        queue.failed(take(queue, actor=number, actors=(number,)), number, f"reason {number}")
    queue.done(take(queue), "result")
    assert returned(queue) == [1]
    assert queue.open == 0
    with pytest.raises(RunError) as caught:
        queue.check()
    assert str(caught.value) == (
        "item 0: failed after 3 tries; the last error: reason 2; "
        "samples s0, s1, s2, s3, s4 and 2 more (see the log)"
    )
    assert "s0, s1, s2, s3, s4, s5, s6" in caplog.text


def test_in_order_no_result_follows_a_failed_item() -> None:
    queue = WorkQueue((item(n) for n in range(9)), tries=1, window=4, ordered=True)
    three = [take(queue) for _ in range(3)]
    queue.failed(three[1], 1, "broken")
    queue.done(three[2], None)
    assert returned(queue) == []  # the first is still to come
    queue.done(three[0], None)
    results = queue.results()
    assert next(results)[0].args == (0,)
    with pytest.raises(RunError, match="item 1: failed after 1 try; the last error: broken"):
        next(results)


def test_an_item_lost_with_its_node_is_tried_again_a_limited_number_of_times() -> None:
    queue = WorkQueue([item(0)], tries=1, window=4, ordered=False)
    for _ in range(MOST_LOSSES):
        queue.lost(take(queue), "its node died")
    queue.check()
    queue.lost(take(queue), "its node died")
    with pytest.raises(RunError, match="its node died"):
        queue.check()


@settings(deadline=None)
@given(st.data(), st.integers(0, 12), st.integers(1, 5), st.booleans())
def test_every_item_is_returned_once_or_reported(
    data: st.DataObject, count: int, window: int, ordered: bool
) -> None:
    """For all outcomes of items in all orders."""
    queue = WorkQueue((item(n) for n in range(count)), tries=2, window=window, ordered=ordered)
    out: list[ItemState] = []
    back: list[int] = []
    failed = 0
    try:
        while queue.open:
            assert queue.open <= window
            actors = [1, 2]
            while (state := queue.take(data.draw(st.sampled_from(actors)), None, actors)) or (
                state := queue.take(1, None, actors) or queue.take(2, None, actors)
            ):
                out.append(state)
            state = out.pop(data.draw(st.integers(0, len(out) - 1)))
            fate = data.draw(st.sampled_from(["done", "done", "failed", "lost", "back"]))
            if fate == "done":
                queue.done(state, state.number)
            elif fate == "failed":
                queue.failed(state, data.draw(st.sampled_from(actors)), "broken")
                failed += state.tries == 2
            elif fate == "lost":
                queue.lost(state, "lost")
            else:
                queue.put_back(state)
            back += returned(queue)
        queue.check()
    except RunError:
        assert failed
    else:
        assert sorted(back) == list(range(count))
    assert len(set(back)) == len(back)
    if ordered:
        assert back == sorted(back)
    else:
        assert len(back) + failed >= count
