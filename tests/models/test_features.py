"""The feature cache: the right rows, once, through kills, locks and full disks."""

import errno
import fcntl
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

from cosup import manifest as manifest_module
from cosup.errors import RunError
from cosup.manifest import MANIFEST, Manifest
from cosup.manifest_lines import text_of
from cosup.models import features as cache_module
from cosup.models.backbone import Backbone, load_backbone
from cosup.models.extraction import feature_blocks
from cosup.models.features import Rows, cached_features, features_key, has_features
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

    return cached_features(Rows(blocks, (rows, backbone.num_features)), cache, key, on_rows)


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
import os, signal, sys
import numpy as np
from pathlib import Path
import torch
from cosup.models import extraction, features

class Sums:
    name, num_features = "sums", 3
    def __call__(self, images):
        return images.float().mean((2, 3))

def slow(rows):
    for start in range(0, len(rows), 4):
        if slow.dies and saved.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        slow.asked.extend(rows[start : start + 4].tolist())
        yield torch.load(sys.argv[1] + "/images.pt")[rows[start : start + 4]]
slow.dies, slow.asked = True, []
saved = Path(sys.argv[1], "features", "key", "manifest.jsonl")
features.SAVE_EVERY = 4
"""
RUN = (
    SUMS
    + """
def blocks(start):
    return extraction.feature_blocks(Sums(), slow(np.arange(start, 23)))

features.cached_features(features.Rows(blocks, (23, 3)), Path(sys.argv[1]), "key")
"""
)


def test_a_real_kill_loses_no_saved_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(IMAGES, tmp_path / "images.pt")
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)])
    folder = tmp_path / "features" / "key"
    assert process.wait() == -signal.SIGKILL
    assert not has_features(tmp_path, "key")
    saved = Manifest(folder).entries()["features.f16"].size // (3 * 2)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    names: dict[str, Any] = {}
    exec(SUMS, names)
    names["slow"].dies = False
    found = cached(names["Sums"](), names["slow"], ROWS, tmp_path, "key")
    assert 0 < saved < ROWS
    assert names["slow"].asked == list(range(saved, ROWS))
    torch.testing.assert_close(found.float(), IMAGES.float().mean((2, 3)), rtol=1e-3, atol=0.1)


@pytest.fixture
def whole(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Complete features in blocks of 8 rows; this process has not checked them."""
    monkeypatch.setattr(cache_module, "SAVE_EVERY", 8)
    found = cached(backbone, Reader(), ROWS, tmp_path, "key").clone()
    forget_checks(monkeypatch)
    return found


def forget_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as another process, which has checked nothing."""
    monkeypatch.setattr(cache_module, "_checked", {})
    monkeypatch.setattr(manifest_module, "_digests", {})
    monkeypatch.setattr(manifest_module, "_lines", {})


def flip(path: Path, place: int) -> None:
    """Change a bit of a file, which keeps its size and its time."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"12345")


def name_outside(path: Path) -> None:
    lines = [text_of({"path": "../other", "size": 1, "sha256": "0"})]
    path.write_text(path.read_text() + "".join(lines))


def lose_line(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = lines[number].replace(b"path", b"part")
    path.write_bytes(b"".join(lines))


FILE, META, ROW = "features.f16", "meta.json", 96 * 2
DAMAGES: dict[str, tuple[str, Callable[[Path], object], int]] = {
    "a bit of block 2": (FILE, lambda path: flip(path, 8 * ROW + 3), 8),
    "a bit of the last row": (FILE, lambda path: flip(path, ROWS * ROW - 1), 16),
    "a file cut in half": (FILE, lambda path: os.truncate(path, ROWS * ROW // 2), 8),
    "an empty file": (FILE, lambda path: path.write_bytes(b""), 0),
    "other bytes": (FILE, lambda path: path.write_bytes(os.urandom(ROWS * ROW)), 0),
    "a file that is gone": (FILE, lambda path: path.unlink(), 0),
    "a longer file": (FILE, lengthen, ROWS),
    "a bit of meta.json": (META, lambda path: flip(path, 9), ROWS),
    "no meta.json": (META, lambda path: path.unlink(), ROWS),
    "no manifest": (MANIFEST, lambda path: path.unlink(), 0),
    "a manifest of other bytes": (MANIFEST, lambda path: path.write_bytes(os.urandom(999)), 0),
    "a line of the manifest": (MANIFEST, lambda path: lose_line(path, 2), 8),
    "a manifest that names other files": (MANIFEST, name_outside, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_features_are_extracted_again_from_the_damage_on(
    damage: str,
    whole: Tensor,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, harm, first = DAMAGES[damage]
    file = tmp_path / "features" / "key" / name
    harm(file)
    reader = Reader()
    assert torch.equal(cached(backbone, reader, ROWS, tmp_path, "key"), whole)
    assert reader.asked == list(range(first, ROWS))
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert str(file) in warnings[0].getMessage()
    forget_checks(monkeypatch)
    reader = Reader()
    assert torch.equal(cached(backbone, reader, ROWS, tmp_path, "key"), whole)
    assert reader.asked == []
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


@pytest.mark.parametrize("block", [0, 1])
def test_a_damaged_block_of_an_unfinished_extraction_is_not_resumed_from(
    block: int,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cache_module, "SAVE_EVERY", 8)
    expected = cached(backbone, Reader(), ROWS, tmp_path, "whole")
    with pytest.raises(KeyboardInterrupt):
        cached(backbone, Reader(fail_after=20), ROWS, tmp_path, "key")
    forget_checks(monkeypatch)
    flip(tmp_path / "features" / "key" / FILE, 8 * block * ROW)
    reader = Reader()
    assert torch.equal(cached(backbone, reader, ROWS, tmp_path, "key"), expected)
    assert reader.asked == list(range(8 * block, ROWS))
    assert FILE in caplog.text


def test_a_repair_that_is_killed_is_repeated(
    whole: Tensor, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "features" / "key" / FILE
    flip(file, 17 * ROW)
    with pytest.raises(KeyboardInterrupt):
        cached(backbone, Reader(fail_after=0), ROWS, tmp_path, "key")
    assert not has_features(tmp_path, "key")
    forget_checks(monkeypatch)
    reader = Reader()
    assert torch.equal(cached(backbone, reader, ROWS, tmp_path, "key"), whole)
    assert reader.asked == list(range(16, ROWS))


def test_a_repair_leaves_the_features_alone_that_another_run_reads(
    whole: Tensor, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading mapped memory beyond the end of a file kills the process."""
    mapped = cached(backbone, Reader(), ROWS, tmp_path, "key")
    forget_checks(monkeypatch)
    flip(tmp_path / "features" / "key" / FILE, 0)
    with pytest.raises(KeyboardInterrupt):
        cached(backbone, Reader(fail_after=0), ROWS, tmp_path, "key")
    assert torch.equal(mapped[1:], whole[1:])


def test_damaged_features_in_a_folder_that_cannot_be_written_are_an_error(
    whole: Tensor, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "features" / "key"
    flip(folder / FILE, 0)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder / ".lock"))

    monkeypatch.setattr(cache_module.FileLock, "acquire", refuse)
    with pytest.raises(RunError, match="damaged") as raised:
        cached(backbone, Reader(), ROWS, tmp_path, "key")
    assert str(folder) in str(raised.value)


def test_features_of_another_shape_are_extracted_anew(
    whole: Tensor, backbone: Backbone, tmp_path: Path
) -> None:
    shorter = cached(backbone, Reader(), ROWS - 3, tmp_path, "key")
    torch.testing.assert_close(shorter, whole[:-3], rtol=1e-2, atol=1e-2)


def test_a_file_is_checked_once_by_a_process(
    whole: Tensor, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Splits that are drawn from one file of features each read it."""
    cached(backbone, Reader(), ROWS, tmp_path, "key")
    monkeypatch.setattr(Manifest, "whole_until", lambda *_: pytest.fail("checked again"))
    cached(backbone, Reader(), ROWS, tmp_path, "key")


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
        end = time.monotonic() + 60
        while str(folder) not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)
        assert str(folder) in caplog.text
        run.join(0.2)
        assert run.is_alive()
        assert not (folder / "features.f16").exists()
    run.join()
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
