"""The feature cache: features of a backbone, computed once per image (float16, memory-mapped).

The cache has a folder per key under `cache/features/`. `features.f16` holds row after row;
`manifest.jsonl` (`cosup.manifest`) records its blocks by digest as they are written. So a killed
extraction resumes after its last block, and damaged features are found before they are used and
extracted again, from the first damaged block on. `meta.json` is written last. A lock on the folder
prevents two runs from writing the same features.
"""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from cosup.errors import RunError
from cosup.files import to_json, write_atomic
from cosup.manifest import CHUNK, Damaged, Manifest, State
from cosup.models.extraction import Conditions

__all__ = ["Blocks", "Rows", "cached_features", "features_key", "has_features"]

log = logging.getLogger(__name__)

Blocks = Callable[[int], Iterator[Tensor]]
"""Function of a row: yields the features [b, D] float16 of all rows from it, in order."""

SAVE_EVERY = 2048  # rows between saved blocks: at most this many are extracted again after a kill

_checked: dict[str, tuple[int, int, int]] = {}
"""Inode, size and time of the last change in ns of the files that this process has checked."""
_told: set[str] = set()
"""Folders whose features were made otherwise, as this process has told."""


@dataclass(frozen=True)
class Rows:
    """Features to be read or extracted.

    blocks: extracts them. shape: rows and features. name: of the backbone. conditions: of the
    extraction; recorded with the features.
    """

    blocks: Blocks
    shape: tuple[int, int]
    name: str = ""
    conditions: Conditions | None = None

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.row

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.shape[1] * 2

    @property
    def about(self) -> dict[str, Any]:
        """What `meta.json` must say."""
        return {"rows": self.shape[0], "features": self.shape[1], "dtype": "float16"}


def features_key(*parts: str) -> str:
    """Return the cache key of what features depend on, such as the identity of the backbone, the
    transform's key, and the fingerprint of the data."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def has_features(cache: Path, key: str) -> bool:
    """Return whether the cache holds the complete features of this key, without checking them."""
    return (cache / "features" / key / "meta.json").is_file()


def cached_features(
    rows: Rows, cache: Path | None, key: str, on_rows: Callable[[int], None] | None = None
) -> Tensor:
    """Return features [N, D] float16, extracted as far as the cache does not hold them undamaged.

    They are memory-mapped copy-on-write, or in memory without a cache. `on_rows` is called with the
    number of extracted rows. Raises `RunError` on a full disk, for a damaged cache that cannot be
    written, or if `blocks` yields another number of rows.
    """
    if cache is None:
        return torch.cat(list(rows.blocks(0)))
    folder = _Folder(cache / "features" / key, rows)
    if not folder.is_whole():  # a whole folder may be read-only
        with _writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            with _locked(folder.path):
                if not folder.is_whole():
                    folder.extract(on_rows)
    return folder.open()


class _Folder:
    """The folder of a key."""

    def __init__(self, path: Path, rows: Rows) -> None:
        self.path = path
        self.rows = rows
        self.file = path / "features.f16"
        self.meta = path / "meta.json"
        self.manifest = Manifest(path)

    def is_whole(self) -> bool:
        """Return whether all rows are there as they were written; a file is read once for it."""
        try:
            if self._meta() is None or self._size() != self.rows.size:
                return False
            stamp = _stamp(self.file)
            if _checked.get(str(self.file)) != stamp:
                if self.manifest.whole_until(self.file) != self.rows.size:
                    return False
                _checked[str(self.file)] = stamp
        except (FileNotFoundError, Damaged):
            return False
        return True

    def open(self) -> Tensor:
        """Return the features; tell once if they were made otherwise than this run would."""
        self._tell_conditions()
        if self.rows.size == 0:
            return torch.empty(self.rows.shape, dtype=torch.float16)
        count = self.rows.shape[0] * self.rows.shape[1]
        found = torch.from_file(str(self.file), shared=False, size=count, dtype=torch.float16)
        return found.view(self.rows.shape)

    def extract(self, on_rows: Callable[[int], None] | None) -> None:
        """Write the rows that are missing or damaged, and all rows after them."""
        done = saved = self._keep_whole()
        total = self.rows.shape[0]
        with self.file.open("ab") as file:
            for block in self.rows.blocks(done) if done < total else ():
                file.write(block.numpy().data)
                done += len(block)
                # Between batches, so that a resumed run has the same ones.
                if done - saved >= SAVE_EVERY:
                    saved = done
                    self._save(file)
                if on_rows is not None:
                    on_rows(done)
            self._save(file)
        if done != total:
            raise RunError(f"features: {done} images were read, expected {total}")
        made = None if self.rows.conditions is None else asdict(self.rows.conditions)
        about = {**self.rows.about, "backbone": self.rows.name, "made": made}
        self.manifest.write(self.meta, (to_json(about) + "\n").encode())
        self.manifest.close()
        _checked[str(self.file)] = _stamp(self.file)

    def _keep_whole(self) -> int:
        """Keep the rows at the start that are whole, and no others; return their number."""
        whole, problem = self._find_whole()
        done, total = whole // self.rows.row, self.rows.shape[0]
        if problem:
            log.warning("%s: extracting features again, from image %d of %d", problem, done, total)
        elif done:
            log.info("features: resuming at image %d of %d", done, total)
        self._cut(done * self.rows.row)
        return done

    def _find_whole(self) -> tuple[int, str]:
        """Return the bytes at the start that are as they were written, and what is damaged."""
        try:
            recorded = self.manifest.entries()
            whole, size = self.manifest.whole_until(self.file), self._size()
        except Damaged as error:
            self.manifest.path.unlink()
            return 0, str(error)
        was_complete = self.meta.exists() or self.meta.name in recorded
        entry = recorded.get(self.file.name)
        if entry is None or (whole < entry.size and self.manifest.unreadable()):
            lost = self.manifest.path if was_complete else None
        elif whole < entry.size or (was_complete and size != whole):
            lost = self.file
        else:
            lost = self.meta if was_complete else None
        if whole > self.rows.size or (lost == self.meta and self._is_of_others()):
            return 0, f"{self.file} is of other features"
        return whole, "" if lost is None else f"{lost} is {_damage(lost)}"

    def _is_of_others(self) -> bool:
        """Return whether `meta.json` is whole, but of features of another shape."""
        return self.manifest.state(self.meta) is State.WHOLE and self._meta() is None

    def _cut(self, size: int) -> None:
        """Leave the first bytes of the file, recorded as they are, and no `meta.json`."""
        entry = self.manifest.entries().get(self.file.name)
        if self._size() > size:
            # Another run may have mapped a complete file, so a shorter one takes its place.
            write_atomic(self.file, lambda path: _copy_start(self.file, path, size))
        if entry is not None and entry.size != size:
            self.manifest.forget(self.file)
            if size:
                self.manifest.record_growth(self.file)
        self.manifest.forget(self.meta)
        self.meta.unlink(missing_ok=True)
        if self.manifest.unreadable():
            self.manifest.rewrite()

    def _save(self, file: IO[bytes]) -> None:
        _sync(file)
        self.manifest.record_growth(self.file)

    def _size(self) -> int:
        return self.file.stat().st_size if self.file.is_file() else 0

    def _meta(self) -> dict[str, Any] | None:
        """Return what `meta.json` says, if it is whole and of the features that are expected."""
        if self.manifest.state(self.meta) is not State.WHOLE:
            return None
        found: dict[str, Any] = json.loads(self.meta.read_text())
        fits = all(found.get(name) == value for name, value in self.rows.about.items())
        return found if fits else None

    def _tell_conditions(self) -> None:
        if self.rows.conditions is None or str(self.path) in _told:
            return
        _told.add(str(self.path))
        if different := self.rows.conditions.differences((self._meta() or {}).get("made")):
            log.info(
                "features of %s were extracted otherwise than in this run, and their last digits "
                "may differ: %s (%s)",
                self.rows.name,
                ", ".join(different),
                self.path,
            )


def _damage(path: Path) -> str:
    return "damaged" if path.exists() else "gone"


def _copy_start(source: Path, target: Path, size: int) -> None:
    """Copy the first bytes of a file."""
    with source.open("rb") as old, target.open("wb") as new:
        while size > 0 and (part := old.read(min(CHUNK, size))):
            new.write(part)
            size -= len(part)


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise `RunError` with the folder for a full disk or a folder that is not writable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"disk full: writing features to {folder}") from None
        if error.filename is not None and Path(error.filename).is_relative_to(folder.parent):
            damaged = "they are damaged, and " if (folder / "meta.json").exists() else ""
            raise RunError(
                f"features in {folder}: {damaged}the folder cannot be written ({error.strerror})"
            ) from None
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder, after waiting for another run that holds the lock."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("another run extracts the same features; waiting for it (%s)", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
