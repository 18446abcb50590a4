"""Commands and functions on a run at a URI do what they do on the same run in a directory."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pandas as pd
import pytest
import torch

import cosup
from cosup.cli import call
from cosup.errors import RunError
from cosup.layout import Layout
from cosup.origins import has_folder
from cosup.remote import get, join, listing, put, remove
from cosup.remote_copy import copy, folder_of


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COSUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(copy, "PAUSES", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture
def uri(world: Path, tmp_path: Path) -> Iterator[str]:
    """Return the URI of the run of `world`, which is also in the directory."""
    place = f"memory://{tmp_path.name}/runs/reviewed"
    upload(world, place)
    yield place
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def upload(run: Path, uri: str) -> None:
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.name != ".lock":
            put(path, join(uri, path.relative_to(run).as_posix()))


def read(uri: str, tmp_path: Path) -> bytes:
    assert get(uri, tmp_path / "got")
    return (tmp_path / "got").read_bytes()


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    assert call(list(arguments)) == status
    out, err = capsys.readouterr()
    return out + err


def test_a_report_is_that_of_the_directory(
    world: Path, uri: str, capsys: pytest.CaptureFixture[str], cached: Path
) -> None:
    there = printed(capsys, "report", uri, "--text")
    assert there.replace(uri, "runs/reviewed") == printed(
        capsys, "report", "runs/reviewed", "--text"
    )
    tree = json.loads(printed(capsys, "report", uri, "--json"))
    assert tree["path"] == uri
    assert tree["paths"]["student"] == f"{uri}/student"
    assert str(cached) not in json.dumps(tree)


def test_a_report_reads_no_weights(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "report", uri)
    folder = folder_of(uri)
    files = Layout(folder)
    assert files.round(1).decisions.path.exists()
    assert not files.round(1).student.path.exists()
    assert has_folder(files.student)
    assert not list(files.student.glob("*.safetensors"))


def test_a_report_goes_to_the_uri(
    world: Path, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = f"{uri}/report/index.html"
    for name in ("report/index.html", "report/tables/overview.csv"):
        remove(join(uri, name))
    assert page in printed(capsys, "report", uri)
    assert call(["report", str(world)]) == 0
    assert read(page, tmp_path) == (world / "report" / "index.html").read_bytes()
    assert "report/tables/overview.csv" in listing(uri)
    assert "all whole" in printed(capsys, "verify", uri)


def test_a_report_where_the_uri_cannot_be_written(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(file: Path, uri: str) -> None:
        raise RunError("cannot be written (read-only)", where=uri)

    monkeypatch.setattr(copy, "put", refused)
    remove(join(uri, "report/index.html"))
    before = listing(uri)
    out = printed(capsys, "report", uri)
    assert "read-only" in out
    assert uri in out
    assert "reviewed-report/index.html" in out
    assert Path("reviewed-report/index.html").is_file()
    assert Path("reviewed-report/tables/overview.csv").is_file()
    assert listing(uri) == before
    assert call(["report", uri]) == 0, "an earlier page is replaced"


def test_the_report_of_an_unfinished_run_stays_here(
    world: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    remove(uri)
    Layout(world).summary.remove()
    upload(world, uri)
    before = listing(uri)
    assert "reviewed-report/index.html" in printed(capsys, "report", uri)
    assert listing(uri) == before


def test_runs_are_listed_by_their_summaries(
    world: Path, uri: str, capsys: pytest.CaptureFixture[str], cached: Path
) -> None:
    above = uri.removesuffix("/reviewed")
    put(world / "config.yaml", join(above, "other/config.yaml"))
    (there,) = json.loads(printed(capsys, "ls", "runs", above, "--json"))
    (here,) = json.loads(printed(capsys, "ls", "runs", "runs", "--json"))
    assert here["name"] == "runs/reviewed"
    assert there == {**here, "name": uri}
    assert not cached.exists(), "no run is copied"
    assert "none in" in printed(capsys, "ls", "runs", join(above, "other"))
    assert "SECTION" in printed(capsys, "ls", "runs", "nosuch://a/b", status=2)


def test_a_directory_and_a_uri_are_compared(
    world: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world, "runs/again")
    rows = json.loads(printed(capsys, "compare", uri, "runs/again", "--json"))
    again = json.loads(printed(capsys, "compare", "runs/reviewed", "runs/again", "--json"))
    for one in (*rows["runs"], *again["runs"]):
        del one["directory"]
    assert rows == again
    above = uri.removesuffix("/reviewed")
    upload(world, join(above, "second"))
    rows = json.loads(printed(capsys, "compare", above, "--json"))
    assert len(rows["runs"]) == 2


def test_a_student_predicts_from_its_uri(uri: str, world: Path) -> None:
    images = [str(path) for path in sorted(Path("own/one").iterdir())[:5]]
    for number, place in enumerate(("runs/reviewed", uri, f"{uri}/student")):
        assert call(["predict", place, *images, "-o", f"{number}.csv"]) == 0
    assert Path("0.csv").read_text() == Path("1.csv").read_text() == Path("2.csv").read_text()
    there = cosup.load_student(uri).predict(images)
    assert torch.equal(there, cosup.load_student(world).predict(images))
    assert not Layout(folder_of(uri)).samples.path.exists(), "no more than the student is fetched"


def test_labels_are_exported_to_the_uri(
    uri: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{uri}/labels-only.csv" in printed(capsys, "export", "labels", uri)
    assert call(["export", "labels", "runs/reviewed"]) == 0
    name = "labels-only.csv"
    assert read(join(uri, name), tmp_path) == (world / name).read_bytes()
    assert f"{uri}/{name}" in printed(capsys, "export", "labels", uri, status=2)
    assert call(["export", "labels", uri, "-o", "here.csv"]) == 0
    assert Path("here.csv").read_bytes() == (world / name).read_bytes()


def test_a_damaged_run_is_verified_and_repaired_at_its_uri(
    uri: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "all whole" in printed(capsys, "verify", uri)
    whole = read(join(uri, "labels.parquet"), tmp_path)
    (tmp_path / "bad").write_bytes(whole[::-1])
    put(tmp_path / "bad", join(uri, "labels.parquet"))
    assert "damaged     labels.parquet" in printed(capsys, "verify", uri, status=1)
    assert f"{uri}/labels.parquet is damaged" in printed(capsys, "report", uri, status=1)
    assert "all whole" in printed(capsys, "verify", uri, "--repair")
    pd.testing.assert_frame_equal(
        cosup.load_run(uri).labels(), pd.read_parquet(world / "labels.parquet")
    )


def test_a_review_is_kept_at_the_uri(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "review", uri, "--next", "10")
    assert "reviewed-review.csv" in out
    assert f"cosup review {uri} --read reviewed-review.csv" in out
    table = pd.read_csv("reviewed-review.csv", dtype=str, keep_default_na=False)
    table["label"] = table["sample_id"].str.partition("/")[0]
    table.to_csv("reviewed-review.csv", index=False)
    assert call(["review", uri, "--read", "reviewed-review.csv"]) == 0
    answers = Layout(folder_of(uri)).review.answers.read()
    assert set(answers["sample_id"]) == set(table["sample_id"])
    again = printed(capsys, "review", uri, "--next", "10", "--no-html")
    assert "10 images" in again
    second = pd.read_csv("reviewed-review.csv", dtype=str, keep_default_na=False)
    assert not set(second["sample_id"]) & set(table["sample_id"])


def test_a_table_of_another_kind_is_not_replaced(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("reviewed-review.csv").write_text("mine\n")
    assert "reviewed-review.csv" in printed(capsys, "review", uri, "--next", "10", status=2)
    assert Path("reviewed-review.csv").read_text() == "mine\n"
