"""`cosup compare --format` writes the numbers of a comparison for papers and programs."""

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from helpers.comparable_runs import RunAnswers, make_run, make_seeds, random_answers

from cosup.analysis.comparable import entries_in
from cosup.analysis.comparison import compare
from cosup.cli import call
from cosup.report.compare_formats import FORMATS
from cosup.words import MINUS

BASELINE, WORSE = "base_line", "50%_&_{x}|#1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over three seeds, with names that mean something to LaTeX and Markdown."""
    root = tmp_path_factory.mktemp("runs")
    make_seeds(root / BASELINE, {seed: one(seed, 0.8) for seed in range(3)})
    make_seeds(root / WORSE, {seed: one(seed + 10, 0.7) for seed in range(4)})
    return root


def one(seed: int, skill: float) -> RunAnswers:
    return random_answers(seed, skill)


def places(folder: Path) -> list[str]:
    return [str(folder / BASELINE), str(folder / WORSE)]


def printed(capsys: pytest.CaptureFixture[str], folder: Path, form: str, *more: object) -> str:
    assert call(["compare", *places(folder), "--format", form, *map(str, more)]) == 0
    return capsys.readouterr().out


def test_json_is_the_tables_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, folder, "json")
    assert call(["compare", *places(folder), "--json"]) == 0
    assert capsys.readouterr().out == text
    document = json.loads(text)
    tables = compare(entries_in(places(folder)))
    for name, key in (("runs", "runs"), ("pairs", "pairs"), ("seeds", "by_seed")):
        found = pd.DataFrame(document[key])
        pd.testing.assert_frame_equal(found, tables[name], check_dtype=False)
    assert document["baseline"] == BASELINE
    assert document["seeds"] == [0, 1, 2]
    assert document["left_out"] == {WORSE: [3]}
    assert document["pairs"][0]["difference"] < 0
    assert 0 < document["runs"][0]["student"] < 1


def test_csv_has_the_numbers_in_percent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(StringIO(printed(capsys, folder, "csv"))).set_index("run")
    tables = compare(entries_in(places(folder)))
    runs, (pair,) = tables["runs"].set_index("run"), tables["pairs"].to_dict("records")
    for name in (BASELINE, WORSE):
        assert table.loc[name, "accuracy_percent"] == round(100 * runs.loc[name, "student"], 1)
        assert table.loc[name, "accuracy_deviation"] == round(100 * runs.loc[name, "deviation"], 1)
    assert table.loc[WORSE, "difference_points"] == round(100 * pair["difference"], 1)
    assert table.loc[WORSE, "difference_low"] == round(100 * pair["low"], 1)
    assert table.loc[BASELINE].filter(like="difference").isna().all()


def test_markdown_is_a_table_with_every_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, folder, "markdown").splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[:4]]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert [row[0].strip().replace("\\", "") for row in rows[2:]] == [BASELINE, WORSE]
    assert "\\|" in rows[3][0]
    head = [cell.strip() for cell in rows[0]]
    lead = rows[3][head.index(f"minus {BASELINE}, points")].strip()
    (pair,) = compare(entries_in(places(folder)))["pairs"].to_dict("records")
    assert lead == f"{MINUS}{-100 * pair['difference']:.1f}"
    assert all("-" not in cell for row in rows[2:] for cell in row)
    assert "seeds" in lines[-1]


def test_latex_escapes_names_and_has_one_row_per_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, folder, "latex")
    body = text[text.index("\\midrule") : text.index("\\bottomrule")].splitlines()[1:]
    assert len(body) == 2
    assert body[1].startswith("50\\%\\_\\&\\_\\{x\\}\\textbar{}\\#1 & ")
    columns = len(re.search(r"tabular\}\{(l[r]+)\}", text)[1])  # type: ignore[index]
    for row in body:
        assert len(re.split(r"(?<!\\)&", row)) == columns
        assert row.endswith(" \\\\")
        assert row.isascii()
    assert " & $-$" in body[1]
    assert not body[1].split(" & ")[2].startswith("[")
    comments = [line for line in text.splitlines() if line.startswith("%")]
    assert any("seed" in line for line in comments)


@pytest.mark.parametrize(
    ("samples", "skill", "digits"), [(30, 0.5, 0), (240, 0.8, 1), (50_000, 0.99, 2)]
)
def test_digits_follow_the_uncertainty(
    samples: int,
    skill: float,
    digits: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed, name in enumerate("ab"):
        answers = random_answers(seed, skill, samples=samples, groups=samples)
        make_run(tmp_path / name, replace(answers, ceiling=None))
    assert call(["compare", *map(str, (tmp_path / n for n in "ab")), "--format", "markdown"]) == 0
    row = capsys.readouterr().out.splitlines()[2].split(" | ")
    number = row[1]
    assert len(number.partition(".")[2]) == digits
    assert len(row) == 7, "columns without a number are left out"


def test_a_table_is_written_to_a_new_file(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text = printed(capsys, folder, "latex")
    assert "\\toprule" not in printed(capsys, folder, "latex", "-o", "table.tex")
    assert Path("table.tex").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["table.tex"], "no page is written"
    assert call(["compare", *places(folder), "--format", "csv", "-o", "table.tex"]) == 2
    assert "table.tex" in capsys.readouterr().err
    assert Path("table.tex").read_text() == text
    assert call(["compare", *places(folder), "--json", "-o", "table.tex", "--overwrite"]) == 0
    assert "baseline" in json.loads(Path("table.tex").read_text())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--format", "latx"], "did you mean 'latex'?"),
        (["--format", "csv", "--json"], "--format: 'csv'"),
        (["--format", "csv", "-o", "."], "--output: '.'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    line: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(["compare", *places(folder), *arguments]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error
    assert list(tmp_path.iterdir()) == []


def test_every_format_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["compare", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in FORMATS)
