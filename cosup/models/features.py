"""The feature cache: features of a backbone, computed once per image (float16, memory-mapped).

The cache has a folder per key under `cache/features/`. Complete features are in `features.f16` (row
after row) with `meta.json`. During extraction they are in `features.part` with `progress.json`, so
that a killed extraction resumes after its last saved row. A lock on the folder prevents two runs
from writing the same features.
"""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from cosup.errors import RunError
from cosup.files import write_json

log = logging.getLogger(__name__)


class Extractor(Protocol):
    """The part of a backbone that extraction needs; defined here so that timm is not imported."""

    name: str
    num_features: int

    def __call__(self, images: Tensor) -> Tensor:
        """Return features [B, num_features] float32 of uint8 images [B, 3, H, W]."""


Blocks = Callable[[int], Iterator[Tensor]]
"""Function of a row: yields the features [b, D] float16 of all rows from it, in order."""

SAVE_EVERY = 2048  # rows between saved progress: at most this many are extracted again after a kill
LARGEST = 65504.0  # of float16


def features_key(backbone: str, transform: str, fingerprint: str) -> str:
    """Return the cache key of a backbone's identity, a transform's key and a data fingerprint."""
    return hashlib.sha256("\x1f".join((backbone, transform, fingerprint)).encode()).hexdigest()[:32]


def has_features(cache: Path, key: str) -> bool:
    """Return whether the cache holds the complete features of this key."""
    return (cache / "features" / key / "meta.json").is_file()


def cached_features(
    blocks: Blocks,
    shape: tuple[int, int],
    cache: Path | None,
    key: str,
    on_rows: Callable[[int], None] | None = None,
    name: str = "",
) -> Tensor:
    """Return features [N, D] float16 of this shape, extracted if the cache does not hold them.

    They are memory-mapped copy-on-write, or in memory without a cache. `blocks(start)` yields the
    features of all rows from `start`, in order (see `feature_blocks`). `on_rows` is called with the
    number of extracted rows. name: of the backbone, stored with the features. Raises `RunError` on
    a full disk, or if `blocks` yields another number of rows.
    """
    if cache is None:
        return torch.cat(list(blocks(0)))
    folder = cache / "features" / key
    if not _is_complete(folder, shape):  # a complete folder may be read-only
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                if not _is_complete(folder, shape):
                    _discard(folder)
                    _extract(blocks, folder, shape, on_rows, name)
    return _open(folder, shape)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise `RunError` with the folder for a full disk or a folder that is not writable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"disk full: writing features to {folder}") from None
        if error.filename is not None and Path(error.filename).is_relative_to(folder.parent):
            raise RunError(f"cannot write features to {folder} ({error.strerror})") from None
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


def _extract(
    blocks: Blocks,
    folder: Path,
    shape: tuple[int, int],
    on_rows: Callable[[int], None] | None,
    name: str,
) -> None:
    """Write the missing rows of `features.part`, then rename it to `features.f16`."""
    done = _progress(folder, shape)
    if done:
        log.info("features: resuming at image %d of %d", done, shape[0])
    with (folder / "features.part").open("r+b" if done else "wb") as file:
        file.truncate(done * shape[1] * 2)
        file.seek(0, os.SEEK_END)
        saved = done
        for block in blocks(done):
            file.write(block.numpy().data)
            done += len(block)
            if (
                done - saved >= SAVE_EVERY
            ):  # between batches, so that a resumed run has the same ones
                saved = done
                _sync(file)
                write_json(folder / "progress.json", _meta(shape, done))
            if on_rows is not None:
                on_rows(done)
        _sync(file)
    if done != shape[0]:
        raise RunError(f"features: {done} images were read, expected {shape[0]}")
    (folder / "features.part").replace(folder / "features.f16")
    write_json(folder / "meta.json", {**_meta(shape, done), "backbone": name})
    (folder / "progress.json").unlink(missing_ok=True)


def feature_blocks(backbone: Extractor, images: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield features [b, D] float16 on the CPU of each batch of uint8 images [b, 3, H, W].

    A batch is copied back after the next one was launched, so that an accelerator does not wait for
    the disk. Raises `RunError` for features that are not finite.
    """
    waiting: Tensor | None = None
    for batch in images:
        with torch.inference_mode():
            launched = backbone(batch)
        if waiting is not None:
            yield _half(waiting, backbone.name)
        waiting = launched
    if waiting is not None:
        yield _half(waiting, backbone.name)


def _half(features: Tensor, name: str) -> Tensor:
    block = features.cpu()
    if not torch.isfinite(block).all():
        raise RunError(f"features: backbone '{name}' returned values that are not finite")
    return block.clamp(-LARGEST, LARGEST).to(torch.float16).contiguous()


def _progress(folder: Path, shape: tuple[int, int]) -> int:
    """Return the number of rows of `features.part` that are on disk."""
    part = folder / "features.part"
    found = _read_json(folder / "progress.json")
    done = int(found.get("done", 0))
    fits = found == _meta(shape, done) and part.is_file()
    return done if fits and part.stat().st_size >= done * shape[1] * 2 else 0


def _is_complete(folder: Path, shape: tuple[int, int]) -> bool:
    """Return whether the folder holds all rows, in a file of the right size."""
    found, file = _read_json(folder / "meta.json"), folder / "features.f16"
    fits = all(found.get(name) == value for name, value in _meta(shape, shape[0]).items())
    return fits and file.is_file() and file.stat().st_size == shape[0] * shape[1] * 2


def _discard(folder: Path) -> None:
    """Remove the mark of complete features that are damaged or have another shape."""
    if _read_json(folder / "meta.json"):
        log.warning("features in %s are not those expected; extracting them again", folder)
        (folder / "meta.json").unlink()


def _open(folder: Path, shape: tuple[int, int]) -> Tensor:
    size = shape[0] * shape[1]
    if size == 0:
        return torch.empty(shape, dtype=torch.float16)
    path = str(folder / "features.f16")
    return torch.from_file(path, shared=False, size=size, dtype=torch.float16).view(shape)


def _meta(shape: tuple[int, int], done: int) -> dict[str, Any]:
    return {"rows": shape[0], "features": shape[1], "dtype": "float16", "done": done}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
