"""Valid annotation tables are read exactly; errors name the file, row and sample."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.row_groups import first_rows_held, texts

import cosup.teachers.tables.frames as frames
from cosup.config.external import ExternalSection
from cosup.errors import UserError
from cosup.probabilities import DENSE_LIMIT, TOP_K
from cosup.teachers.tables.answers import Answers, ProbabilityAnswers
from cosup.teachers.tables.reading import read_answers

CLASSES = ["cat", "dog", "NA"]


def csv(path: Path, text: str) -> Path:
    file = path / "table.csv"
    file.write_text(text)
    return file


def parquet(path: Path, **columns: Any) -> Path:
    file = path / "table.parquet"
    pd.DataFrame(columns).to_parquet(file)
    return file


def read_annotations(path: Path, classes: list[str], **settings: Any) -> Answers:
    return read_answers(ExternalSection(annotations=str(path)), classes, **settings)


def assert_refused(path: Path, *expected: str, **settings: Any) -> None:
    with pytest.raises(UserError) as caught:
        read_annotations(path, CLASSES, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for text in expected:
        assert text in message


def test_labels_by_name_and_by_index(tmp_path: Path) -> None:
    table = read_annotations(csv(tmp_path, "sample_id,label\na,dog\nb,0\nc,NA\n"), CLASSES)
    assert list(table.ids) == ["a", "b", "c"]
    assert table.dense().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_missing_numeric_labels_are_abstentions(tmp_path: Path) -> None:
    path = parquet(tmp_path, sample_id=[1, 2, 3], label=[2.0, None, -1.0])
    table = read_annotations(path, CLASSES, may_abstain=True)
    assert list(table.ids) == ["1", "2", "3"]
    assert table.dense().tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert_refused(path, "row 2", "'2'", "no label", "missing: abstain")


@pytest.mark.parametrize("write", ["csv", "parquet"])
def test_a_column_per_class_in_any_order(tmp_path: Path, write: str) -> None:
    frame = pd.DataFrame(
        {"sample_id": ["x", "y"], "NA": [0.2, 0.0], "cat": [0.3, 1.0], "dog": [0.5, 0.0]}
    )
    path = tmp_path / f"t.{write}"
    if write == "csv":
        frame.to_csv(path)  # with the index column of pandas, which is ignored
    else:
        frame.to_parquet(path)
    dense = read_annotations(path, CLASSES).dense()
    torch.testing.assert_close(
        dense, torch.tensor([[0.3, 0.5, 0.2], [1.0, 0.0, 0.0]]), atol=1e-3, rtol=0
    )


def test_the_size_of_chunks_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(3), size=700)
    path = parquet(
        tmp_path,
        sample_id=[f"s{i}" for i in range(700)],
        **{name: probs[:, i] for i, name in enumerate(CLASSES)},
    )
    whole = read_annotations(path, CLASSES)
    monkeypatch.setattr(frames, "CHUNK_ELEMENTS", 1)
    parts = read_annotations(path, CLASSES)
    assert list(parts.ids) == list(whole.ids)
    assert torch.equal(parts.dense(), whole.dense())
    np.testing.assert_allclose(whole.dense().numpy(), probs, atol=1e-3)


def test_no_chunk_of_a_table_with_few_columns_has_more_than_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "CHUNK_ROWS", 100)
    path = parquet(tmp_path, sample_id=[f"s{i}" for i in range(250)], label=["cat"] * 250)
    text = path.with_suffix(".csv")
    pd.read_parquet(path).to_csv(text, index=False)
    for file in (path, text):
        chunks = list(frames.frames(file))
        assert [len(chunk) for chunk in chunks] == [100, 100, 50]
        assert [name for chunk in chunks for name in chunk["sample_id"]][-1] == "s249"


def test_a_row_group_is_not_held_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "CHUNK_ROWS", 1000)
    monkeypatch.setattr(frames, "READ_BYTES", 2**18)
    path = tmp_path / "a.parquet"
    chunk, held = first_rows_held(path, "sample_id", lambda: frames.frames(path))
    assert list(chunk["sample_id"]) == texts(1000)
    assert held < 50


def test_row_numbers_continue_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "CHUNK_ELEMENTS", 1)
    path = parquet(tmp_path, sample_id=[f"s{i}" for i in range(600)], label=["cat"] * 599 + ["dgo"])
    assert_refused(path, "row 600, sample 's599'", "unknown class 'dgo'", "did you mean 'dog'")
    assert_refused(
        parquet(tmp_path, sample_id=["s1", *(f"s{i}" for i in range(599))], label=["cat"] * 600),
        "'s1'",
        "rows 1 and 3",
    )


BAD_ROWS = [
    ("a,0.5,nan,0.5", "class 'dog' is 'nan'"),
    ("a,0.5,,0.5", "class 'dog' is ''"),
    ("a,0.5,half,0.5", "class 'dog' is 'half'"),
    ("a,0.5,inf,0.5", "class 'dog' is 'inf'"),
    ("a,1.5,-0.5,0", "class 'dog' is '-0.5'"),
    ("a,0.5,0.5,0.5", "probabilities sum to 1.5"),
    ("a,0,0,0", "`missing: abstain` allows 0"),
    (",1,0,0", "has no sample_id"),
    ("z,1,0,0", "'z' is in rows 1 and 2"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_bad_probabilities(tmp_path: Path, row: str, message: str) -> None:
    path = csv(tmp_path, f"sample_id,cat,dog,NA\nz,1,0,0\n{row}\n")
    assert_refused(path, "2", message)


BAD_HEADS = [
    ("id,label\na,cat\n", "no column 'sample_id' (found: id, label)"),
    ("sample_id\na\n", "neither a column 'label' nor a column per class"),
    ("sample_id,label,cat\na,cat,1\n", "one or the other"),
    ("sample_id,cat,dgo,NA\na,1,0,0\n", "unknown class 'dgo'; did you mean 'dog'"),
    ("sample_id,cat,NA\na,1,0\n", "no column for class 'dog'"),
    ("sample_id,cat,0,dog,NA\na,1,0,0,0\n", "two columns for class 'cat'"),
    ("sample_id,label\n", "no rows"),
    ("sample_id,label\na,3\n", "unknown class '3'"),
    ("sample_id,label\na,\n", "has no label"),
    ('sample_id,label\n"a,cat\nb', "CSV"),
    ("sample_id,label\na,cat,more\nb,dog\n", "more fields than the header"),
    ("sample_id,label\na,cat\nb,dog,more\n", "cannot be read as CSV"),
    ("sample_id;label\na;cat\n", "no column 'sample_id' (found: sample_id;label)"),
]


@pytest.mark.parametrize(("text", "message"), BAD_HEADS)
def test_bad_columns_and_labels(tmp_path: Path, text: str, message: str) -> None:
    assert_refused(csv(tmp_path, text), message)


def test_annotations_outside_the_scope_are_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "sample_id,label\na,cat\nb,dog\n")
    assert_refused(
        path, "row 2, sample 'b'", "class 'dog' is outside the teacher's scope", scope=[0]
    )
    path = csv(tmp_path, "sample_id,cat\na,1\n")
    table = read_annotations(path, CLASSES, scope=[0])
    assert isinstance(table, ProbabilityAnswers)
    assert table.probs.dense().tolist() == [[1.0, 0.0, 0.0]]


def test_files_with_the_wrong_ending_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.csv", "does not exist")
    assert_refused(tmp_path, "is a folder")
    makers: dict[str, tuple[Callable[[Path], Any], str]] = {
        "a.parquet": (lambda p: p.write_text("sample_id,label\n"), "no Parquet file"),
        "cut.parquet": (lambda p: p.write_bytes(b"PAR1 and no more"), "as Parquet"),
        "b.csv": (lambda p: p.write_bytes(b"PAR1...."), "is a Parquet file"),
        "image.csv": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff"), "annotation table"),
        "c.csv.gz": (lambda p: p.write_text("not gzip"), "as CSV"),
        "d.csv": (lambda p: p.write_text(""), "is empty"),
        "e.txt": (lambda p: p.write_text("x"), "unknown ending"),
    }
    for name, (make, message) in makers.items():
        make(tmp_path / name)
        assert_refused(tmp_path / name, message)


def test_many_classes_are_stored_compactly(tmp_path: Path) -> None:
    count = DENSE_LIMIT + 1
    classes = [f"c{i}" for i in range(count)]
    probs = np.zeros((2, count))
    probs[0, 99], probs[1, [3, 4]] = 1.0, [0.75, 0.25]
    columns = {name: probs[:, index] for index, name in enumerate(classes)}
    table = read_annotations(parquet(tmp_path, sample_id=["a", "b"], **columns), classes)
    assert isinstance(table, ProbabilityAnswers)
    assert table.probs.logs.shape[1] == TOP_K
    assert table.dense()[1, 3] == pytest.approx(0.75, abs=1e-3)
    table = read_annotations(parquet(tmp_path, sample_id=["a", "b"], label=["c99", "c3"]), classes)
    assert table.dense().argmax(1).tolist() == [99, 3]
