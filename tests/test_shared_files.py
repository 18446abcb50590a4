"""Files that runs share: what is read is what was written, or it is made again."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cosup.manifest import MANIFEST
from cosup.manifest_lines import text_of
from cosup.shared_files import read_shared, write_shared

CONTENT = b"some content"


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "a.json"
    assert read_shared(file) is None
    write_shared(file, CONTENT)
    write_shared(file.with_name("b.json"), b"")
    assert read_shared(file) == CONTENT
    assert read_shared(file.with_name("b.json")) == b""


OUTSIDE = text_of({"path": "../a", "size": 1, "sha256": "0"})
DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "another byte": ("a.json", lambda path: path.write_bytes(b"some cantent")),
    "fewer bytes": ("a.json", lambda path: os.truncate(path, 3)),
    "no manifest": (MANIFEST, lambda path: path.unlink()),
    "a manifest that names other files": (MANIFEST, lambda path: path.write_text(OUTSIDE)),
    "a manifest of random bytes": (MANIFEST, lambda path: path.write_bytes(os.urandom(300))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_told_and_made_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, harm = DAMAGES[damage]
    file = tmp_path / "a.json"
    write_shared(file, CONTENT)
    harm(tmp_path / name)
    assert read_shared(file) is None
    assert "a.json" in caplog.text
    write_shared(file, CONTENT)
    assert read_shared(file) == CONTENT


def test_a_file_that_is_gone_is_made_again(tmp_path: Path) -> None:
    write_shared(tmp_path / "a.json", CONTENT)
    (tmp_path / "a.json").unlink()
    assert read_shared(tmp_path / "a.json") is None


def test_runs_that_write_at_once_record_every_file(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.json" for number in range(20)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda file: write_shared(file, file.name.encode()), files))
    assert [read_shared(file) for file in files] == [file.name.encode() for file in files]
