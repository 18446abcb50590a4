"""Catch the `UserError` of a call, to assert on its key, value and what is allowed."""

from collections.abc import Callable
from typing import Any

import pytest

from cosup.errors import UserError


def error_of(call: Callable[..., object], *args: Any, **settings: Any) -> UserError:
    """Return the `UserError` that the call raises; its text must be one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **settings)
    assert "\n" not in str(caught.value)
    return caught.value
