"""The feature cache: the right rows, once, through kills, locks and full disks."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import IO, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cosup.errors import RunError
from cosup.models import features as cache_module
from cosup.models.features import (
    cached_features,
    feature_blocks,
    features_key,
    has_features,
)
from cosup.models.networks import Backbone, load_backbone
from cosup.models.section import BackboneSection

ROWS = 23
IMAGES = torch.from_numpy(
    np.random.default_rng(0).integers(0, 256, (ROWS, 3, 32, 32), dtype=np.uint8)
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    section = BackboneSection(name="test_resnet", weights=None, image_size=32)
    return load_backbone(section)


class Reader:
    """Batches of 4 that remember which rows were asked for, and may fail after some."""

    def __init__(self, fail_after: int = ROWS + 1) -> None:
        self.asked: list[int] = []
        self.fail_after = fail_after

    def __call__(self, rows: np.ndarray) -> Iterator[Tensor]:
        for start in range(0, len(rows), 4):
            part = rows[start : start + 4]
            if len(self.asked) + len(part) > self.fail_after:
                raise KeyboardInterrupt
            self.asked.extend(int(row) for row in part)
            yield IMAGES[part]


def cached(
    backbone: Any,
    batches: Callable[[np.ndarray], Iterator[Tensor]],
    rows: int,
    cache: Path,
    key: str,
    on_rows: Callable[[int], None] | None = None,
) -> Tensor:
    """The features of images that are read as `batches(rows)`."""

    def blocks(start: int) -> Iterator[Tensor]:
        return feature_blocks(backbone, batches(np.arange(start, rows)))

    return cached_features(blocks, (rows, backbone.num_features), cache, key, on_rows)


def test_rows_are_the_backbones_features(backbone: Backbone, tmp_path: Path) -> None:
    seen: list[int] = []
    assert not has_features(tmp_path, "key")
    found = cached(backbone, Reader(), ROWS, tmp_path, "key", seen.append)
    with torch.inference_mode():
        expected = backbone(IMAGES)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)
    assert has_features(tmp_path, "key")
    assert seen == [4, 8, 12, 16, 20, 23]


def test_features_are_computed_once(backbone: Backbone, tmp_path: Path) -> None:
    first = cached(backbone, Reader(), ROWS, tmp_path, "key")
    reader = Reader()
    again = cached(backbone, reader, ROWS, tmp_path, "key")
    assert reader.asked == []
    assert torch.equal(first, again)


def test_writing_to_what_was_read_leaves_the_file_alone(backbone: Backbone, tmp_path: Path) -> None:
    cached(backbone, Reader(), ROWS, tmp_path, "key").zero_()
    assert cached(backbone, Reader(), ROWS, tmp_path, "key").abs().sum() > 0


def test_an_extraction_that_was_cut_goes_on_where_it_was(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cached(backbone, Reader(), ROWS, tmp_path, "whole")
    monkeypatch.setattr(cache_module, "SAVE_EVERY", 8)
    with pytest.raises(KeyboardInterrupt):
        cached(backbone, Reader(fail_after=18), ROWS, tmp_path, "cut")
    assert not has_features(tmp_path, "cut")
    reader = Reader()
    found = cached(backbone, reader, ROWS, tmp_path, "cut")
    assert reader.asked == list(range(8, ROWS))
    assert torch.equal(found, whole)


# Stands in for a backbone, so that the process to be killed starts quickly: no timm.
SUMS = """
import sys, time
import numpy as np
from pathlib import Path
import torch
from cosup.models import features

class Sums:
    name, num_features = "sums", 3
    def __call__(self, images):
        return images.float().mean((2, 3))

def slow(rows):
    for start in range(0, len(rows), 4):
        time.sleep(0.2 if slow.delay else 0)
        slow.asked.extend(rows[start : start + 4].tolist())
        yield torch.load(sys.argv[1] + "/images.pt")[rows[start : start + 4]]
slow.delay, slow.asked = True, []
features.SAVE_EVERY = 4
"""
RUN = (
    SUMS
    + """
def blocks(start):
    return features.feature_blocks(Sums(), slow(np.arange(start, 23)))

features.cached_features(blocks, (23, 3), Path(sys.argv[1]), "key")
"""
)


def test_a_real_kill_loses_no_saved_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(IMAGES, tmp_path / "images.pt")
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)])
    progress = tmp_path / "features" / "key" / "progress.json"
    deadline = time.monotonic() + 120
    while not progress.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert progress.exists()
    saved = json.loads(progress.read_text())["done"]
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    names: dict[str, Any] = {}
    exec(SUMS, names)
    names["slow"].delay = False
    found = cached(names["Sums"](), names["slow"], ROWS, tmp_path, "key")
    assert 0 < saved < ROWS
    assert names["slow"].asked == list(range(saved, ROWS))
    torch.testing.assert_close(found.float(), IMAGES.float().mean((2, 3)), rtol=1e-3, atol=0.1)


def test_a_damaged_file_or_other_rows_are_extracted_again(
    backbone: Backbone, tmp_path: Path
) -> None:
    whole = cached(backbone, Reader(), ROWS, tmp_path, "key").clone()
    os.truncate(tmp_path / "features" / "key" / "features.f16", 100)
    assert torch.equal(cached(backbone, Reader(), ROWS, tmp_path, "key"), whole)
    shorter = cached(backbone, Reader(), ROWS - 3, tmp_path, "key")
    torch.testing.assert_close(shorter, whole[:-3], rtol=1e-2, atol=1e-2)


def test_complete_features_are_read_without_writing(backbone: Backbone, tmp_path: Path) -> None:
    """A cache shared by several users may be read-only."""
    whole = cached(backbone, Reader(), ROWS, tmp_path, "key").clone()
    folder = tmp_path / "features" / "key"
    (folder / ".lock").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    assert torch.equal(cached(backbone, Reader(), ROWS, tmp_path, "key"), whole)
    assert {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]} == times


def test_two_runs_dont_write_the_same(backbone: Backbone, tmp_path: Path) -> None:
    """While one extracts, the folder is locked to everybody else."""

    def reader(rows: np.ndarray) -> Iterator[Tensor]:
        lock = tmp_path / "features" / "key" / ".lock"
        with lock.open("w") as handle, pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield IMAGES

    cached(backbone, reader, ROWS, tmp_path, "key")
    with (tmp_path / "features" / "key" / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_waits_for_another_that_extracts_the_same(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "features" / "key"
    folder.mkdir(parents=True)
    found: list[Tensor] = []
    run = Thread(target=lambda: found.append(cached(backbone, Reader(), ROWS, tmp_path, "key")))
    with caplog.at_level("INFO"), (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        run.start()
        run.join(0.5)
        assert run.is_alive()
        assert not (folder / "features.part").exists()
        assert str(folder) in caplog.text
    run.join(60)
    assert len(found[0]) == ROWS


def test_a_full_disk_is_said_and_the_work_kept(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SAVE_EVERY", 8)
    real, calls = cache_module._sync, []

    def full(file: IO[bytes]) -> None:
        calls.append(file)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(cache_module, "_sync", full)
    with pytest.raises(RunError, match="disk full"):
        cached(backbone, Reader(), ROWS, tmp_path, "key")
    monkeypatch.setattr(cache_module, "_sync", real)
    reader = Reader()
    cached(backbone, reader, ROWS, tmp_path, "key")
    assert reader.asked == list(range(8, ROWS))


def test_the_wrong_number_of_images_and_broken_weights_are_errors(
    backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="23 images were read, expected 30"):
        cached(backbone, lambda rows: iter([IMAGES]), 30, tmp_path, "more")
    broken = load_backbone(BackboneSection(name="test_resnet", weights=None, image_size=32))
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="'test_resnet' returned values that are not finite"):
        cached(broken, Reader(), ROWS, tmp_path, "broken")


def test_the_key_depends_on_each_of_its_parts() -> None:
    keys = {features_key(*parts) for parts in ["abc", "xbc", "axc", "abx"]}
    assert len(keys) == 4
    assert features_key("ab", "c", "d") != features_key("a", "bc", "d")


def test_no_rows_are_no_features(backbone: Backbone, tmp_path: Path) -> None:
    found = cached(backbone, Reader(), 0, tmp_path, "none")
    assert found.shape == (0, backbone.num_features)
