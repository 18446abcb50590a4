"""A manifest tells any damage of its folder's files, and a kill does not look like one."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from cosup import manifest as module
from cosup.errors import RunError
from cosup.manifest import Damaged, Entry, Manifest, State, digest
from cosup.manifest_lines import text_of


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let every test begin as a new process would; call it to do so again within one."""

    def forget() -> None:
        monkeypatch.setattr(module, "_lines", {})
        monkeypatch.setattr(module, "_digests", {})

    forget()
    return forget


@pytest.fixture
def files(tmp_path: Path) -> Manifest:
    """A folder with two recorded files."""
    found = Manifest(tmp_path)
    found.write(tmp_path / "a.json", b"first")
    found.write(tmp_path / "deep" / "b.bin", bytes(range(256)) * 20_000)
    return found


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "longer":
        path.write_bytes(content + b"\0")
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["removed", "cut", "longer", "flipped"])
def test_any_damage_is_told_with_the_file(
    files: Manifest, how: str, nothing_known: Callable[[], None]
) -> None:
    files.close()
    nothing_known()
    assert set(files.states().values()) == {State.WHOLE}
    path = files.folder / "deep" / "b.bin"
    damage(path, how)
    expected = State.MISSING if how == "removed" else State.DAMAGED
    assert files.states() == {"a.json": State.WHOLE, "deep/b.bin": expected}
    files.check(files.folder / "a.json")
    with pytest.raises(Damaged, match=r"b\.bin") as caught:
        files.check(path)
    assert caught.value.path == path
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.path, str(copy)) == (path, str(caught.value))


def test_the_digest_is_sha256(files: Manifest) -> None:
    content = (files.folder / "deep" / "b.bin").read_bytes()
    entry = Entry(len(content), sha256(content).hexdigest())
    assert files.entries()["deep/b.bin"] == entry
    assert digest(files.folder / "deep" / "b.bin", 3, 700) == sha256(content[3:700]).hexdigest()


def test_a_file_that_nobody_recorded_is_not_used(files: Manifest) -> None:
    other = files.folder / "c.json"
    other.write_bytes(b"x")
    assert files.states()["c.json"] is State.UNRECORDED
    with pytest.raises(Damaged):
        files.check(other)
    files.record(other)
    files.check(other)


def test_without_a_manifest_nothing_is_checked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    found = Manifest(tmp_path)
    found.check(tmp_path / "a")
    assert not found.exists()
    assert found.entries() == {}
    assert found.states() == {"a": State.UNRECORDED}


def test_a_file_is_read_once_unless_it_changes(
    files: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = files.folder / "deep" / "b.bin", []
    monkeypatch.setattr(module, "digest", lambda path, *a: read.append(path) or digest(path, *a))
    files.check(path)
    assert read == []  # it was written by this process
    content = path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    files.check(path)
    files.check(path)
    assert read == [path]


def killed_while_writing(files: Manifest, name: str, content: bytes) -> None:
    """Leave what a process leaves that is killed before its file gets its name."""
    files._append({"path": name, "size": len(content), "sha256": sha256(content).hexdigest()})


def test_a_write_that_was_killed_leaves_the_old_file_whole(
    files: Manifest, nothing_known: Callable[[], None]
) -> None:
    killed_while_writing(files, "a.json", b"second")
    killed_new = Manifest(files.folder)
    nothing_known()
    assert killed_new.states()["a.json"] is State.WHOLE
    killed_new.close()
    nothing_known()
    killed_new.write(files.folder / "c", b"c")
    assert set(killed_new.states().values()) == {State.WHOLE}


def test_a_new_file_whose_write_was_killed_is_not_missing(
    files: Manifest, nothing_known: Callable[[], None]
) -> None:
    killed_while_writing(files, "c.json", b"c")
    nothing_known()
    assert "c.json" not in files.states()
    files.close()
    assert "c.json" not in files.entries()
    files.write(files.folder / "d", b"d")
    assert "c.json" not in files.states()


def test_a_line_that_was_cut_by_a_kill_is_no_damage(
    files: Manifest, nothing_known: Callable[[], None]
) -> None:
    with files.path.open("ab") as file:
        file.write(b'{"path": "c.js')
    nothing_known()
    assert files.unreadable() == 0
    files.write(files.folder / "c.json", b"c")
    nothing_known()
    assert files.unreadable() == 0
    assert files.entries().keys() == {"a.json", "deep/b.bin", "c.json"}


def test_an_interrupt_while_writing_leaves_no_wrong_record(
    files: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        for name in ("a.json", "new"):
            with pytest.raises(KeyboardInterrupt):
                files.write(files.folder / name, b"second")
    files.write(files.folder / "c", b"c")
    assert set(files.states().values()) == {State.WHOLE}


def test_the_last_file_is_missed_once_the_manifest_is_closed(files: Manifest) -> None:
    (files.folder / "deep" / "b.bin").unlink()
    assert "deep/b.bin" not in files.states()  # as if it had not been written
    files.write(files.folder / "deep" / "b.bin", b"again")
    files.close()
    (files.folder / "deep" / "b.bin").unlink()
    assert files.states()["deep/b.bin"] is State.MISSING


@pytest.mark.parametrize("position", range(0, 400, 7))
def test_no_damage_of_the_manifest_is_believed(
    files: Manifest, position: int, nothing_known: Callable[[], None]
) -> None:
    content = bytearray(files.path.read_bytes())
    content[position % len(content)] ^= 4
    files.path.write_bytes(content)
    nothing_known()
    before = {
        "a.json": Entry(5, sha256(b"first").hexdigest()),
        "deep/b.bin": Entry(5_120_000, digest(files.folder / "deep" / "b.bin")),
    }
    try:
        found = files.entries()
    except RunError:
        return
    assert found.items() <= before.items()
    assert files.unreadable() or found == before  # the end of the last line makes it a cut one
    files.rewrite()
    assert files.unreadable() == 0
    assert files.entries() == found


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "deep/../../a", ""])
def test_a_file_outside_the_folder_is_refused(files: Manifest, name: str) -> None:
    files._append({"path": name, "size": 1, "sha256": "0"})
    for _ in range(2):
        with pytest.raises(Damaged, match="outside") as caught:
            files.entries()
        assert caught.value.path == files.path


@pytest.mark.parametrize("head", [text_of({"format": 2}), '{"format": 7, "more": true}\n'])
def test_a_newer_format_is_refused(tmp_path: Path, head: str) -> None:
    found = Manifest(tmp_path)
    found.path.write_text(head)
    with pytest.raises(RunError, match="format"):
        found.entries()


@pytest.mark.parametrize(
    "line", ["[]", "1", "{}", '{"path": 1}', "[" * 5000, '{"path":"a","size":"x"}', "\0\0\0\0"]
)
def test_what_is_no_line_is_counted_and_left_out(files: Manifest, line: str) -> None:
    with files.path.open("a") as file:
        file.write(line + "\n")
    for value in ({"path": "z", "size": -1, "sha256": ""}, {"path": "z", "size": 1}):
        with files.path.open("a") as file:
            file.write(text_of(value))
    assert files.unreadable() == 3
    assert files.entries().keys() == {"a.json", "deep/b.bin"}


def test_a_file_that_grows_is_checked_as_far_as_it_was_recorded(
    tmp_path: Path, nothing_known: Callable[[], None]
) -> None:
    found, path = Manifest(tmp_path), tmp_path / "log.txt"
    for text in ("one\n", "two\n", "three\n"):
        with path.open("a") as file:
            file.write(text)
        found.record_growth(path)
    found.record_growth(path)
    with path.open("a") as file:
        file.write("more\n")
    assert found.state(path) is State.WHOLE
    assert [(part.start, part.size) for part in found.damaged_parts(path)] == []
    path.write_text("one\ntWo\nthree\nmore\n")
    nothing_known()
    assert found.state(path) is State.DAMAGED
    assert [(part.start, part.size) for part in found.damaged_parts(path)] == [(4, 8)]
    path.write_text("one\ntw")
    assert [(part.start, part.size) for part in found.damaged_parts(path)] == [(4, 8), (8, 14)]
    found.record_growth(path)  # shorter: it begins anew
    assert found.state(path) is State.WHOLE
    found.rewrite()
    assert found.state(path) is State.WHOLE


def test_a_removed_file_is_forgotten(files: Manifest) -> None:
    path = files.folder / "a.json"
    path.unlink()
    files.forget(path)
    files.forget(files.folder / "never")
    assert files.states() == {"deep/b.bin": State.WHOLE}


def test_a_folder_with_its_own_manifest_counts_by_it(files: Manifest) -> None:
    inner = Manifest(files.folder / "student")
    inner.write(inner.folder / "head", b"x")
    assert files.states()["student/manifest.jsonl"] is State.UNRECORDED
    files.record(inner.path)
    assert "student/head" not in files.states()
    damage(inner.path, "cut")
    assert files.states()["student/manifest.jsonl"] is State.DAMAGED


def test_a_name_that_is_not_utf8_is_recorded(tmp_path: Path) -> None:
    found, path = Manifest(tmp_path), tmp_path / "\udcff.png"
    found.write(path, b"x")
    found.close()
    assert found.states() == {"\udcff.png": State.WHOLE}


def test_a_manifest_needs_the_standard_library_alone() -> None:
    script = (
        "import sys, cosup.manifest\n"
        "assert not {'torch', 'numpy', 'pandas', 'pydantic'} & set(sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_lines_are_json(files: Manifest) -> None:
    head, *lines = map(json.loads, files.path.read_text().splitlines())
    assert head["format"] == 1
    assert [line["path"] for line in lines] == ["a.json", "deep/b.bin"]
