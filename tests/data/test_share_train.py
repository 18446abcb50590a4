"""Tests of data.share_train: teachers and student train on the same samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.user_errors import error_of, section_error_of

from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.table import ImageData

Writer = Callable[..., Path]


def load(**settings: Any) -> ImageData:
    section = DataSection.model_validate({"share_train": True, **settings})
    return load_data(section, 0, 1, None)


def test_both_train_on_the_same_samples() -> None:
    splits = {"student_train": 0.8, "test": 0.2}
    data = load(source="digits", rotations=[0], splits=splits)
    assert data.rows("teacher_train").tolist() == data.rows("student_train").tolist()
    assert len(data.rows("teacher_train")) + len(data.rows("test")) == 1797
    fingerprints = {data.split_fingerprint(s) for s in ("teacher_train", "student_train", "test")}
    assert len(fingerprints) == 2
    assert data.table["split"].isin(["student_train", "test"]).all()


@pytest.mark.parametrize(
    ("settings", "split", "share", "setting"),
    [
        (
            {"splits": {"teacher_train": 0.1, "student_train": 0.5, "test": 0.2}},
            "teacher_train",
            0.1,
            "share_train",
        ),
        (
            {"splits": {"student_train": 0.5, "test": 0.1}, "few_shot": {"novel": 5}},
            "test",
            0.1,
            "few_shot",
        ),
    ],
)
def test_shares_that_do_not_fit(
    settings: dict[str, Any], split: str, share: float, setting: str
) -> None:
    error = section_error_of(load, source="digits", **settings)
    assert (error.key, error.value) == (("splits", split), share)
    assert error.problem.startswith("must be 0")
    assert error.problem.endswith(f"data.{setting}")


def test_given_splits(tmp_path: Path, class_folder: Writer) -> None:
    for number, split in enumerate(("student_train", "test")):
        class_folder(tmp_path / split, count=2, start=2 * number)
    data = load(source="image_folder", root=str(tmp_path), splits="given")
    assert len(data.rows("teacher_train")) == len(data.rows("student_train")) == 4
    class_folder(tmp_path / "teacher_train", count=2, start=6)
    error = error_of(load, source="image_folder", root=str(tmp_path), splits="given")
    assert error.key == ("data", "share_train")
    assert "4 samples are in teacher_train" in error.problem


def test_every_label_must_be_known(tmp_path: Path, class_folder: Writer) -> None:
    class_folder(tmp_path, count=4)
    paths = [f"{c}/{n:03d}.png" for n in range(4) for c in (0, 1)]
    splits = ["student_train"] * 4 + ["test"] * 4
    frame = pd.DataFrame({"path": paths, "label": [p[0] for p in paths], "split": splits})
    frame.loc[0, "label"] = ""
    frame.to_csv(tmp_path / "t.csv", index=False)
    error = error_of(load, source="table", table=str(tmp_path / "t.csv"), splits="given")
    assert error.key == ("data", "splits")
    assert "'0/000.png' in student_train has no label" in error.problem
