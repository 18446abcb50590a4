"""Give the records of a run to a logger in the background. What a logger fails at is a warning."""

import logging
import threading
from collections.abc import Sequence

from cosup.errors import in_short
from cosup.runs.loggers.base import Ended, LoggedRun, Logger, Scalar
from cosup.words import plural

__all__ = ["Sender"]

log = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two deliveries."""
PAUSE = 60.0
"""Seconds after a failure, before everything is tried again."""
LAST = 60.0
"""Seconds that the end of a run waits for the last delivery."""


class Sender(threading.Thread):
    """Delivers numbers to a logger, those of earlier processes first. A `Writer` of the recorder.

    Nothing is delivered before the first number, so that a run that is refused leaves no trace.
    """

    def __init__(
        self, name: str, logger: Logger, run: LoggedRun, earlier: Sequence[Scalar] = ()
    ) -> None:
        super().__init__(name=f"cosup-logger-{name}", daemon=True)
        self.label, self.logger, self.run_ = name, logger, run
        self.ended = Ended("failed")
        self._all = list(earlier)
        self._delivered = 0
        self._is_open = False
        self._failure = ""
        self._closing = threading.Event()

    def write(self, scalar: Scalar) -> None:
        """Take a number, to be delivered soon."""
        self._all.append(scalar)
        if self.ident is None:
            self.start()

    def close(self) -> None:
        """Deliver the rest and how the run ended; warn if that is not possible."""
        if not self._all:
            return
        if self.ident is None:
            self.start()
        self._closing.set()
        self.join(LAST)
        missing = len(self._all) - self._delivered
        if self.is_alive() or self._failure:
            reason = self._failure or f"no end within {LAST:.0f} s"
            log.warning(
                "%s: %s not delivered (%s); nothing is lost: metrics.jsonl has everything, and the "
                "same command with --resume delivers it",
                self.label,
                plural(missing, "number") if missing else "the end of the run",
                reason,
            )

    def run(self) -> None:
        """Deliver at intervals, and a last time when the run ends."""
        while not self._closing.wait(PAUSE if self._failure else EVERY):
            self._deliver()
        self._deliver(self.ended)

    def _deliver(self, ended: Ended | None = None) -> None:
        try:
            if not self._is_open:
                self.run_.folder.mkdir(parents=True, exist_ok=True)
                self.logger.start(self.run_)
                self._is_open, self._delivered = True, 0
            batch = self._all[self._delivered :]
            if batch:
                self.logger.log(batch, self._delivered)
                self._delivered += len(batch)
            if ended is not None:
                self.logger.end(ended)
        except Exception as error:  # whatever a logger fails at, the run continues
            self._is_open = False
            reason = in_short(error)
            if reason != self._failure and ended is None:
                log.warning("%s: %s; trying again every %.0f s", self.label, reason, PAUSE)
            self._failure = reason
            return
        if self._failure:
            log.info("%s: up to date again", self.label)
        self._failure = ""
