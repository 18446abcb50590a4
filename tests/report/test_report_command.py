"""`cosup report` writes pages, text or JSON; mistakes are one line each."""

import json
import shutil
from pathlib import Path

import pytest
from report_run import CLASSES, DOMAINS
from rich.cells import cell_len

from cosup import words
from cosup.analysis import load_run, tables, verdict
from cosup.analysis.figures import FIGURES
from cosup.cli import call

pytestmark = pytest.mark.slow


def captured_text(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_run_writes_its_page(finished_run: Path) -> None:
    assert (finished_run / "report" / "index.html").is_file()
    assert (finished_run / "report" / "tables" / "overview.csv").is_file()


def test_output_sets_the_page(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "deep" / "page.html"
    assert call(["report", str(finished_run), "--output", str(page)]) == 0
    assert str(page) in captured_text(capsys)[0]
    again = (finished_run / "report" / "index.html").read_bytes()
    assert page.read_bytes() == again, "the same run gives the same page"
    assert (page.parent / "tables" / "load.parquet").is_file()
    assert call(["report", str(finished_run), "--output", str(page)]) == 0


def test_text(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(finished_run.rglob("*"))
    assert call(["report", str(finished_run), "--text"]) == 0
    out, _ = captured_text(capsys)
    for name in ("overview", "rounds", "filters"):
        assert FIGURES[name].title in out
    for name in (*CLASSES[:2], *DOMAINS):
        assert name in out, "markup in names is printed literally"
    assert sorted(finished_run.rglob("*")) == before


@pytest.mark.parametrize("columns", [80, 120])
def test_text_keeps_to_columns(
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    """No number is cut: names are folded, and the last columns of a wide table are left out."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert call(["report", str(finished_run), "--text"]) == 0
    out, _ = captured_text(capsys)
    lines = out.splitlines()
    assert max(cell_len(line) for line in lines) <= columns
    run = load_run(finished_run)
    numbers = [words.in_percent(value) for value in tables(run)["overview"]["accuracy"]]
    start = lines.index(next(line for line in lines if FIGURES["overview"].title in line))
    shown = " ".join(lines[start : start + 3 * len(numbers)]).split()
    assert set(numbers) <= set(shown)


def test_json_is_one_document(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(finished_run.rglob("*"))
    assert call(["report", str(finished_run), "--json"]) == 0
    found = json.loads(captured_text(capsys)[0])
    run = load_run(finished_run)
    made = tables(run)
    assert found["verdict"] == verdict(run, made)
    assert found["finished"] is True
    assert found["outcome"]["answer"] in ("helped", "surpassed", "noise", "no")
    assert found["next"][0]["text"]
    assert not any("RUN" in step["command"].split() for step in found["next"])
    student = found["tables"]["overview"][0]
    assert student["accuracy"] == run.summary["student"]["accuracy"], (
        "a fraction, as in summary.json"
    )
    assert student["pgr"] is None or isinstance(student["pgr"], float)
    assert set(found["tables"]) == {name for name in made if FIGURES[name].excerpt}
    for name, rows in found["tables"].items():
        assert len(rows) == len(made[name])
        assert set(rows[0]) == set(made[name].columns)
    assert all(Path(path).exists() for path in found["paths"].values())
    assert sorted(finished_run.rglob("*")) == before
    page = tmp_path / "page.html"
    assert call(["report", str(finished_run), "--json", "--output", str(page)]) == 0
    assert json.loads(captured_text(capsys)[0])["paths"]["page"] == str(page)
    assert page.is_file()


def test_json_of_several_runs_is_a_list(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of one that is not finished; missing numbers are null."""
    for seed in (0, 1):
        shutil.copytree(finished_run, tmp_path / f"seed-{seed}")
    (tmp_path / "seed-1" / "summary.json").unlink()
    assert call(["report", str(tmp_path), "--json"]) == 0
    out, err = captured_text(capsys)
    first, second = json.loads(out)
    assert (first["finished"], second["finished"]) == (True, False)
    assert "--resume" in second["next"][0]["command"]
    assert "NaN" not in out
    assert err == ""


def test_a_folder_of_runs_writes_a_page_each(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        shutil.copytree(finished_run, tmp_path / f"seed-{seed}")
        shutil.rmtree(tmp_path / f"seed-{seed}" / "report")
    assert call(["report", str(tmp_path)]) == 0
    out, _ = captured_text(capsys)
    for seed in (0, 1):
        page = tmp_path / f"seed-{seed}" / "report" / "index.html"
        assert page.is_file()
        assert str(page) in out
    assert call(["report", str(tmp_path), "--output", str(tmp_path / "x.html")]) == 2
    assert "--output" in captured_text(capsys)[1]


def test_mistakes_are_one_line_each(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "notes.html"
    other.write_text("<p>mine</p>")
    for arguments, named in (
        ([str(tmp_path / "none")], str(tmp_path / "none")),
        ([str(tmp_path)], str(tmp_path)),
        (["nosuch://bucket/run"], "nosuch://bucket/run"),
        ([str(finished_run), "--output", str(other)], f"--output: '{other}'"),
        ([str(finished_run), "--output", str(tmp_path)], f"--output: '{tmp_path}'"),
        ([str(finished_run), "--text", "--output", "x"], "--text"),
        ([str(finished_run), "--text", "--json"], "--json"),
    ):
        assert call(["report", *arguments]) == 2
        out, err = captured_text(capsys)
        assert out == ""
        assert named in err
        assert len(err.splitlines()) == 1
    assert other.read_text() == "<p>mine</p>"


@pytest.mark.parametrize(
    "name", ["samples.parquet", "decisions/round-2.parquet", "checkpoints/round-2/test.safetensors"]
)
def test_a_damaged_file_is_named(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    shutil.rmtree(run / "report")
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: len(content) // 2])
    for flags in ([], ["--text"]):
        assert call(["report", str(run), *flags]) == 1
        _, err = captured_text(capsys)
        assert str(run / name) in err
        assert len(err.splitlines()) == 1
    assert not (run / "report").exists(), "nothing half-written"
