"""Turn a config that is written in Python into the values that YAML has."""

import os
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel

from cosup.config.references import texts
from cosup.config.yaml import MOST_LEVELS, MOST_VALUES
from cosup.errors import Key, UserError, raise_all

MOST_BITS = 64
"""Python does not even write whole numbers of some thousand bits."""
ALLOWED = "text, numbers, True, False, None, and lists and mappings of these"


def plain_tree(tree: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    """Return a copy of nested settings that contains only what YAML can hold.

    A path becomes text, a tuple, a set (sorted) or an array a list, a number of NumPy or PyTorch a
    number, a member of an enumeration its value, and a section of a config a mapping. Raises
    `UserError` with every value that is none of these, and for more values or deeper ones than a
    config may hold; where: what it names as their place.
    """
    copier = _Copier()
    try:
        made = copier.copied_mapping(tree, ())
    except UserError as error:
        raise error.moved(where=where) from None
    raise_all(error.moved(where=where) for error in copier.errors)
    return made


class _Copier:
    """Copies values, and collects an error for each that YAML cannot hold."""

    def __init__(self) -> None:
        self.errors: list[UserError] = []
        self.values = 0

    def copied_mapping(self, tree: Mapping[Any, Any], key: Key) -> dict[Any, Any]:
        made = {}
        for name in tree:
            plain = self.copied(name, key)
            if isinstance(plain, list | dict):
                self._refuse(name, key)
            else:
                made[plain] = self.copied(tree[name], (*key, str(plain)))
        return made

    def copied(self, value: Any, key: Key) -> Any:
        self.values += 1
        if len(key) > MOST_LEVELS:
            problem = f"is nested in more than {MOST_LEVELS} levels, or contains itself"
            raise UserError(problem, key=key[:1])
        if self.values > MOST_VALUES:
            raise UserError(f"holds more than {MOST_VALUES:,} values", key=key[:1])
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            self.errors.append(UserError(f"a whole number of more than {MOST_BITS} bits", key=key))
            return None
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json", by_alias=True)
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, Mapping):
            return self.copied_mapping(value, key)
        return self._copied_rest(value, key)

    def _copied_rest(self, value: Any, key: Key) -> Any:
        """Copy lists, what is like them, and numbers of other libraries."""
        if isinstance(value, set | frozenset):
            value = sorted(value, key=str)
        if isinstance(value, list | tuple | range):
            return [self.copied(item, (*key, str(index))) for index, item in enumerate(value)]
        if hasattr(value, "tolist"):  # numbers and arrays of NumPy, PyTorch and pandas
            return self.copied(value.tolist(), key)
        if isinstance(value, str | int | float):  # their subclasses, which YAML does not write
            return next(kind(value) for kind in (str, int, float) if isinstance(value, kind))
        self._refuse(value, key)
        return None

    def _refuse(self, value: Any, key: Key) -> None:
        problem = "a config cannot hold this value"
        self.errors.append(UserError(problem, key=key, value=value, allowed=ALLOWED))


def bad_texts(tree: Any) -> Iterator[UserError]:
    """Find the texts of a config that neither a path nor a file can hold."""
    for key, text in texts(tree):
        if "\0" in text or not _is_unicode(text):
            yield UserError("must be {allowed}", key=key, value=text, allowed="Unicode without NUL")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # halves of surrogate pairs
        return False
    return True
