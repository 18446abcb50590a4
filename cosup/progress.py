"""Tell how far a long piece of work is; who runs the work decides how that is shown.

The work says what it does, and counts:

    with working_on("decoding images", total=len(images)) as advance:
        for image in images:
            ...
            advance(1)

Nothing is shown unless a way to show it is given (`shown_by`), as a run does.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["Advance", "Show", "shown_by", "working_on"]

Advance = Callable[[int], None]
"""Called with the number of items that are newly done."""
Show = Callable[[str, int | None], AbstractContextManager[Advance]]
"""Shows a piece of work while it is open: (what is done, number of items or None)."""

_show: Show | None = None


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Show the progress of all work of this process by a function while this is open."""
    global _show
    before, _show = _show, show
    try:
        yield
    finally:
        _show = before


@contextmanager
def working_on(what: str, total: int | None = None) -> Iterator[Advance]:
    """Open a piece of work, which may be a part of another one.

    what: what is done, such as `decoding images`. total: the number of items, if it is known.
    Yields a function to call with the number of items that are newly done.
    """
    if _show is None:
        yield _ignored
        return
    with _show(what, total) as advance:
        yield advance


def _ignored(count: int) -> None:
    """Show nothing."""
