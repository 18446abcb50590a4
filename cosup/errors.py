"""Errors that the user can correct, as data: the setting, its value, and what is allowed."""

import copy
import difflib
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Final, Self

from cosup.origins import with_places
from cosup.secrets import HIDDEN, is_secret_name, mask
from cosup.words import brief, either, literal, printable

__all__ = [
    "MISSING",
    "Key",
    "Mistakes",
    "RunError",
    "UserError",
    "UserErrors",
    "about",
    "in_short",
    "known_names",
    "raise_all",
    "unknown_name",
    "unknown_of_many",
    "within",
]

Key = tuple[str, ...]
"""A setting's place in a config: the keys and list indices that lead to it."""


OUT_OF_MEMORY = "OutOfMemoryError"
"""The name of torch's error; torch is not imported here."""
LESS_MEMORY = (
    "less is needed with a smaller execution.batch_size, and in a training with a smaller "
    "batch_size or a larger accumulate"
)


class _Missing(Enum):
    MISSING = "missing"


MISSING: Final = _Missing.MISSING
"""The value of an error that is about no value."""


class UserError(ValueError):
    """A mistake in a setting or file. The command line prints it and exits with 2.

    `str(error)` is one line: `where: key: value: problem; did you mean 'x'? (allowed: ...)`, with
    the parts that are known. Passwords and keys in it are masked.
    """

    problem: str
    """What is wrong. `{value}` and `{allowed}` in it stand for the two attributes, which are then
    not repeated before and after it."""
    key: Key
    """The setting's full key, as far as it is known; empty for an error about no setting."""
    value: object
    """The value that is wrong; `MISSING` where there is none."""
    allowed: str | None
    """What would be valid, in words."""
    nearest: tuple[str, ...]
    """Valid names that are close to the one given, best first."""
    where: str | None
    """The file, or the part of a run, that the error is about."""

    def __init__(
        self,
        problem: str,
        *,
        key: str | Sequence[str] = (),
        value: object = MISSING,
        allowed: str | None = None,
        nearest: Iterable[str] = (),
        where: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.key = _parts(key)
        self.value = value
        self.allowed = allowed
        self.nearest = tuple(nearest)
        self.where = where

    @property
    def errors(self) -> "tuple[UserError, ...]":
        """The single mistakes: this one, or those of a `UserErrors`."""
        return (self,)

    def at(self, key: Key) -> Self:
        """Return a copy with another key."""
        changed = copy.copy(self)
        changed.key = key
        return changed

    def moved(self, key: str | Sequence[str] = (), where: str | None = None) -> Self:
        """Return a copy with `key` put before its key and `where` before its place."""
        moved = copy.copy(self)
        moved.key = (*_parts(key), *self.key)
        moved.where = _joined(where, self.where)
        return moved

    def __str__(self) -> str:
        shown = HIDDEN if self.key and is_secret_name(self.key[-1]) else self.value
        value = None if self.value is MISSING else literal(shown)
        before = None if "{value}" in self.problem else value
        after = None if "{allowed}" in self.problem else self.allowed
        text = self.problem.replace("{value}", value or "").replace("{allowed}", self.allowed or "")
        if self.nearest:
            text += f"; did you mean {either([repr(name) for name in self.nearest])}?"
        if after:
            text += f" (allowed: {after})"
        whole = ": ".join(filter(None, (self.where, ".".join(self.key), before, text)))
        return printable(mask(with_places(whole)))


class UserErrors(UserError):
    """Several mistakes at once, in `errors`; `str(error)` has a line for each."""

    def __init__(self, errors: Iterable[UserError]) -> None:
        self._errors = tuple(single for error in errors for single in error.errors)
        super().__init__("\n".join(error.problem for error in self._errors))
        self.args = (self._errors,)  # what pickle and copy call the constructor with

    @property
    def errors(self) -> tuple[UserError, ...]:
        """The single mistakes."""
        return self._errors

    def moved(self, key: str | Sequence[str] = (), where: str | None = None) -> Self:
        """Return a copy in which every mistake is moved."""
        moved = copy.copy(self)
        moved._errors = tuple(error.moved(key, where) for error in self._errors)
        moved.args = (moved._errors,)
        return moved

    def __str__(self) -> str:
        return "\n".join(map(str, self._errors))


class RunError(RuntimeError):
    """A failure that no check could foresee, such as a full disk or a loss that diverges.

    The command line prints it, with the command that resumes the run, and exits with 1.
    `str(error)` is one line.
    """

    def __init__(self, problem: str, *, where: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        """The part of a run that failed."""

    def moved(self, where: str) -> Self:
        """Return a copy with `where` put before its place."""
        moved = copy.copy(self)
        moved.where = _joined(where, self.where)
        return moved

    def __str__(self) -> str:
        text = mask(with_places(_joined(self.where, self.problem) or ""))
        return printable(" ".join(filter(None, map(str.strip, text.splitlines()))))


@contextmanager
def within(key: str | Sequence[str]) -> Iterator[None]:
    """Put `key` before the key of a `UserError` raised inside, by code that does not know which
    setting its input comes from. A `RunError` gets the key as its place."""
    try:
        yield
    except UserError as error:
        raise error.moved(key) from error
    except RunError as error:
        raise error.moved(".".join(_parts(key))) from error


@contextmanager
def about(where: str) -> Iterator[None]:
    """Add the file, or the part of a run, to an error raised inside."""
    try:
        yield
    except UserError as error:
        raise error.moved(where=where) from error
    except RunError as error:
        raise error.moved(where) from error


class Mistakes:
    """Collects the user errors of checks that do not depend on each other, to raise all at once."""

    def __init__(self) -> None:
        self.errors: list[UserError] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Keep a `UserError` raised inside, and go on after the block."""
        try:
            yield
        except UserError as error:
            self.add(error.errors)

    def add(self, errors: Iterable[UserError]) -> None:
        """Keep errors; of equal ones the first."""
        seen = {str(error) for error in self.errors}
        self.errors += [error for error in errors if str(error) not in seen]

    def raise_all(self) -> None:
        """Raise what was kept, one error as itself; do nothing if there is none."""
        raise_all(self.errors)


def raise_all(errors: Iterable[UserError]) -> None:
    """Raise one error as itself, several as a `UserErrors`; do nothing if there are none."""
    found = tuple(errors)
    if len(found) == 1:
        raise found[0]
    if found:
        raise UserErrors(found)


def known_names(names: Iterable[str]) -> str:
    """Return `a, b, c`, sorted, for the `allowed` of an error."""
    return ", ".join(sorted(names))


def unknown_name(
    kind: str, name: str, known: Iterable[str], key: str | Sequence[str] = ()
) -> UserError:
    """Return the error for a misspelt name, with the nearest known one and a list of all."""
    known = sorted(known)
    same = [other for other in known if other.casefold() == name.casefold()]
    return UserError(
        f"unknown {kind} {{value}}",
        key=key,
        value=name,
        allowed=", ".join(known),
        nearest=same[:1] or difflib.get_close_matches(name, known, n=1, cutoff=0.5),
    )


def unknown_of_many(
    kind: str, name: str, known: Iterable[str], allowed: str, like: str | None = None
) -> UserError:
    """Return the error for a misspelt name where the known ones are too many to list.

    It has the nearest three (to `like`, by default the name), and `allowed` in words.
    """
    near = difflib.get_close_matches(name if like is None else like, list(known), n=3, cutoff=0.5)
    return UserError(f"unknown {kind} {{value}}", value=name, allowed=allowed, nearest=near)


def in_short(error: BaseException, named: bool = False) -> str:
    """Return the message of another library's error as one line, without secrets, cut as by
    `words.brief`.

    Without a message it is the error's type. named: begin with the type in any case. torch's
    refusal of a pickle is put into words of our own: it advises to switch the check off. To that
    of a full GPU the settings are added that need less of it.
    """
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or a pickle of more than tensors"
    kind, text = type(error).__name__, brief(mask(str(error)))
    if kind == OUT_OF_MEMORY:
        text = f"{text.rstrip('.')}; {LESS_MEMORY}"
    return f"{kind}: {text}" if named and text else text or kind


def _parts(key: str | Sequence[str]) -> Key:
    if isinstance(key, str):
        return tuple(key.split(".")) if key else ()
    return tuple(map(str, key))


def _joined(*parts: str | None) -> str | None:
    return ": ".join(filter(None, parts)) or None
