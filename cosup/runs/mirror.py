"""Runs whose directory is a URI: written in a staging folder of this machine, copied from there.

The run itself knows nothing of it: it writes a local directory as any run does. While it goes on,
a thread copies what has changed every minute, oldest first, so that what has arrived is always a
run as it stood at some moment, which can be resumed, on any machine. The file `SESSION` at the URI
names the staging folder that wrote there last: that one is further than the URI when it resumes;
any other is out of date, and is fetched anew.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cosup.errors import RunError, UserError
from cosup.layout import MARKER
from cosup.remote import is_uri, shown, split
from cosup.runs.directory import check_flags
from cosup.runs.staging import SESSION, Staging, has_content, staging_root

__all__ = ["mirrored", "staging_root", "usable"]

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two copies of what has changed."""
PAUSES = (0.0, 2.0, 10.0)
"""Seconds before each of the tries to copy what is left at the end."""
CHOOSE = "choose another with --output or run.name"


@contextmanager
def mirrored(place: str, *, resume: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """The local directory to run in, for a run's place: the place itself, if it is a path.

    For a URI it is the staging folder. It holds, with `resume`, what the run at the URI has; else
    it is empty. At the end, also of a run that fails, all of it is copied; a finished run's staging
    folder is then removed.

    Raises `UserError`, and nothing is changed, if there is a run and neither flag is given, if
    there is something else, if the URI can't be used, or if another process of this machine writes
    the run. `RunError`, after everything is done, if the run can't be copied: it stays where it is,
    and resuming copies it.
    """
    if not is_uri(place):
        yield Path(place)
        return
    check_flags(resume, overwrite)
    parent, name = split(place)
    root = staging_root(parent)
    with _locked(root / SESSION / f"{name}.lock", place):
        staging = Staging(place, root / name, root / SESSION / f"{name}.json")
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
                f"{failure}; nothing is lost: the run is finished and whole in {staging.path}, and "
                "the same command with --resume copies it from there"
            ) from failure
        staging.empty()


def _take_over(staging: Staging, resume: bool, overwrite: bool) -> None:
    """Make the staging folder what the run begins with, and the URI's last writer."""
    with usable():
        there, writer = staging.look()
    ours = writer is not None and writer == staging.identity
    _check_free(staging, there, ours, resume, overwrite)
    if overwrite:
        staging.empty()
        staging.clear(there)
    elif resume and (ours or not (there or writer)):
        staging.fetch(there)
    elif resume and there:
        if has_content(staging.path):
            log.info("another machine has gone on with %s; what was here is older", staging.name)
        staging.empty()
        staging.fetch(there)
    else:
        staging.empty()
    with usable():
        staging.sign()


@contextmanager
def usable() -> Iterator[None]:
    """Before the run has begun, what fails is the URI or the rights to it: the user's to mend."""
    try:
        yield
    except RunError as error:
        raise UserError(f"run.output: {error}") from error


def _check_free(
    staging: Staging, there: dict[str, int], ours: bool, resume: bool, overwrite: bool
) -> None:
    """Refuse as a local directory is refused, in the same words (`cosup.runs.directory`)."""
    kept = ours and MARKER in staging.files()  # not copied yet, and as good as there
    if not (there or kept):
        return
    run = kept or MARKER in there
    where = f"run directory {staging.name}"
    if not (resume or overwrite):
        more = (
            "--resume goes on with it, --overwrite replaces it"
            if run
            else f"it holds other files; {CHOOSE}"
        )
        raise UserError(f"{where}: exists and is not empty; {more}")
    if not run:
        flag = "--resume" if resume else "--overwrite"
        raise UserError(f"{where}: {flag} needs a cosup run, and this is none; {CHOOSE}")


class _Pusher(threading.Thread):
    """Copies what has changed now and then; a failure is a warning, and is tried again."""

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
        """Let it finish the copy it is at."""
        self._stopped.set()
        self.join()

    def __enter__(self) -> "_Pusher":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _copied(staging: Staging, finished: bool) -> Exception | None:
    """Copy all that is left; why not, if that fails."""
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
    """Let an error and its notes speak of the URI, where all of the run is, or say what is not."""
    if failure is not None:
        error.add_note(f"what is finished is kept in {staging.path}, but not all of it: {failure}")
        return
    local = str(staging.path)
    if isinstance(error, UserError):
        about = f"run directory {local}"
        error.args = tuple(
            str(a).replace(about, f"run directory {staging.name}") for a in error.args
        )
    if getattr(error, "__notes__", None):
        error.__notes__ = [note.replace(local, staging.name) for note in error.__notes__]
    if not has_content(staging.path):
        with suppress(RunError):
            staging.drop()


@contextmanager
def _locked(path: Path, uri: str) -> Iterator[None]:
    """Hold a lock; the kernel lets go of it however the process ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"{path.parent}: the staging folder of {shown(uri)} is not writable "
            f"({error.strerror}); set COSUP_CACHE to a folder that is"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"run directory {shown(uri)}: is being written by another run (process {pid}); "
                f"wait for it, or {CHOOSE}"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
