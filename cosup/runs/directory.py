"""Open the directory of a run for one writer, and record which stages are finished."""

import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.config import Config, config_differences, config_hash, config_tree
from cosup.errors import RunError, UserError
from cosup.files import TEMPORARY, disk_errors, remove_empty, sweep
from cosup.layout import FORMAT, LOCK, MARKER, Layout
from cosup.layout.kinds import JsonFile, StageFile, YamlFile
from cosup.manifest import MANIFEST, Damaged, Manifest
from cosup.runs.lock import Locked, check_unlocked, locked
from cosup.runs.logs import log_to_file
from cosup.runs.repair import repair

log = logging.getLogger(__name__)


CHOOSE = "choose another with --output or run.name"


def check_flags(resume: bool, overwrite: bool) -> None:
    """Raise `UserError` if a run is to be both resumed and overwritten."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; give one of them")


def place_error(place: object, problem: str) -> UserError:
    """Return the error of a run directory that cannot be used; place: its path or URI."""
    return UserError(problem, where=f"run directory {place}")


def locked_error(place: object, process: str) -> UserError:
    """Return the error of a run directory that another process is writing."""
    return place_error(
        place, f"is being written by another run (process {process}); wait for it, or {CHOOSE}"
    )


def check_existing(place: object, is_run: bool, resume: bool, overwrite: bool) -> None:
    """Raise `UserError` for a place with content that may not be resumed or overwritten."""
    if not (resume or overwrite):
        more = (
            "--resume continues the run, --overwrite replaces it"
            if is_run
            else f"it holds other files; {CHOOSE}"
        )
        raise place_error(place, f"exists and is not empty; {more}")
    if not is_run:
        flag = "--resume" if resume else "--overwrite"
        raise place_error(
            place, f"{flag} needs a cosup run, and this is none (no {MARKER}); {CHOOSE}"
        )


@dataclass(frozen=True)
class RunDirectory:
    """An open run directory, which this process alone writes.

    A stage is a named part of the run. The payload of a finished one is in `stages/NAME.json`, and
    a resumed run skips it.
    """

    path: Path
    resumed: bool = False

    @classmethod
    @contextmanager
    def open(
        cls, path: str | Path, config: Config, *, resume: bool = False, overwrite: bool = False
    ) -> Iterator["RunDirectory"]:
        """Open a new run directory, or (with resume or overwrite) that of an earlier run.

        Raises `UserError`, and changes nothing on disk, if the directory exists and neither flag is
        given, if it is not a run's, if another process is writing it, if it cannot be written, or
        if it is resumed with another config. Resuming a missing run starts it. An exception inside
        is logged with its traceback to `log.txt`, and a note on it names that file.
        """
        path = Path(path)
        check_directory(path, config, resume, overwrite)
        with _locked(path) as made:
            _check_free(path, config, resume, overwrite)  # another run may have been faster
            resumed = resume and Layout(path).is_run()
            if overwrite:
                _clear(path)
            try:
                with _closed(Layout(path)):
                    with _explained(path), disk_errors(path):
                        notes = repair(Layout(path)) if resumed else []
                        _prepare(path, config)
                    with log_to_file(Layout(path).log), _explained(path), disk_errors(path):
                        for note in notes:
                            log.warning("%s", note)
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
        self.files.record_growth()
        self._stage(stage).write(payload or {})

    def load(self, stage: str) -> dict[str, Any]:
        """Return the payload of a finished stage. Raises `RunError` if it cannot be read."""
        return self._stage(stage).read()

    def is_started(self) -> bool:
        """Return whether any stage is finished."""
        return bool(self.files.finished_stages())

    def discard_results(self) -> None:
        """Remove all that depends on the samples and their splits.

        Teachers and annotations stay, as they tell whether they are still valid, and the review.
        """
        files = self.files
        kept = {
            *(file.path for file in (files.marker, files.config, files.environment)),
            *(files.lock, files.log, files.manifest.path),
            *(part.folder for part in (files.teachers, files.annotations, files.review)),
        }
        with disk_errors(self.path):
            _clear(self.path, {path.name for path in kept})
            for name in files.manifest.entries():
                if not (self.path / name).exists():
                    files.manifest.forget(self.path / name)

    def record(self, path: Path) -> None:
        """Record a file, or the files of a folder, that other code wrote; of a folder with a
        manifest of its own, that manifest alone."""
        own = Manifest(path)
        paths = [own.path] if own.exists() else [path, *sorted(path.rglob("*"))]
        for found in paths:
            if found.is_file() and self.files.manifest.exists():
                self.files.manifest.record(found)

    def folder(self, path: Path) -> Path:
        """Make a folder of the run. Raises `RunError` where the disk is full."""
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def _stage(self, name: str) -> StageFile:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", name), f"not a stage's name: {name!r}"
        return self.files.stage(name)


def check_directory(path: Path, config: Config, resume: bool, overwrite: bool) -> None:
    """Raise `UserError` for a directory in which this run cannot be written; nothing is touched."""
    check_flags(resume, overwrite)
    if _has_content(path) and not (resume or overwrite):
        _check_unlocked(path)
    _check_free(path, config, resume, overwrite)


def _check_free(path: Path, config: Config, resume: bool, overwrite: bool) -> None:
    """Raise `UserError` for a directory that may not be written, without touching it."""
    if _has_content(path):
        check_existing(path, Layout(path).is_run(), resume, overwrite)
        if resume:
            _check_resumable(path, config)
        if overwrite:
            _check_no_answers(path)


def _check_no_answers(path: Path) -> None:
    """Raise `UserError` if the run, or one below it, has answers of a person: they took work."""
    for run in (Layout(path), *Layout(path).runs_below()):
        if run.review.answers.exists():
            folder = run.review.folder
            raise place_error(
                path,
                f"--overwrite would delete the answers in {folder}; --resume uses them, or move "
                "that folder away",
            )


def _has_content(path: Path) -> bool:
    """Return whether there is more than what a run leaves that ended before its marker was written:
    the lock, the manifest and temporary files."""
    try:
        names = {entry.name for entry in os.scandir(path)}
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise place_error(path, "it, or a folder above it, is a file") from None
    except OSError as error:
        raise place_error(path, f"not readable ({error.strerror})") from None
    return any(name not in (LOCK, MANIFEST) and not name.endswith(TEMPORARY) for name in names)


def _check_resumable(path: Path, config: Config) -> None:
    """Raise `UserError` for a run of another format or another config.

    The config is known from the marker, and if that is damaged, from `config.yaml`.
    """
    files = Layout(path)
    files.manifest.entries()  # raises for one that cannot be used
    marker, old = _whole(files.marker), _whole(files.config)
    if marker is not None and files.format() < FORMAT:
        raise place_error(
            path,
            "the run was made by an earlier version of cosup, and cannot be resumed; --overwrite "
            f"starts again, or {CHOOSE}",
        )
    if marker is not None and marker["config_hash"] == config_hash(config):
        return
    if old is None:
        changes = [f"unknown, as {files.config.path.name} is damaged"]
    else:
        changes = config_differences(old, config_tree(config))
    if marker is None and not changes:
        return
    raise place_error(
        path,
        "--resume needs the config that the run was started with; changed: "
        f"{'; '.join(changes) or 'how the config is hashed'} (--overwrite starts again)",
    )


def _whole(file: JsonFile | YamlFile) -> dict[str, Any] | None:
    """Return the content of a file, or None if it is damaged."""
    try:
        return file.read()
    except Damaged:
        return None


def _check_unlocked(path: Path) -> None:
    """Raise `UserError` if another process is writing the directory."""
    try:
        check_unlocked(Layout(path).lock)
    except Locked as error:
        raise locked_error(path, error.process) from None


@contextmanager
def _locked(path: Path) -> Iterator[list[Path]]:
    """Hold the lock of a run. Yields the folders that were made for it, innermost first."""
    made = _make(path)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(Layout(path).lock))
        except Locked as error:
            raise locked_error(path, error.process) from None
        except OSError as error:
            remove_empty(made)
            raise place_error(path, f"not writable ({error.strerror})") from None
        yield made


def _make(path: Path) -> list[Path]:
    """Make the folder and those above it. Return those that were missing, innermost first."""
    absolute = path.absolute()
    missing = [p for p in (absolute, *absolute.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remove_empty(missing)
        raise place_error(path, f"cannot be made ({error.strerror})") from None
    return missing


def _clear(path: Path, kept: Collection[str] = (LOCK,)) -> None:
    """Remove the files of a run, the marker last: a killed overwrite can then be repeated."""
    for entry in sorted(path.iterdir(), key=lambda p: p.name == MARKER):
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _prepare(path: Path, config: Config) -> None:
    """Write the marker and the resolved config; remove the temporary files of a killed process."""
    sweep(path)
    files = Layout(path)
    files.manifest.begin()
    if not files.marker.exists():
        files.marker.write({"format": FORMAT, "config_hash": config_hash(config)})
    files.config.write(config_tree(config))


def _leave(path: Path, made: list[Path], error: UserError) -> None:
    """Remove the run after a user's mistake, unless it holds work that can be resumed.

    That is a file in one of its folders (a trained teacher, a finished seed), not records alone.
    """
    records = {Layout(path).stages.name, Layout(path).loggers.name}
    files = (file for file in path.rglob("*/*") if file.is_file())
    if any(records.isdisjoint(file.relative_to(path).parts) for file in files):
        error.add_note(f"finished work is kept in {path}; --resume continues it")
        return
    _clear(path)
    Layout(path).lock.unlink(missing_ok=True)
    remove_empty(made)


@contextmanager
def _closed(files: Layout) -> Iterator[None]:
    """Record at the end what was added to files, and that no write is under way."""
    try:
        yield
    finally:
        with suppress(OSError, RunError):  # a full disk again: the first failure is raised
            if files.manifest.exists():
                files.record_growth()
                files.manifest.close()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Log an exception with its traceback, and note on it where that is."""
    try:
        yield
    except UserError:
        raise
    except KeyboardInterrupt as error:
        log.info("%s", str(error) or "interrupted", extra={"quiet": True})
        error.add_note(f"finished work is kept in {path}")
        raise
    except BaseException as error:
        log.error("failed", exc_info=True, extra={"quiet": True})
        file = Layout(path).log
        traceback = f", the traceback in {file}" if file.exists() and file.stat().st_size else ""
        error.add_note(f"finished work is kept in {path}{traceback}")
        raise
