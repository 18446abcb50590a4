"""Stop a command at a signal, where its work can be resumed.

SIGTERM (a job that is stopped, a machine that shuts down) and SIGHUP (a terminal that is closed)
stop it at once, like Ctrl-C. A warning signal, which a job scheduler sends some time before it ends
a job, lets a training finish its step and save its state first.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "asked_to_stop", "finishing_steps", "stopped_by_signals"]


class Stopped(KeyboardInterrupt):
    """The command was stopped by a signal, which the message names."""

    def __init__(self, name: str) -> None:
        super().__init__(f"stopped by {name}")


class _Steps:
    """Whether a training is under way that can stop between its steps."""

    running = 0
    asked = ""
    """The name of the warning signal that arrived, while the training finishes its step."""


@contextmanager
def stopped_by_signals(warning: str | None = "SIGUSR1") -> Iterator[None]:
    """Raise `Stopped` within at SIGTERM, SIGHUP and the warning signal; None is no warning signal.

    A signal that is ignored (SIGHUP by `nohup`) stays ignored. A hangup or a warning is no second
    interruption: it does not stop a command that is stopping already. Only in the main thread.
    """
    process, names = os.getpid(), ["SIGTERM", "SIGHUP", *([warning] if warning else [])]
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]
    stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        name = signal.Signals(number).name
        if os.getpid() != process and name != "SIGTERM":
            return  # a child that loads images, as a whole group of processes got it
        if name == warning and _Steps.running and not _Steps.asked:
            _Steps.asked = name
            return
        if stopping and name != "SIGTERM":
            return
        stopping = True
        _leave([stream for stream in terminals if not os.isatty(stream)])
        raise Stopped(name)

    before = {}
    for name in names:
        number = signal.Signals[name]
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(terminals: Sequence[int]) -> None:
    """Write no more to terminals that are closed, as each write to them fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in terminals:
        os.dup2(nowhere, stream)
    os.close(nowhere)


@contextmanager
def finishing_steps() -> Iterator[None]:
    """Let a warning signal within wait until `asked_to_stop` is asked between two steps.

    Raises `Stopped` at the end if it was not.
    """
    _Steps.running += 1
    try:
        yield
    finally:
        _Steps.running -= 1
        asked, _Steps.asked = _Steps.asked, ""
    if asked:
        raise Stopped(asked)


def asked_to_stop() -> bool:
    """Return whether to save the state and leave `finishing_steps`, as a warning has arrived."""
    return bool(_Steps.asked)
