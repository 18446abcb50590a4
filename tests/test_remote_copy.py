"""Copies of what is at a URI: what is fetched, when it is fetched again, and what is written."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from cosup import remote
from cosup.errors import RunError, UserError
from cosup.layout import MARKER, Layout
from cosup.layout.lines import line_of
from cosup.manifest import MANIFEST, Damaged, Manifest
from cosup.origins import has_folder, is_there, obtain_below
from cosup.remote import join, listing, put, remove
from cosup.remote_copy import ENDED, SESSION, alone, cache, copy, copy_of, folder_of


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COSUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(copy, "PAUSES", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture(params=["file", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/far away/run"
        return
    yield f"memory://{tmp_path.name}/far away/run"
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{tmp_path.name}"):
        memory.rm(f"/{tmp_path.name}", recursive=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a folder like that of a finished run, with a manifest."""
    files = Layout(tmp_path / "run")
    files.manifest.begin()
    files.marker.write({"format": 2, "config_hash": "x"})
    files.stage("first").write({"seconds": 1.0})
    files.stage("asked").write({"seconds": 2.0})
    write(files, "report/index.html", b"a page")
    write(files, "summary.json", b"{}")
    files.manifest.close()
    return files.path


def write(files: Layout, name: str, content: bytes) -> None:
    files.file(files.path / name).put(content)


def upload(run: Path, uri: str, *names: str) -> None:
    """Copy files of a run to a URI, or all of them."""
    found = [p.relative_to(run).as_posix() for p in sorted(run.rglob("*")) if p.is_file()]
    for name in names or found:
        put(run / name, join(uri, name))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names that are fetched from now on."""
    names: list[str] = []
    get = copy.get

    def told(uri: str, file: Path) -> bool:
        names.append(uri.partition("/run/")[2])
        return get(uri, file)

    monkeypatch.setattr(copy, "get", told)
    return names


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert folder_of(tmp_path) == folder_of(str(tmp_path)) == tmp_path
    assert copy_of(tmp_path) is None


def test_a_file_is_fetched_when_it_is_read(run: Path, uri: str, fetched: list[str]) -> None:
    upload(run, uri)
    files = Layout(folder_of(uri))
    assert fetched == [MANIFEST], "listing a run needs no more"
    assert files.is_run()
    assert files.has_records()
    assert is_there(files.page)
    assert has_folder(files.page.parent)
    assert not has_folder(files.student)
    assert fetched == [MANIFEST]
    assert files.marker.read()["config_hash"] == "x"
    assert set(fetched) == {MANIFEST, MARKER}
    assert list(files.finished_stages()) == ["first", "asked"], "as they were finished"
    assert files.stage("asked").read()["seconds"] == 2.0


def test_a_second_read_fetches_only_what_changed(run: Path, uri: str, fetched: list[str]) -> None:
    upload(run, uri)
    obtain_below(folder_of(uri))
    write(Layout(run), "report/index.html", b"another")
    upload(run, uri, MANIFEST, "report/index.html")
    fetched.clear()
    folder = folder_of(uri)
    obtain_below(folder)
    assert set(fetched) == {MANIFEST, "report/index.html"}
    assert Layout(folder).page.read_bytes() == b"another"


def test_what_is_gone_at_the_uri_is_gone_here(run: Path, uri: str) -> None:
    upload(run, uri)
    folder = folder_of(uri)
    obtain_below(folder)
    page = Layout(folder).page
    remove(join(uri, "report/index.html"))
    assert folder_of(uri) == folder
    assert not page.exists()
    assert not is_there(page)


def test_a_damaged_file_is_named_at_its_uri_and_fetched_again(
    run: Path, uri: str, tmp_path: Path, fetched: list[str]
) -> None:
    upload(run, uri)
    whole = run / "stages" / "first.json"
    bad = tmp_path / "bad"
    bad.write_bytes(whole.read_bytes()[::-1])
    put(bad, join(uri, "stages/first.json"))
    with pytest.raises(Damaged) as caught:
        Layout(folder_of(uri)).stage("first").read()
    assert join(uri, "stages/first.json") in str(caught.value)
    assert f"cosup verify '{uri}' --repair" in str(caught.value)
    assert "cache" not in str(caught.value)
    put(whole, join(uri, "stages/first.json"))
    assert Layout(folder_of(uri)).stage("first").read()["seconds"] == 1.0


def test_a_copy_that_is_damaged_here_is_fetched_again(run: Path, uri: str) -> None:
    upload(run, uri)
    file = Layout(folder_of(uri)).stage("first")
    file.read()
    file.path.write_bytes(file.path.read_bytes()[::-1])
    assert Layout(folder_of(uri)).stage("first").read()["seconds"] == 1.0


def test_a_run_that_is_being_written_is_read_as_it_was(run: Path, uri: str) -> None:
    """The manifest is at the URI before the files that it records."""
    files = Layout(run)
    files.summary.remove()
    files.annotations.index.write({"student_train": {}})
    upload(run, uri)
    files.annotations.index.write({"student_train": {}, "test": {}})
    files.stage("later").write({"seconds": 3.0})
    upload(run, uri, MANIFEST)
    there = Layout(folder_of(uri))
    assert set(there.annotations.index.read()) == {"student_train"}
    assert "later" not in there.finished_stages()
    upload(run, uri)
    there = Layout(folder_of(uri))
    assert set(there.annotations.index.read()) == {"student_train", "test"}
    assert "later" in there.finished_stages()


def test_a_file_that_is_not_there_yet(run: Path, uri: str) -> None:
    upload(run, uri)
    with pytest.raises(Damaged, match="gone"):
        Layout(folder_of(uri)).samples.read()
    Layout(run).summary.remove()
    remove(join(uri, "summary.json"))
    upload(run, uri)
    with pytest.raises(RunError, match=r"samples\.parquet.* not finished") as caught:
        Layout(folder_of(uri)).samples.read()
    assert uri in str(caught.value)


def test_scalars_of_a_run_that_is_being_written(run: Path, uri: str) -> None:
    files = Layout(run)
    files.summary.remove()
    line = {"tag": "a", "value": 1.0, "time": 1.0}
    lines = [line_of({**line, "step": step}) for step in (1, 2)]
    files.metrics.path.write_text(lines[0])
    files.metrics.record()
    upload(run, uri)
    files.metrics.path.write_text("".join(lines))
    files.metrics.record()
    upload(run, uri, MANIFEST)
    assert [one["step"] for one in Layout(folder_of(uri)).metrics.read()] == [1]
    upload(run, uri)
    assert [one["step"] for one in Layout(folder_of(uri)).metrics.read()] == [1, 2]


def test_an_older_file_of_a_finished_run_is_damaged(run: Path, uri: str, tmp_path: Path) -> None:
    files = Layout(run)
    upload(run, uri, "stages/first.json")
    files.stage("first").write({"seconds": 9.0})
    files.manifest.close()
    old = tmp_path / "old"
    old.write_bytes(b'{\n  "seconds": 1.0\n}\n')
    upload(run, uri)
    put(old, join(uri, "stages/first.json"))
    with pytest.raises(Damaged):
        Layout(folder_of(uri)).stage("first").read()


def test_a_run_that_is_replaced_while_it_is_read(run: Path, uri: str, tmp_path: Path) -> None:
    upload(run, uri)
    there = Layout(folder_of(uri))
    other = Layout(tmp_path / "other")
    other.manifest.begin()
    other.stage("first").write({"seconds": 5.0})
    upload(other.path, uri)
    with pytest.raises(RunError, match="replaced") as caught:
        there.stage("first").read()
    assert uri in str(caught.value)


def test_what_is_written_is_put_back_with_its_record(run: Path, uri: str, cached: Path) -> None:
    upload(run, uri)
    here = Layout(folder_of(uri))
    write(here, "report/index.html", b"a new page")
    write(here, "report/tables/one.csv", b"a,b")
    copied = copy_of(here.path)
    assert copied is not None
    before = listing(uri)
    copied.put_back(here.page.parent)
    assert set(listing(uri)) - set(before) == {"report/tables/one.csv"}
    again = Layout(folder_of(uri))
    obtain_below(again.path)
    assert again.page.read_bytes() == b"a new page"
    assert set(Manifest(again.path).states().values()) == {"whole"}


def test_what_is_written_waits_for_nobody_to_remove_it(run: Path, uri: str) -> None:
    upload(run, uri)
    here = Layout(folder_of(uri))
    other = threading.Thread(target=folder_of, args=(uri,))
    copied = copy_of(here.path)
    assert copied is not None
    with alone(here.path):
        write(here, "report/tables/one.csv", b"a,b")
        other.start()
        other.join(0.2)
        assert other.is_alive(), "it waits, as it would remove the file"
        copied.put_back(here.page.parent)
    other.join()
    assert "report/tables/one.csv" in listing(uri)


def test_nothing_is_written_where_a_run_writes(run: Path, uri: str, tmp_path: Path) -> None:
    upload(run, uri)
    note = tmp_path / SESSION
    for ended, is_free in ((False, False), (True, True)):
        note.write_text(json.dumps({"staging": "x", "host": "there", ENDED: ended}))
        put(note, join(uri, SESSION))
        here = Layout(folder_of(uri))
        assert not is_there(here.path / SESSION)
        write(here, "report/index.html", b"mine")
        copied = copy_of(here.path)
        assert copied is not None
        if is_free:
            copied.put_back(here.page)
            continue
        before = listing(uri)
        with pytest.raises(RunError, match="there") as caught:
            copied.put_back(here.page)
        assert uri in str(caught.value)
        assert listing(uri) == before
        assert Layout(folder_of(uri)).page.exists() is False, "the page there counts"


def test_nothing_is_written_over_a_run_that_has_changed(run: Path, uri: str) -> None:
    upload(run, uri)
    here = Layout(folder_of(uri))
    write(here, "report/index.html", b"mine")
    Layout(run).stage("other").write({"seconds": 1.0})
    upload(run, uri)
    copied = copy_of(here.path)
    assert copied is not None
    with pytest.raises(RunError, match="changed"):
        copied.put_back(here.page)


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("nosuch://a/b", "unknown scheme"),
        ("memory://nothing/there", "no run"),
        ("file:///nothing/there", "no run"),
        ("memory://", "is no run"),
        ("file://host/x", "host"),
    ],
)
def test_places_that_cannot_be_used(place: str, named: str) -> None:
    with pytest.raises(UserError) as caught:
        folder_of(place)
    text = str(caught.value)
    assert named in text
    assert place in text
    assert "\n" not in text
    assert "run.output" not in text


def test_a_store_that_fails_is_named_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(base: str) -> None:
        raise OSError("access denied")

    monkeypatch.setattr(remote, "_arrow", fails)
    with pytest.raises(RunError) as caught:
        folder_of("s3://bucket/run?secret_key=HUSH")
    assert "s3://bucket/run?secret_key=***" in str(caught.value)
    assert "access denied" in str(caught.value)
    assert "HUSH" not in str(caught.value)


def test_names_that_lead_elsewhere_are_refused(
    monkeypatch: pytest.MonkeyPatch, uri: str, run: Path
) -> None:
    monkeypatch.setattr(copy, "listed", lambda uri: {"../x": remote.Listed(1, 1)})
    with pytest.raises(UserError, match=r"\.\./x"):
        folder_of(uri)


def test_a_cache_that_is_not_writable(monkeypatch: pytest.MonkeyPatch, uri: str, run: Path) -> None:
    upload(run, uri)
    monkeypatch.setenv("COSUP_CACHE", "/proc/none")
    with pytest.raises(UserError, match="COSUP_CACHE"):
        folder_of(uri)


def test_copies_that_are_not_used_make_room(
    run: Path, uri: str, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 10)
    old = cached / "copies" / "0123456789abcdef"
    (old / "run").mkdir(parents=True)
    (old / "run" / "file").write_bytes(bytes(100))
    (old / ".run.used").touch()
    upload(run, uri)
    folder = folder_of(uri)
    assert not old.exists()
    assert folder.exists(), "this process uses it"
