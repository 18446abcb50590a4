"""The errors that cosup explains to its user in one line."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake the user can mend: names the setting or file, the value, and what is allowed.

    The command line prints it as one line and exits with 2.
    """


class RunError(RuntimeError):
    """A failure while running that no check could foresee (a full disk, a loss that diverged).

    The command line prints it as one line, says how to resume, and exits with 1.
    """


@contextmanager
def about(where: str) -> Iterator[None]:
    """Put the setting, or the part of a run, before an error raised where it isn't known."""
    try:
        yield
    except (UserError, RunError) as error:
        raise type(error)(f"{where}: {error}") from error


@contextmanager
def inside(section: str) -> Iterator[None]:
    """Complete the key that an error begins with: `batch_size: 1: ...` raised by what doesn't know
    whose training section it was given becomes `student.training.batch_size: 1: ...`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{section}.{error}") from error


def known_names(names: Iterable[str]) -> str:
    """`a, b, c`, sorted, for the end of an error message."""
    return ", ".join(sorted(names))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a misspelt name: says the nearest known one and lists the others."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return UserError(f"unknown {kind} '{name}'{hint} (known: {', '.join(known)})")


def unknown_of_many(
    kind: str, name: str, known: Iterable[str], allowed: str, like: str | None = None
) -> UserError:
    """As `unknown_name`, where the known ones are too many to list: the nearest three (to `like`,
    where that isn't the name itself), and what is allowed in words."""
    near = difflib.get_close_matches(name if like is None else like, list(known), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"unknown {kind} '{name}'{hint} (allowed: {allowed})")


def in_short(error: BaseException) -> str:
    """What an error of another library says, as one line; its type where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__
