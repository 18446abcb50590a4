"""Input that nobody meant: damaged copies of valid files, and values of wrong types.

Each property has a budget of examples that fits into every run of the suite, and a longer one for
`pytest -m fuzz`, with other examples each time.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cosup.errors import UserError

SHORT, LONG = 40, 4000

budgets = pytest.mark.parametrize(
    "examples", [SHORT, pytest.param(LONG, marks=[pytest.mark.fuzz, pytest.mark.slow])]
)
"""Give a test its budget, as `examples`."""


def hold(prop: Callable[..., None], examples: int, **inputs: st.SearchStrategy[Any]) -> None:
    """Assert that a property holds for so many examples of its inputs.

    The short budget draws the same examples each time: a failure in CI is one of the change.
    """
    short = examples == SHORT
    found = settings(
        max_examples=examples,
        deadline=None,
        derandomize=short,
        database=None,
        phases=[Phase.explicit, Phase.generate, *([] if short else [Phase.shrink])],
        suppress_health_check=list(HealthCheck),
    )(given(**inputs)(prop))
    found()


def refusal(call: Callable[..., object], *args: Any) -> UserError | None:
    """Return the error that a call raises, None if it succeeds.

    Asserts that it is a line per mistake, which a terminal takes as text. Other errors are raised.
    """
    found = None
    try:
        call(*args)
    except UserError as error:
        found = error
    if found is not None:
        lines = [str(one) for one in found.errors]
        assert 1 <= len(lines) <= 400
        assert [line for line in lines if not line.isprintable() or len(line) > 5000] == []
    return found


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Return copies of a file's content: cut, with other bytes in some places, or with a part
    repeated or left out."""
    size = len(content)
    place = st.integers(0, size)
    flips = st.dictionaries(st.integers(0, max(0, size - 1)), st.integers(0, 255), max_size=8)
    return st.one_of(
        place.map(lambda at: content[:at]),
        flips.map(lambda at: bytes(at.get(n, byte) for n, byte in enumerate(content))),
        st.tuples(place, st.binary(max_size=8)).map(
            lambda one: content[: one[0]] + one[1] + content[one[0] :]
        ),
        st.tuples(place, place).map(lambda two: content[: two[0]] + content[two[1] :]),
    )


TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "\0", "\ud800", "-1", "nan", "1e999", "x" * 300, "a/b", "../..", "=1", "é", "http://["]
    ),
)
NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([10**19, -(10**19), 10**400, 2**63, 2**31]),
    st.floats(),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
"""What JSON and YAML hold, and what they hold though they should not."""


def changed(tree: Any) -> st.SearchStrategy[Any]:
    """Return copies of a tree of JSON with another value in one to three places, or without it."""

    def changed_once(value: Any, picks: list[int], new: Any, drop: bool) -> Any:
        if isinstance(value, dict | list) and value and picks:
            copy = dict(value) if isinstance(value, dict) else list(value)
            keys = list(copy) if isinstance(copy, dict) else range(len(copy))
            key = keys[picks[0] % len(keys)]
            if drop and len(picks) == 1:
                del copy[key]
            else:
                copy[key] = changed_once(copy[key], picks[1:], new, drop)
            return copy
        return new

    picks = st.lists(st.integers(0, 50), min_size=1, max_size=6)
    edits = st.lists(st.tuples(picks, VALUES, st.booleans()), min_size=1, max_size=3)

    def apply(steps: list[tuple[list[int], Any, bool]]) -> Any:
        found = tree
        for path, new, drop in steps:
            found = changed_once(found, path, new, drop)
        return found

    return edits.map(apply)


def json_bytes(tree: Any) -> bytes:
    """Return JSON as a careless program writes it: with NaN, and halves of surrogate pairs."""
    return json.dumps(tree).encode()
