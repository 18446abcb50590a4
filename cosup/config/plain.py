"""Turn a config that is written in Python into the values that YAML has."""

import os
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel

from cosup.errors import Key, Mistakes, UserError

ALLOWED = "text, numbers, True, False, None, and lists and mappings of these"


def plain_tree(tree: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    """Return a copy of nested settings that contains only what YAML can hold.

    A path becomes text, a tuple, a set (sorted) or an array a list, a number of NumPy or PyTorch a
    number, a member of an enumeration its value, and a section of a config a mapping. Raises
    `UserError` with every value that is none of these; where: what it names as their place.
    """
    mistakes = Mistakes()
    try:
        made = {_plain(key, (), mistakes): _plain(tree[key], (str(key),), mistakes) for key in tree}
    except RecursionError:
        raise UserError("contains itself", where=where) from None
    for error in mistakes.errors:
        error.where = where
    mistakes.raise_all()
    return made


def _plain(value: Any, key: Key, mistakes: Mistakes) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value, key, mistakes)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {
            _plain(name, key, mistakes): _plain(item, (*key, str(name)), mistakes)
            for name, item in value.items()
        }
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple | range):
        return [_plain(item, (*key, str(index)), mistakes) for index, item in enumerate(value)]
    if hasattr(value, "tolist"):  # numbers and arrays of NumPy, PyTorch and pandas
        return _plain(value.tolist(), key, mistakes)
    if isinstance(value, str | int | float):  # their subclasses, which YAML does not write
        return next(kind(value) for kind in (str, int, float) if isinstance(value, kind))
    problem = "a config cannot hold this value"
    mistakes.add([UserError(problem, key=key, value=value, allowed=ALLOWED)])
    return None
