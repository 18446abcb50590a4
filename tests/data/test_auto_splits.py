"""Tests of `data.splits: auto`: the source's own splits first, then what labels and teachers ask.

On real scans (scikit-learn's digits) written to disk.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.user_errors import error_of

from cosup.data.load import load_data
from cosup.data.section import SPLITS, DataSection
from cosup.data.splits import auto_shares
from cosup.data.table import ImageData
from cosup.errors import RunError

Writer = Callable[..., Path]


def load(source: str, teacher_train: bool = True, seed: int = 0, **settings: Any) -> ImageData:
    section = DataSection.model_validate({"source": source, **settings})
    return load_data(section, seed, 1, None, teacher_train=teacher_train)


def sizes(data: ImageData) -> list[int]:
    """Return the sizes of teacher_train, student_train, validation and test."""
    return [len(data.rows(split)) for split in SPLITS]


def tree(root: Path, write: Writer, **counts: int) -> dict[str, str]:
    """Write folders of splits, `count` scans of each of two classes; return the source's keys."""
    for start, (split, count) in enumerate(counts.items()):
        write(root / split, count=count, start=20 * start)
    return {"source": "image_folder", "root": str(root)}


@pytest.fixture
def table(tmp_path: Path, class_folder: Writer) -> Callable[..., dict[str, str]]:
    """Return a function that writes a table of 20 scans of two classes, with more columns."""

    def write(**columns: Any) -> dict[str, str]:
        class_folder(tmp_path)
        paths = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))
        frame = pd.DataFrame({"path": paths, "label": [path[0] for path in paths]})
        frame.assign(**columns).to_csv(tmp_path / "t.csv", index=False)
        return {"source": "table", "table": str(tmp_path / "t.csv")}

    return write


def test_without_splits_and_with_all_labels_shares_are_drawn(
    tmp_path: Path, class_folder: Writer
) -> None:
    root = str(class_folder(tmp_path, count=50))
    as_before = {"teacher_train": 0.3, "student_train": 0.5, "test": 0.2}
    data = load("image_folder", root=root)
    assert data.table.equals(load("image_folder", root=root, splits=as_before).table)
    assert sizes(data) == [30, 50, 0, 20]
    assert data.drawn
    assert sizes(load("image_folder", teacher_train=False, root=root)) == [0, 80, 0, 20]


@pytest.mark.parametrize(
    ("some_unlabelled", "absent", "shares"),
    [
        (False, [], [0.3, 0.5, 0, 0.2]),
        (False, ["teacher_train"], [0, 0.8, 0, 0.2]),
        (False, ["test"], [0.375, 0.625, 0, 0]),
        (False, ["test", "teacher_train"], [0, 1, 0, 0]),
        (True, [], [0.5, 0, 0.2, 0.3]),
        (True, ["teacher_train"], [0, 0, 0.4, 0.6]),
    ],
)
def test_the_shares(some_unlabelled: bool, absent: list[str], shares: list[float]) -> None:
    found = auto_shares(some_unlabelled, set(absent))
    assert [found[split] for split in SPLITS] == pytest.approx(shares)


def test_a_setting_that_does_without_a_split_needs_no_shares() -> None:
    shared = load("digits", rotations=[0], share_train=True)
    assert len(shared.rows("student_train")) == pytest.approx(0.8 * 1797, abs=1)
    novel = {"novel": 3, "ways": 2}
    few = load("digits", rotations=[0], few_shot=novel)
    assert few.novel is not None
    assert sizes(few)[2:] == [0, 0]
    assert sizes(few)[0] / len(few) == pytest.approx(0.375, abs=0.01)


@pytest.mark.parametrize(
    ("counts", "teacher_train", "expected"),
    [
        ({"train": 16, "val": 3, "test": 5}, True, [12, 20, 6, 10]),
        ({"train": 16, "val": 3, "test": 5}, False, [0, 32, 6, 10]),
        ({"train": 8, "valid": 2}, True, [6, 10, 4, 0]),
        ({"teacher_train": 4, "train": 6, "validation": 2}, True, [8, 12, 4, 0]),
        ({"train": 4, "student_train": 6, "test": 2}, True, [8, 12, 0, 4]),
        ({"train": 4, "student_train": 6, "test": 2}, False, [0, 20, 0, 4]),
        ({"teacher_train": 4, "student_train": 6, "train": 3}, True, [8, 18, 0, 0]),
        ({"teacher_train": 4, "student_train": 6, "test": 2}, True, [8, 12, 0, 4]),
    ],
)
def test_folders_of_splits_are_used_as_given(
    tmp_path: Path,
    class_folder: Writer,
    counts: dict[str, int],
    teacher_train: bool,
    expected: list[int],
) -> None:
    data = load(**tree(tmp_path, class_folder, **counts), teacher_train=teacher_train)
    assert sizes(data) == expected
    for split in ("test", "teacher_train"):
        folders = {name.split("/")[0] for name in data.sample_ids(data.rows(split))}
        assert not counts.keys() & {split} or folders == {split} or split == "teacher_train"
    divided = "train" in counts and not {"teacher_train", "student_train"} & counts.keys()
    assert data.drawn == (divided and teacher_train)


def test_shares_override_folders_of_splits(tmp_path: Path, class_folder: Writer) -> None:
    keys = tree(tmp_path, class_folder, train=4, test=16)
    data = load(**keys, splits={"teacher_train": 0.5, "student_train": 0.3, "test": 0.2})
    assert sizes(data) == [20, 12, 0, 8]
    (note,) = data.notes
    assert not note.is_warning
    assert "shares" in note.text


def test_domains_in_folders_of_splits(tmp_path: Path, class_folder: Writer) -> None:
    for split, start in (("train", 0), ("test", 8)):
        for domain in ("photo", "sketch")[: 2 - (split == "test")]:
            class_folder(tmp_path / split / domain, count=8 - start // 2, start=start)
    data = load("domain_folder", teacher_train=False, root=str(tmp_path))
    assert data.domains == ("photo", "sketch")
    assert sizes(data) == [0, 32, 0, 8]
    assert data.truth(data.rows("test")).domains.tolist() == [0] * 8
    assert data.sample_ids(data.rows("test"))[0] == "test/photo/0/008.png"


def test_domains_called_train_and_test_are_domains(tmp_path: Path, class_folder: Writer) -> None:
    for domain in ("train", "test"):
        class_folder(tmp_path / domain, count=10)
    data = load("domain_folder", root=str(tmp_path))
    assert data.domains == ("test", "train")
    assert sizes(data) == [12, 20, 0, 8]


def test_a_split_column_is_used_as_given(table: Callable[..., dict[str, str]]) -> None:
    names = ["train"] * 6 + ["val"] + ["test"] * 3
    keys = table(split=names * 2)
    assert sizes(load(**keys, teacher_train=False)) == [0, 12, 2, 6]
    teachers, students, *others = sizes(load(**keys))
    assert (teachers + students, others) == (12, [2, 6])
    assert teachers == pytest.approx(12 * 0.375, abs=1)


def test_a_name_that_is_no_split(table: Callable[..., dict[str, str]]) -> None:
    keys = table(split=["train", "tset"] * 10)
    for splits in ("auto", "given"):
        error = error_of(load, **keys, splits=splits)
        assert error.key == ("data", "splits")
        assert error.nearest[:1] == (("test",) if splits == "auto" else error.nearest[:1])
        assert str(error).count("\n") == 0
    assert "'tset'" in error_of(load, **keys).problem
    assert sizes(load(**keys, splits={"teacher_train": 0.5, "student_train": 0.5})) == [
        10,
        10,
        0,
        0,
    ]


def test_unlabelled_rows_are_student_train(table: Callable[..., dict[str, str]]) -> None:
    keys = table(label=["0", "", "", "", "1"] * 4)
    data = load(**keys)
    assert sizes(data) == [4, 12, 2, 2]
    assert len(data.labelled(data.rows("student_train"))) == 0
    assert len(data.labelled(np.arange(len(data)))) == 8
    assert sizes(load(**keys, teacher_train=False)) == [0, 12, 3, 5]
    shares = {"teacher_train": 0.5, "student_train": 0.25, "test": 0.25}
    data = load(**keys, splits=shares)
    assert sizes(data) == [4, 14, 0, 2]
    assert len(data.labelled(data.rows("student_train"))) == 2
    assert sizes(load(**keys, splits={"test": 1}, teacher_train=False)) == [0, 12, 0, 8]


def test_unlabelled_rows_beside_splits(table: Callable[..., dict[str, str]]) -> None:
    """With images to annotate, labelled `train` is the teachers'; empty splits do not matter."""
    keys = table(label=["0", "1", "", ""] * 5, split=["train", "test", "", "train"] * 5)
    assert sizes(load(**keys)) == [5, 10, 0, 5]
    assert sizes(load(**keys, teacher_train=False)) == [0, 15, 0, 5]
    keys = table(label=["0", "1", "", ""] * 5, split=["student_train", "test", "", "test"] * 5)
    error = error_of(load, **keys, teacher_train=False)
    assert error.key == ("data", "splits")
    assert "in test has no label" in error.problem


def test_no_label_at_all(table: Callable[..., dict[str, str]]) -> None:
    keys = table(label=[""] * 20)
    data = load(**keys, teacher_train=False, classes=["a", "b"])
    assert sizes(data) == [0, 20, 0, 0]
    assert data.truth(data.rows("student_train")).labels.tolist() == [-1] * 20
    assert [note.is_warning for note in data.notes] == [True]
    error = error_of(load, **keys, classes=["a", "b"])
    assert error.key == ("data", "splits")
    assert error.problem.endswith("no label is known")
    assert "data.classes" in error_of(load, **keys).problem


def test_groups_are_kept_together_without_being_asked(
    table: Callable[..., dict[str, str]],
) -> None:
    groups = [f"p{number // 4}" for number in range(20)]
    for label in (["0", "1"] * 10, ["0", "", "", ""] * 2 + ["1", "0"] * 2 + [""] * 8):
        keys = table(group=groups, label=[*label[:-1], label[-1] or "1"])
        data = load(**keys, teacher_train=False)
        used = data.table[data.table["split"] != ""]
        assert used.groupby("group")["split"].nunique().eq(1).all()
    # An unlabelled image of a patient who is tested would be a leak: it is not used.
    unused = data.table[data.table["split"] == ""]
    assert len(unused) == 9
    assert (unused["label"] < 0).all()
    assert sum("unlabelled" in note.text for note in data.notes) == 1


def test_unlabelled_samples_that_all_have_labelled_companions(
    table: Callable[..., dict[str, str]],
) -> None:
    keys = table(group=[f"p{number // 4}" for number in range(20)], label=["0", "1", "", ""] * 5)
    error = error_of(load, **keys, teacher_train=False)
    assert error.key == ("data", "splits")
    assert "group" in error.problem
    shares = {"student_train": 0.6, "test": 0.4}
    assert sizes(load(**keys, teacher_train=False, splits=shares)) == [0, 12, 0, 4]


def test_a_limit_keeps_labels(table: Callable[..., dict[str, str]]) -> None:
    keys = table(label=["0", *[""] * 9, "1", *[""] * 9])
    data = load(**keys, limit=4, teacher_train=False, splits={"test": 1})
    assert Counter(data.table["label"]) == {0: 1, 1: 1, -1: 2}
    assert data.table["sample_id"].is_monotonic_increasing
    assert len(load(**keys, limit=3, teacher_train=False, splits={"validation": 1})) == 3


def test_teacher_train_that_nothing_reads_is_told(table: Callable[..., dict[str, str]]) -> None:
    shares = {"teacher_train": 0.5, "student_train": 0.5}
    keys = table(camera="x", split="train")
    told = [note.text for note in load(**keys, splits=shares, teacher_train=False).notes]
    assert any("teacher_train" in text for text in told)
    assert any("'camera'" in text for text in told)
    assert any("test" in text for text in told)
    assert not any("teacher_train" in note.text for note in load(**keys, splits=shares).notes)
    grouped = load(**keys, teacher_train=False, group_by="camera")
    assert not any("'camera'" in note.text for note in grouped.notes)


def test_another_process_finds_the_same_samples(table: Callable[..., dict[str, str]]) -> None:
    """As the workers of a cluster do: by the same settings, without reading images."""
    keys = table(label=["0", "", "1", ""] * 5)
    section = DataSection.model_validate(keys)
    first = load_data(section, 2, 1, None, teacher_train=False)
    again = load_data(section, 2, 1, None, first.known(), teacher_train=False)
    assert again.table.equals(first.table)
    assert again.fingerprint == first.fingerprint
    with pytest.raises(RunError, match="not those that the run was started with"):
        load_data(section, 2, 1, None, first.known())


def test_companions_of_train_samples_are_not_the_students(
    table: Callable[..., dict[str, str]],
) -> None:
    """An unlabelled sample of `train` does not go to the student if its group is the teachers'."""
    keys = table(
        split=["train"] * 18 + ["test"] * 2,
        label=["0", ""] * 4 + [""] * 8 + ["1"] * 4,
        group=[f"p{number // 2}" for number in range(20)],
    )
    data = load(**keys)
    assert sizes(data) == [6, 8, 0, 2]
    assert (data.table["split"] == "").sum() == 4
