"""The directory of a run: who may write it, what is finished, and its config."""

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.config import Config, config_differences, config_hash, config_tree
from cosup.errors import UserError
from cosup.files import TEMPORARY, disk_errors, sweep
from cosup.layout import LOCK, MARKER, Layout, StageFile
from cosup.runs.logs import log_to_file

logger = logging.getLogger(__name__)


def check_flags(resume: bool, overwrite: bool) -> None:
    """Raise `UserError` where a run is both to go on and to be replaced."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; give one of them")


@dataclass(frozen=True)
class RunDirectory:
    """An open run directory: this process alone writes it.

    A stage is a named part of the run, finished once and for all: its payload is in
    `stages/NAME.json`, and a resumed run skips it.
    """

    path: Path
    resumed: bool = False

    @classmethod
    @contextmanager
    def open(
        cls, path: str | Path, config: Config, *, resume: bool = False, overwrite: bool = False
    ) -> Iterator["RunDirectory"]:
        """Take a run directory, new or (with resume or overwrite) one of an earlier run.

        `UserError`, and nothing changed on disk, if it exists and neither flag is given, holds
        anything but a run, is being written by another process, can't be written, or is resumed
        with another config. Resuming what isn't there starts anew. What goes wrong inside is
        logged with its traceback to `log.txt`, and a note on the exception names that file.
        """
        path = Path(path)
        check_flags(resume, overwrite)
        if _has_content(path) and not (resume or overwrite):
            _check_unlocked(path)
        _check_free(path, config, resume, overwrite)
        with _locked(path) as made:
            _check_free(path, config, resume, overwrite)  # of what another run did meanwhile
            resumed = resume and Layout(path).is_run()
            if overwrite:
                _clear(path)
            try:
                with _explained(path), disk_errors(path):
                    _prepare(path, config)
                with log_to_file(Layout(path).log), _explained(path), disk_errors(path):
                    yield cls(path, resumed)
            except UserError as error:
                _leave(path, made, error)
                raise

    @property
    def files(self) -> Layout:
        """Return the files of the run."""
        return Layout(self.path)

    def is_done(self, stage: str) -> bool:
        """Return whether a stage is finished."""
        return self._stage(stage).exists()

    def finish(self, stage: str, payload: dict[str, Any] | None = None) -> None:
        """Record that a stage is finished, with the plain values that later stages need."""
        self._stage(stage).write(payload or {})

    def load(self, stage: str) -> dict[str, Any]:
        """Return the payload of a finished stage. Raises `RunError` if it cannot be read."""
        return self._stage(stage).read()

    def folder(self, path: Path) -> Path:
        """Make a folder of the run. Raises `RunError` where the disk is full."""
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def _stage(self, name: str) -> StageFile:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", name), f"not a stage's name: {name!r}"
        return self.files.stage(name)


def _check_free(path: Path, config: Config, resume: bool, overwrite: bool) -> None:
    """Refuse a directory that isn't ours to write, without touching it."""
    if not _has_content(path):
        return
    if not (resume or overwrite):
        more = (
            "--resume goes on with it, --overwrite replaces it"
            if Layout(path).is_run()
            else ("it holds other files; choose another with --output or run.name")
        )
        raise UserError(f"run directory {path}: exists and is not empty; {more}")
    if not Layout(path).is_run():
        flag = "--resume" if resume else "--overwrite"
        raise UserError(
            f"run directory {path}: {flag} needs a cosup run, and this is none "
            f"(no {MARKER}); choose another with --output or run.name"
        )
    if resume:
        _check_same_config(path, config)


def _has_content(path: Path) -> bool:
    """Is there more than what a run leaves that is killed in its first moment?"""
    try:
        names = {entry.name for entry in os.scandir(path)}
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise UserError(f"run directory {path}: it, or what it stands in, is a file") from None
    except OSError as error:
        raise UserError(f"run directory {path}: not readable ({error.strerror})") from None
    return any(name != LOCK and not name.endswith(TEMPORARY) for name in names)


def _check_same_config(path: Path, config: Config) -> None:
    files = Layout(path)
    if files.marker.read().get("config_hash") == config_hash(config):
        return
    old = files.config.read() if files.config.exists() else {}
    changes = config_differences(old, config_tree(config))
    raise UserError(
        f"run directory {path}: --resume needs the config it was started with; changed: "
        f"{'; '.join(changes) or 'the way the config is hashed'} (--overwrite starts anew)"
    )


def _check_unlocked(path: Path) -> None:
    """Refuse a directory that another process is writing."""
    with suppress(FileNotFoundError):
        handle = os.open(Layout(path).lock, os.O_RDONLY)
        try:
            _take(handle, path)
        finally:
            os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[list[Path]]:
    """Hold the run's lock; the kernel lets go of it however the process ends.

    Gives the folders that were made for it, innermost first.
    """
    made = _make(path)
    try:
        handle = os.open(Layout(path).lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        _unmake(made)
        raise UserError(f"run directory {path}: not writable ({error.strerror})") from None
    try:
        _take(handle, path)
        if not _same_file(handle, Layout(path).lock):
            raise _taken(path, "unknown")
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield made
    finally:
        os.close(handle)


def _take(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        raise _taken(path, pid) from None


def _taken(path: Path, pid: str) -> UserError:
    return UserError(
        f"run directory {path}: is being written by another run (process {pid}); wait for it, "
        "or choose another with --output or run.name"
    )


def _same_file(handle: int, path: Path) -> bool:
    """Is the open file still the one of this name? (A run that gave up removes its lock.)"""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _make(path: Path) -> list[Path]:
    """Make the folder and those above it; those made, innermost first."""
    absolute = path.absolute()
    missing = [p for p in (absolute, *absolute.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _unmake(missing)
        raise UserError(f"run directory {path}: cannot be made ({error.strerror})") from None
    return missing


def _unmake(made: list[Path]) -> None:
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


def _clear(path: Path) -> None:
    """Remove a run's files; the marker last, so that a killed overwrite can be repeated."""
    for entry in sorted(path.iterdir(), key=lambda p: p.name == MARKER):
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _prepare(path: Path, config: Config) -> None:
    """The marker and the resolved config; what a killed process was writing is removed."""
    sweep(path)
    files = Layout(path)
    if not files.marker.exists():
        files.marker.write({"format": 1, "config_hash": config_hash(config)})
    files.config.write(config_tree(config))


def _leave(path: Path, made: list[Path], error: UserError) -> None:
    """A user's mistake leaves nothing half-written, unless there is work worth resuming: a file
    in one of the run's folders (trained teachers, a seed that is finished), not records alone.
    """
    stages = Layout(path).stages.name
    if any(file.is_file() for file in path.rglob("*/*") if file.parent.name != stages):
        error.add_note(f"what is finished is kept in {path}; --resume goes on with it")
        return
    _clear(path)
    Layout(path).lock.unlink(missing_ok=True)
    _unmake(made)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Log a failure with its traceback, and note on it where that is and how to go on."""
    try:
        yield
    except UserError:
        raise
    except KeyboardInterrupt as error:
        logger.info("interrupted", extra={"quiet": True})
        error.add_note(f"what is finished is kept in {path}")
        raise
    except BaseException as error:
        logger.error("failed", exc_info=True, extra={"quiet": True})
        log = Layout(path).log
        traceback = f", the traceback in {log}" if log.exists() and log.stat().st_size else ""
        error.add_note(f"what is finished is kept in {path}{traceback}")
        raise
