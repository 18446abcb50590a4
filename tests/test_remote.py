"""Files at URIs: the same five functions on a local folder and on fsspec's memory."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from helpers.user_errors import error_of, key_of

from cosup import remote
from cosup.errors import RunError, UserError
from cosup.remote import Place, get, is_uri, join, listing, put, remove, split


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/far away"
        return
    memory = fsspec.filesystem("memory")
    yield f"memory://{tmp_path.name}/far away"
    if memory.exists(f"/{tmp_path.name}"):
        memory.rm(f"/{tmp_path.name}", recursive=True)


def file(folder: Path, content: bytes = b"content") -> Path:
    path = folder / "here.bin"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("text", ["s3://b/x", "file:///tmp", "memory://a", "abfss://c@a/x"])
def test_uris(text: str) -> None:
    assert is_uri(text)


@pytest.mark.parametrize("text", ["outputs", "/tmp/x", "a:b", "file:/tmp", "", "1a://x", "a//b"])
def test_paths_are_no_uris(text: str) -> None:
    assert not is_uri(text)


def test_join_and_split_are_inverse_and_leave_options_at_the_end() -> None:
    for uri in ("s3://b/runs?region=x", "memory://a", "file:///tmp/x", "file:///"):
        assert split(join(uri, "one")) == (uri, "one")
    assert join("s3://b/runs/?region=x", "one", "two/three") == "s3://b/runs/one/two/three?region=x"
    assert split("file:///tmp") == ("file:///", "tmp")
    assert split("s3://b/runs/one/") == ("s3://b/runs", "one")


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "memory://x", "s3://b/.."])
def test_a_run_needs_a_folder(uri: str) -> None:
    error = error_of(split, uri)
    assert (key_of(error), error.value) == ("run.output", uri)
    assert "some/run" in str(error.allowed)


def test_a_name_that_would_be_read_as_options() -> None:
    error = error_of(join, "s3://b", "what?")
    assert (key_of(error), error.value) == ("run.output", "what?")


@pytest.mark.parametrize("name", ["a", "some folder/ein Läufer", "走る/a%20b#c", "a/b/c/d.json"])
def test_what_is_put_is_got(root: str, name: str, tmp_path: Path) -> None:
    put(file(tmp_path, b"one" * 1000), join(root, name))
    assert listing(root) == {name: 3000}
    back = tmp_path / "back" / "it"
    assert get(join(root, name), back)
    assert back.read_bytes() == b"one" * 1000


def test_a_file_of_several_chunks(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "COPY_BYTES", 1000)
    content = bytes(range(256)) * 40
    put(file(tmp_path, content), join(root, "x"))
    get(join(root, "x"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_putting_again_replaces(root: str, tmp_path: Path) -> None:
    for content in (b"longer than the next", b"", b"short"):
        put(file(tmp_path, content), join(root, "x"))
        get(join(root, "x"), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == content
    assert listing(root) == {"x": 5}


def test_what_is_not_there(root: str, tmp_path: Path) -> None:
    assert not get(join(root, "none"), tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert listing(root) == {}
    remove(join(root, "none"))
    with pytest.raises(FileNotFoundError):
        put(tmp_path / "none", join(root, "x"))
    assert listing(root) == {}


def test_removing_a_file_and_a_folder(root: str, tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d/e", "bb"):
        put(file(tmp_path), join(root, name))
    remove(join(root, "a"))
    assert set(listing(root)) == {"b/c", "b/d/e", "bb"}
    assert set(listing(join(root, "b"))) == {"c", "d/e"}
    remove(join(root, "b"))
    assert set(listing(root)) == {"bb"}


class Torn:
    """A source that fails after its first bytes."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        if self.reads > 1:
            raise KeyboardInterrupt
        return b"half"

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Local:
    """A local file that cannot be read to its end."""

    def open(self, mode: str) -> Any:
        return Torn()


def test_a_put_that_is_cut_leaves_the_old_file(root: str, tmp_path: Path) -> None:
    put(file(tmp_path, b"old and whole"), join(root, "x"))
    with pytest.raises(KeyboardInterrupt):
        put(Local(), join(root, "x"))  # type: ignore[arg-type]
    assert listing(root) == {"x": 13}
    assert not list((tmp_path / "far away").glob(".*"))


def test_a_put_that_is_cut_leaves_no_part_in_an_object_store(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a file is written under its own name, as it appears whole."""
    monkeypatch.setattr(remote, "WHOLE", ("local", "py::fsspec+memory"))
    Path(tmp_path / "far away").mkdir()
    put(file(tmp_path, b"whole"), join(root, "y"))
    with pytest.raises(KeyboardInterrupt):
        put(Local(), join(root, "x"))  # type: ignore[arg-type]
    assert listing(root) == {"y": 5}


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("nope://a/b", "unknown scheme 'nope'"),
        ("sftp://host/b", "paramiko"),
        ("file://tmp/x", "host"),
        ("s3:///x", "bucket"),
        ("memory://a/[b]", "any of"),
    ],
)
def test_uris_that_can_not_be_used(
    uri: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)  # what sftp needs
    for call in (listing, remove, lambda u: put(file(tmp_path), u), lambda u: get(u, tmp_path)):
        error = error_of(call, uri)
        assert (key_of(error), error.value) == ("run.output", uri)
        assert problem in error.problem


def test_a_store_that_fails_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file")
    with pytest.raises(RunError, match="written") as caught:
        put(file(tmp_path), f"file://{tmp_path}/x/y")
    assert caught.value.where == f"file://{tmp_path}/x/y"


def test_a_place_is_joined_and_printed_as_a_path_is() -> None:
    assert f"{Place('s3://K:S@b/x?region=y') / 'report' / 'a.png'}" == (
        "s3://K:***@b/x/report/a.png?region=y"
    )


def test_no_password_is_shown() -> None:
    with pytest.raises(UserError) as caught:
        listing("nope://KEY:SECRET@bucket/runs")
    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in repr(Place("s3://KEY:SECRET@bucket/runs"))
