"""Catch the `UserError` of a call, to assert on its key, value and what is allowed."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from pydantic import ValidationError

from cosup.errors import UserError


def error_of(call: Callable[..., object], *args: Any, **settings: Any) -> UserError:
    """Return the `UserError` that a call raises; assert that its text is one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **settings)
    assert "\n" not in str(caught.value)
    return caught.value


def mistakes_of(function: Callable[..., object], *arguments: Any) -> tuple[UserError, ...]:
    """Return the single mistakes of the `UserError` that a call raises."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    errors = caught.value.errors
    assert [str(error) for error in errors] == str(caught.value).splitlines()
    return errors


def key_of(error: UserError) -> str:
    """Return the key of an error, dotted."""
    return ".".join(error.key)


def keys_of(errors: Iterable[UserError]) -> list[str]:
    """Return the keys of errors, dotted and sorted."""
    return sorted(map(key_of, errors))


def section_error_of(call: Callable[..., object], *args: Any, **settings: Any) -> UserError:
    """Return the `UserError` of a config section that the call builds."""
    with pytest.raises(ValidationError) as caught:
        call(*args, **settings)
    (found,) = caught.value.errors()
    error = found["ctx"]["error"]
    assert isinstance(error, UserError)
    return error
