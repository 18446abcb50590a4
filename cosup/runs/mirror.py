"""Run in a staging folder on this machine, and copy the run from there to a URI.

The run writes a local directory as any run does. Meanwhile a thread copies what has changed every
minute, oldest first, so that the URI always holds the run in a state that it had, which can be
resumed on any machine. The file `SESSION` at the URI names the staging folder that wrote there
last. On resume that folder is ahead of the URI; any other one is out of date and is fetched again.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cosup.errors import RunError, UserError
from cosup.layout import MARKER
from cosup.remote import is_uri, split
from cosup.runs.directory import check_existing, check_flags, locked_error
from cosup.runs.lock import Locked, locked
from cosup.runs.staging import SESSION, Staging, has_content, staging_root
from cosup.secrets import mask

__all__ = ["mirrored", "staging_root", "usable"]

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two copies of what has changed."""
PAUSES = (0.0, 2.0, 10.0)
"""Seconds before each attempt to copy the rest at the end."""


@contextmanager
def mirrored(
    place: str, *, resume: bool = False, overwrite: bool = False, sharded: bool = False
) -> Iterator[Path]:
    """Yield the local directory to run in: the place itself if it is a path.

    For a URI it is the staging folder. With `resume` it holds the files of the run at the URI, else
    it is empty. At the end it is copied, also if the run fails; the staging folder of a finished
    run is then removed. sharded: the files of shards are written at the URI alone.

    Raises `UserError`, and changes nothing, if there is a run and neither flag is given, if there
    are other files, if the URI cannot be used, or if another process of this machine is writing the
    run. Raises `RunError` at the end if the run cannot be copied: it is kept, and resuming copies
    it.
    """
    if not is_uri(place):
        yield Path(place)
        return
    check_flags(resume, overwrite)
    parent, name = split(place)
    root = staging_root(parent)
    with _locked(root / SESSION / f"{name}.lock", place):
        staging = Staging(place, root / name, root / SESSION / f"{name}.json", sharded)
        _take_over(staging, resume, overwrite)
        with _Pusher(staging) as pusher:
            try:
                yield staging.path
            except BaseException as error:
                pusher.stop()
                _explain(error, staging, _copied(staging, finished=False))
                raise
        failure = _copied(staging, finished=True)
        if failure is not None:
            raise RunError(
                f"{failure}; nothing is lost: the run is finished and complete in {staging.path}; "
                "the same command with --resume copies it from there"
            ) from failure
        with suppress(RunError):
            staging.sign(ended=True)
        staging.empty()


def _take_over(staging: Staging, resume: bool, overwrite: bool) -> None:
    """Fill or empty the staging folder, and record it as the last writer of the URI."""
    with usable():
        there, writer = staging.state()
    ours = writer is not None and writer == staging.identity
    _check_free(staging, there, ours, resume, overwrite)
    if overwrite:
        staging.empty()
        staging.clear(there)
    elif resume and (ours or not (there or writer)):
        staging.fetch(there)
    elif resume and there:
        if has_content(staging.path):
            log.info("another machine has continued %s; the files here are older", staging.name)
        staging.empty()
        staging.fetch(there)
    else:
        staging.empty()
    with usable():
        staging.sign()


@contextmanager
def usable() -> Iterator[None]:
    """Turn a `RunError` into a `UserError`: before a run, the URI or the rights to it are wrong."""
    try:
        yield
    except RunError as error:
        raise UserError(str(error), key="run.output") from error


def _check_free(
    staging: Staging, there: dict[str, int], ours: bool, resume: bool, overwrite: bool
) -> None:
    """Raise `UserError` as for a local directory (`cosup.runs.directory`)."""
    pending = ours and MARKER in staging.files()  # not copied yet, but it belongs to the URI
    if there or pending:
        check_existing(staging.name, pending or MARKER in there, resume, overwrite)


class _Pusher(threading.Thread):
    """Copies at intervals what has changed. A failure is logged, and tried again."""

    def __init__(self, staging: Staging) -> None:
        super().__init__(name="cosup-mirror", daemon=True)
        self.staging = staging
        self.failure = ""
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(EVERY):
            try:
                self.staging.push()
            except Exception as error:
                if str(error) != self.failure:
                    log.warning("%s; trying again every %.0f s", error, EVERY)
                self.failure = str(error)
                continue
            if self.failure:
                log.info("%s is up to date again", self.staging.name)
            self.failure = ""

    def stop(self) -> None:
        """Stop after the copy that is going on."""
        self._stopped.set()
        self.join()

    def __enter__(self) -> "_Pusher":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _copied(staging: Staging, finished: bool) -> Exception | None:
    """Copy what is left. Return the failure if that is not possible."""
    failure: Exception | None = None
    for pause in PAUSES:
        time.sleep(pause)
        try:
            staging.push(last=True, finished=finished)
        except KeyboardInterrupt:
            return RunError(f"{staging.name}: interrupted while copying")
        except Exception as error:
            failure = error
        else:
            return None
    return failure


def _explain(error: BaseException, staging: Staging, failure: Exception | None) -> None:
    """Make an error and its notes name the URI, or the staging folder if not all was copied."""
    if failure is not None:
        error.add_note(f"finished work is kept in {staging.path}, but not all of it: {failure}")
        return
    local = str(staging.path)
    if isinstance(error, UserError) and error.where is not None:
        error.where = error.where.replace(local, staging.name)
    if getattr(error, "__notes__", None):
        error.__notes__ = [note.replace(local, staging.name) for note in error.__notes__]
    if not has_content(staging.path):
        with suppress(RunError):
            staging.drop()


@contextmanager
def _locked(path: Path, uri: str) -> Iterator[None]:
    """Hold the lock of a staging folder."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
        except Locked as error:
            raise locked_error(mask(uri), error.process) from None
        except OSError as error:
            raise UserError(
                f"the staging folder of {mask(uri)} is not writable ({error.strerror}); set "
                "COSUP_CACHE to a folder that is",
                where=str(path.parent),
            ) from None
        yield
