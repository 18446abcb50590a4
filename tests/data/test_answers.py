"""Answers of a reviewer: forms in which files come, mistakes, and their use in a sample table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.user_errors import error_of, mistakes_of

from cosup.data.answers import Answer, apply_answers, check_answers, read_answers
from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.errors import UserError

CLASSES = ["cat", "dog", "owl"]
ROWS = [("a/1.png", "cat", "random"), ("a/2.png", "", "random"), ("b, 3.png", "dog", "contested")]


def unknown(name: str) -> UserError | None:
    return None if name.startswith(("a", "b")) else UserError("unknown sample")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_what_spreadsheets_write_is_read(tmp_path: Path, separator: str, encoding: str) -> None:
    path, place = tmp_path / "answers.csv", "bär.png"
    table = pd.DataFrame([*ROWS, (place, "owl", "")], columns=["sample_id", "label", "reason"])
    table.to_csv(path, sep=separator, encoding=encoding, index=False, lineterminator="\r\n")
    found = read_answers(path)
    assert [(one.sample_id, one.label, one.reason) for one in found] == [*ROWS, (place, "owl", "")]
    assert [one.row for one in found] == [1, 2, 3, 4]


def test_parquet_and_empty_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    pd.DataFrame({"sample_id": ["1", "2"], "label": ["cat", None]}).to_parquet(path)
    assert read_answers(path) == [Answer(1, "1", "cat"), Answer(2, "2", "")]
    path = tmp_path / "answers.csv"
    path.write_text("sample_id,path,label\n1,x,cat\n,,\n\n2\n")
    assert [(one.sample_id, one.label) for one in read_answers(path)] == [("1", "cat"), ("2", "")]


@pytest.mark.parametrize(
    "content",
    ["", "sample_id,reason\n1,random\n", "sample_id,label\n1,cat,2\n", "sample_id,label,label\n"],
)
def test_a_file_that_is_no_table_of_answers(tmp_path: Path, content: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(content)
    assert str(path) in str(error_of(read_answers, path))


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    assert error_of(read_answers, tmp_path / "none.csv").value == str(tmp_path / "none.csv")
    path = tmp_path / "answers.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    assert str(path) in str(error_of(read_answers, path))


def test_every_mistake_is_told_at_once_with_its_row() -> None:
    answers = [
        Answer(1, "a1", "cat"),
        Answer(2, "a1", "cat"),
        Answer(3, "x", "cat"),
        Answer(4, "a2", "cta"),
        Answer(5, "a3", ""),
    ]
    found = mistakes_of(check_answers, answers, CLASSES, unknown, "file")
    assert [error.where for error in found] == ["file, row 2", "file, row 3", "file, row 4"]
    assert found[2].nearest == ("cat",)


def test_letters_may_differ_in_case_where_one_class_fits() -> None:
    assert check_answers([Answer(1, "a", "DOG")], CLASSES, unknown, "file") == {"a": 1}
    classes = ["Dog", "dog"]
    assert check_answers([Answer(1, "a", "dog")], classes, unknown, "file") == {"a": 1}
    assert mistakes_of(check_answers, [Answer(1, "a", "DOG")], classes, unknown, "file")


def table_of(splits: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": [f"a{number}" for number in range(len(splits))],
            "label": np.full(len(splits), -1, np.int64),
            "given": np.full(len(splits), -1, np.int64),
            "group": [f"g{number // 2}" for number in range(len(splits))],
            "split": splits,
        }
    )


def answers_of(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    pd.DataFrame(rows, columns=["sample_id", "label", "reason"]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(("others", "role"), [([], "test"), (["test"], "validation")])
def test_random_answers_measure_and_the_others_are_labels(
    tmp_path: Path, others: list[str], role: str
) -> None:
    path = answers_of(
        tmp_path / "a.csv", [("a0", "cat", "random"), ("a3", "owl", "contested"), ("a4", "", "")]
    )
    table = table_of(["student_train"] * 6 + others)
    changed, applied = apply_answers(
        table, CLASSES, read_answers(path), where=str(path), grouped=False, measure=True
    )
    assert list(changed["split"]) == [role, *["student_train"] * 5, *others]
    assert list(changed["label"][:4]) == list(changed["given"][:4]) == [0, -1, -1, -1]
    assert list(changed["reviewed"][:6]) == [-1, -1, -1, 2, -1, -1]
    assert (applied.split, applied.measuring, applied.labels) == (role, 1, 1)
    changed, applied = apply_answers(
        table, CLASSES, read_answers(path), where=str(path), grouped=False, measure=False
    )
    assert set(changed["split"][:6]) == {"student_train"}
    assert (applied.measuring, applied.labels) == (0, 2)
    assert list(changed["reviewed"][:4]) == [0, -1, -1, 2]


def test_groups_of_measuring_images_leave_student_train(tmp_path: Path) -> None:
    path = answers_of(tmp_path / "a.csv", [("a0", "cat", "random"), ("a3", "owl", "contested")])
    changed, applied = apply_answers(
        table_of(["student_train"] * 4),
        CLASSES,
        read_answers(path),
        where=str(path),
        grouped=True,
        measure=True,
    )
    assert list(changed["split"]) == ["test", "", "student_train", "student_train"]
    assert applied.set_aside == 1
    assert changed["reviewed"][3] == 2


@pytest.mark.parametrize(
    "rows",
    [
        [("a1", "cat", "random")],
        [("zebra", "cat", "random")],
        [("a0", "", "random")],
        [("a0", "cat", "random")],
    ],
    ids=["in another split", "unknown", "all blank", "nothing left"],
)
def test_answers_that_cannot_be_used(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    path = answers_of(tmp_path / "a.csv", rows)
    table = table_of(["student_train", "test"])
    error = error_of(
        apply_answers,
        table,
        CLASSES,
        read_answers(path),
        where=str(path),
        grouped=False,
        measure=True,
    )
    assert str(path) in str(error)


def test_other_processes_need_no_file(tmp_path: Path) -> None:
    section = {"source": "digits", "limit": 300}
    data = load_data(DataSection.model_validate(section), 0, 1, None)
    names = data.sample_ids(data.rows("student_train")[:4])
    path = tmp_path / "a.csv"
    answers_of(path, [(name, "7", "random" if name == names[0] else "") for name in names])
    answered = DataSection.model_validate({**section, "answers": str(path)})
    first = load_data(answered, 0, 1, None)
    path.unlink()
    second = load_data(answered, 0, 1, None, first.known())
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.applied == second.applied
    assert (first.applied.measuring, first.applied.labels) == (1, 3)
    assert "answers" in error_of(load_data, answered, 0, 1, None).key
