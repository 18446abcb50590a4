"""The feature cache: a backbone runs once per image, whoever asks (float16, memory-mapped).

A folder per key under `cache/features/`: `features.f16` (rows one after another) and `meta.json`
when it is done; `features.part` and `progress.json` while it is not, so that an extraction that
was killed goes on where it was. A lock on the folder keeps two runs from writing the same.
"""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from cosup.errors import RunError

log = logging.getLogger(__name__)


class Extractor(Protocol):
    """What a cache needs of a backbone (and can be had without loading timm)."""

    name: str
    num_features: int

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images [B, 3, H, W] -> features [B, num_features] float32."""


Blocks = Callable[[int], Iterator[Tensor]]
"""The features float16 [b, D] of the rows from this one on, in order."""

SAVE_EVERY = 2048  # rows between saved progress: what a killed extraction does again
LARGEST = 65504.0  # of float16


def features_key(backbone: str, transform: str, fingerprint: str) -> str:
    """The key of a backbone's features (its `identity`) of a dataset through a transform."""
    return hashlib.sha256("\x1f".join((backbone, transform, fingerprint)).encode()).hexdigest()[:32]


def has_features(cache: Path, key: str) -> bool:
    """Whether the features of this key are complete."""
    return (cache / "features" / key / "meta.json").is_file()


def cached_features(
    blocks: Blocks,
    shape: tuple[int, int],
    cache: Path | None,
    key: str,
    on_rows: Callable[[int], None] | None = None,
    name: str = "",
) -> Tensor:
    """The features of this shape [N, D] float16, memory-mapped (privately: writes stay in memory).

    `blocks(start)` yields those of the rows from `start` on, in order (see `feature_blocks`).
    `on_rows` is told the number of rows that are done; `name` is noted beside them. Raises
    `RunError` on a full disk, or if `blocks` gives another number of rows.
    """
    if cache is None:
        return torch.cat(list(blocks(0)))
    folder = cache / "features" / key
    if not _is_complete(folder, shape):  # a complete folder may be read-only
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                if not _is_complete(folder, shape):
                    _discard(folder)
                    _extract(blocks, folder, shape, on_rows, name)
    return _open(folder, shape)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, or a folder that can't be written, into a `RunError` that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"disk full: writing features to {folder}") from None
        if error.filename is not None and Path(error.filename).is_relative_to(folder.parent):
            raise RunError(f"can't write features to {folder} ({error.strerror})") from None
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder; a run that finds it held waits for the other to finish."""
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
    """Write what is missing of `features.part`, then give it its name."""
    done = _progress(folder, shape)
    if done:
        log.info("features: going on at image %d of %d", done, shape[0])
    with (folder / "features.part").open("r+b" if done else "wb") as file:
        file.truncate(done * shape[1] * 2)
        file.seek(0, os.SEEK_END)
        saved = done
        for block in blocks(done):
            file.write(block.numpy().data)
            done += len(block)
            if done - saved >= SAVE_EVERY:  # between batches: a resumed run cuts the same ones
                saved = done
                _sync(file.fileno(), file.flush)
                _write_json(folder / "progress.json", _meta(shape, done))
            if on_rows is not None:
                on_rows(done)
        _sync(file.fileno(), file.flush)
    if done != shape[0]:
        raise RunError(f"features: {done} images were read, expected {shape[0]}")
    (folder / "features.part").replace(folder / "features.f16")
    _write_json(folder / "meta.json", {**_meta(shape, done), "backbone": name})
    (folder / "progress.json").unlink(missing_ok=True)


def feature_blocks(backbone: Extractor, images: Iterator[Tensor]) -> Iterator[Tensor]:
    """Features [b, D] float16 on the CPU of each batch of uint8 images [b, 3, H, W].

    A batch is copied back only after the next one has been launched, so an accelerator never waits
    for the file. Raises `RunError` for features that are not finite.
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
        raise RunError(f"features: backbone '{name}' gave values that are not finite")
    return block.clamp(-LARGEST, LARGEST).to(torch.float16).contiguous()


def _progress(folder: Path, shape: tuple[int, int]) -> int:
    """Rows of `features.part` that are safely on disk."""
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


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Write under a temporary name, then rename: a kill leaves the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump(value, file)
        _sync(file.fileno(), file.flush)
    temporary.replace(path)


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)
