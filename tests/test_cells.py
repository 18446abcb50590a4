"""No text in a CSV of cosup is a formula of a spreadsheet, and all of it is read back."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.cells import as_cell, as_cells, from_cell, from_cells, to_csv
from cosup.data.answers import read_answers
from cosup.data.sources.table import read_table
from cosup.files import write_csv
from cosup.runs.kept_rows import KeptRows
from cosup.teachers.tables.frames import frames

FORMULAS = ("=1+1", "+a", "-a", "@SUM(A1)", "\t=a", "\r=a", "\uff1d1", "-1-2", "'=quoted", "''+b")
HARMLESS = ("a", "", "'a", "'", "a=b", "-1", "+1.5", "-2e-3", "cat's", "1", "'-1")
"""As read back; a number keeps its form."""


def is_formula(cell: str) -> bool:
    """Return whether OWASP's list has the first character, and it is no number."""
    try:
        float(cell)
    except ValueError:
        return cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    return False


@pytest.mark.parametrize("text", [*FORMULAS, *HARMLESS])
def test_texts_are_read_back(text: str) -> None:
    assert from_cell(as_cell(text)) == text
    assert not is_formula(as_cell(text))


@pytest.mark.parametrize("text", ["a", "", "'a", "a=b", "-1", "+1.5", "-2e-3"])
def test_harmless_texts_and_numbers_stay(text: str) -> None:
    assert as_cell(text) == text


@given(st.text(alphabet="'=+-@\t\r\n,\";a1.e\uff1d"))
def test_any_text_is_read_back(text: str) -> None:
    cell = as_cell(text)
    assert from_cell(cell) == text
    assert not is_formula(cell)


texts = st.text(alphabet="'=+-@\t\r\n,\";a1")


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_any_table_is_read_back(rows: list[tuple[str, str]]) -> None:
    table = pd.DataFrame(rows, columns=["=a", "b"])
    text = to_csv(table)
    cells = list(csv.reader(io.StringIO(text, newline="")))
    assert not any(is_formula(cell) for row in cells for cell in row)
    read = pd.read_csv(
        io.StringIO(text, newline=""), dtype=str, keep_default_na=False, skip_blank_lines=False
    )
    pd.testing.assert_frame_equal(from_cells(read), table, check_dtype=False)


def test_columns_of_any_type() -> None:
    table = pd.DataFrame(
        {
            "text": ["=a", None],
            "class": pd.Categorical(["-b", "c"], categories=["-b", "c"]),
            "mixed": pd.Series(["@d", -1], dtype=object),
            "number": [-1.5, float("nan")],
            "-name": [-1, 2],
        }
    )
    before = table.copy()
    cells = as_cells(table)
    assert to_csv(table).splitlines() == [
        "text,class,mixed,number,'-name",
        "'=a,'-b,'@d,-1.5,-1",
        ",c,-1,,2",
    ]
    assert cells["number"].dtype == float
    pd.testing.assert_frame_equal(table, before)


def test_what_is_written_is_read_by_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    names = [text for text in FORMULAS if text.strip() == text]
    write_csv(path, pd.DataFrame({"sample_id": names, "label": names[::-1]}))
    assert not any(is_formula(cell) for row in csv.reader(path.open(newline="")) for cell in row)
    answers = read_answers(path)
    assert [one.sample_id for one in answers] == names
    assert [one.label for one in answers] == names[::-1]
    assert read_table(str(path))["sample_id"].tolist() == names
    (chunk,) = frames(path)
    assert chunk["label"].tolist() == names[::-1]


def test_rows_that_are_written_over_time(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    columns = ("path", "label", "probability", "probability_=x")
    rows = {text: [dict(zip(columns, (text, text, 0.5, -1.0), strict=True))] for text in FORMULAS}
    first = KeptRows(path, columns, "a")
    first.open(resume=False)
    first.append(rows)
    first.finish()
    assert not any(is_formula(cell) for row in csv.reader(path.open(newline="")) for cell in row)
    again = KeptRows(path, columns, "a")
    again.open(resume=True)
    assert again.images() == set(FORMULAS)
    again.finish()
    second = KeptRows(path, columns, "a")
    second.open(resume=True)
    assert second.images() == set(FORMULAS)
