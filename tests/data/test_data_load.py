"""Tests of loading the sample table from a `data` section, and of its errors."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.user_errors import error_of

from cosup.data import images
from cosup.data.load import load_data
from cosup.data.section import SPLITS, DataSection
from cosup.data.table import ImageData
from cosup.errors import UserError

Writer = Callable[..., Path]
GIVEN = ("teacher_train", "student_train", "test")


def load(source: str, seed: int = 0, cache: Path | None = None, **settings: Any) -> ImageData:
    section = DataSection.model_validate({"source": source, **settings})
    return load_data(section, seed, 2, cache)


def fails(key: str, problem: str, source: str = "image_folder", **settings: Any) -> UserError:
    """Return the error of a `data` section; its key within `data` and its text must match."""
    error = error_of(load, source, **settings)
    assert error.key == ("data", *key.split(".")) if key else ("data",)
    assert re.search(problem, error.problem)
    return error


def test_digits_no_scan_in_two_splits() -> None:
    data = load(
        "digits",
        splits={"teacher_train": 0.3, "student_train": 0.4, "validation": 0.1, "test": 0.2},
    )
    rows = {split: data.rows(split) for split in SPLITS}
    assert sum(len(part) for part in rows.values()) == len(data) == 7188
    groups = data.groups(np.arange(len(data)))
    seen = [set(groups[part].tolist()) for part in rows.values()]
    assert sum(len(part) for part in seen) == len(set().union(*seen)) == 1797
    for split, share in zip(SPLITS, (0.3, 0.4, 0.1, 0.2), strict=True):
        assert abs(len(rows[split]) / 4 - share * 1797) < 5
        table = data.table.iloc[rows[split]]
        # Whole scans are dealt, so every domain of a class has the same count.
        counts = table.groupby(["label", "domain"]).size().unstack()
        assert counts.eq(counts[0], axis=0).all().all()
    truth = data.truth(rows["test"])
    assert truth.labels.tolist() == data.table["label"].iloc[rows["test"]].tolist()
    assert set(truth.domains.tolist()) == {0, 1, 2, 3}


def test_the_seed_alone_decides() -> None:
    first, again, other = (load("digits", seed=s, rotations=[0]) for s in (3, 3, 4))
    assert first.table.equals(again.table)
    assert not first.table.equals(other.table)
    assert first.fingerprint == again.fingerprint == other.fingerprint
    assert first.split_fingerprint("test") == again.split_fingerprint("test")
    assert first.split_fingerprint("test") != other.split_fingerprint("test")


def test_shares_below_one_leave_samples_unused(tmp_path: Path, class_folder: Writer) -> None:
    class_folder(tmp_path, count=20)
    data = load(
        "image_folder",
        root=str(tmp_path),
        splits={"teacher_train": 0.2, "student_train": 0.2, "test": 0.1},
    )
    assert [len(data.rows(split)) for split in SPLITS] == [8, 8, 0, 4]
    assert (data.table["split"] == "").sum() == 20
    assert data.classes == ("0", "1")
    assert data.domains == ("all",)


def test_given_splits(tmp_path: Path, class_folder: Writer) -> None:
    for number, split in enumerate(GIVEN):
        class_folder(tmp_path / split, count=2, start=2 * number)
    data = load("image_folder", root=str(tmp_path), splits="given")
    for split in GIVEN:
        names = data.sample_ids(data.rows(split))
        assert len(names) == 4
        assert all(name.startswith(f"{split}/") for name in names)


def test_given_splits_with_other_names(tmp_path: Path, class_folder: Writer) -> None:
    for split in ("train", "test"):
        class_folder(tmp_path / split, count=2)
    error = fails("splits", "split named 'train'$", root=str(tmp_path), splits="given")
    assert error.value == "given"
    assert error.allowed is not None
    assert "teacher_train" in error.allowed
    pooled = load("image_folder", root=str(tmp_path))
    assert len(pooled) == 8


def test_given_without_any(tmp_path: Path, class_folder: Writer) -> None:
    class_folder(tmp_path)
    error = fails("splits", "this source has no splits", root=str(tmp_path), splits="given")
    assert (error.value, error.allowed) == ("given", "auto, or shares")


@pytest.fixture
def listed(tmp_path: Path, class_folder: Writer) -> Path:
    """Return a folder like DomainNet's, with 16 images in the train list and 8 in the test list."""
    class_folder(tmp_path / "real", count=12)
    for part, numbers in (("train", range(8)), ("test", range(8, 12))):
        lines = [f"real/{c}/{n:03d}.png {c}" for c in (0, 1) for n in numbers]
        (tmp_path / f"real_{part}.txt").write_text("\n".join(lines))
    return tmp_path


def test_official_test_part_is_the_test_split(listed: Path) -> None:
    data = load(
        "domain_folder",
        root=str(listed),
        splits={"teacher_train": 0.2, "student_train": 0.6, "test": 0.2},
    )
    test = data.sample_ids(data.rows("test"))
    assert sorted(test) == [f"real/{c}/{n:03d}.png" for c in (0, 1) for n in range(8, 12)]
    # 0.2 : 0.6 of the 16 others.
    assert [len(data.rows(split)) for split in SPLITS] == [4, 12, 0, 8]


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [
        # The test list is divided 3 : 1, the train list is for teachers.
        ({"teacher_train": 0.2, "student_train": 0.6, "test": 0.2}, [16, 6, 0, 2]),
        (
            {"teacher_train": 0.3, "validation": 0.1, "student_train": 0.2, "test": 0.2},
            [12, 4, 4, 4],
        ),
        ("auto", [16, 6, 0, 2]),  # 0.5 : 0.2 of 8
    ],
)
def test_student_and_test_may_divide_the_official_test_part(
    listed: Path, shares: Any, sizes: list[int]
) -> None:
    data = load("domain_folder", root=str(listed), splits=shares, divide_test=True)
    assert [len(data.rows(split)) for split in SPLITS] == sizes
    of_test_list = {f"real/{c}/{n:03d}.png" for c in (0, 1) for n in range(8, 12)}
    divided = [*data.rows("student_train"), *data.rows("test")]
    assert set(data.sample_ids(np.array(divided))) == of_test_list
    # Each class has its share.
    labels = data.table["label"].iloc[data.rows("test")]
    assert labels.value_counts().tolist() == [sizes[3] // 2] * 2


def test_without_a_share_in_the_rest_the_rest_is_unused(listed: Path) -> None:
    section = DataSection.model_validate(
        {
            "source": "domain_folder",
            "root": str(listed),
            "splits": {"student_train": 0.5, "test": 0.5},
            "divide_test": True,
        }
    )
    data = load_data(section, 0, 2, None, teacher_train=False)
    assert [len(data.rows(split)) for split in SPLITS] == [0, 4, 0, 4]


def test_only_an_official_test_part_is_divided(listed: Path) -> None:
    error = fails("divide_test", "official", root=str(listed), divide_test=True)
    assert (error.value, error.allowed) == (True, "false")
    fails(
        "divide_test",
        "official",
        "domain_folder",
        root=str(listed),
        official_test=False,
        divide_test=True,
    )
    fails(
        "splits", "no splits", "domain_folder", root=str(listed), splits="given", divide_test=True
    )


def test_group_by_a_column(tmp_path: Path, class_folder: Writer) -> None:
    images = class_folder(tmp_path / "pics", count=30)
    paths = sorted(str(p.relative_to(images)) for p in images.rglob("*.png"))
    frame = pd.DataFrame(
        {
            "path": paths,
            "label": [p[0] for p in paths],
            "patient": [f"p{n // 3}" for n in range(60)],
        }
    )
    frame.to_csv(images / "t.csv", index=False)
    data = load("table", table=str(images / "t.csv"), group_by="patient")
    assert data.table.groupby("group")["split"].nunique().eq(1).all()
    assert data.table["group"].nunique() == 20
    error = fails("group_by", "column", "table", table=str(images / "t.csv"), group_by="patent")
    assert (error.value, error.nearest) == ("patent", ("patient",))
    frame["split"] = ["teacher_train", "student_train", "test"] * 20
    frame.to_csv(images / "t.csv", index=False)
    fails(
        "splits",
        r"group 'p0' is in teacher_train and student_train and test",
        "table",
        table=str(images / "t.csv"),
        group_by="patient",
        splits="given",
    )


def test_labels_may_be_missing_in_student_train_only(tmp_path: Path, class_folder: Writer) -> None:
    class_folder(tmp_path, count=6)
    paths = [f"{c}/{n:03d}.png" for n in range(6) for c in (0, 1)]
    frame = pd.DataFrame(
        {
            "path": paths,
            "label": [p[0] for p in paths],
            "split": [s for s in GIVEN for _ in range(4)],
        }
    )
    frame.loc[4:7, "label"] = ""
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = str(tmp_path / "t.csv")
    data = load("table", table=table, splits="given")
    assert data.truth(data.rows("student_train")).labels.tolist() == [-1] * 4
    frame.loc[9, "label"] = ""
    frame.to_csv(table, index=False)
    fails(
        "splits", r"sample '1/004\.png' in test has no label", "table", table=table, splits="given"
    )


def test_broken_images_are_set_aside(
    tmp_path: Path, class_folder: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    class_folder(tmp_path, count=60)
    (tmp_path / "1" / "007.png").write_text("no picture")
    with caplog.at_level(logging.WARNING):
        data = load("image_folder", root=str(tmp_path))
    assert data.broken == ("1/007.png",)
    assert len(data) == 119
    assert "1/007.png" not in data.table["sample_id"].tolist()
    assert "set aside 1 of 120 images" in caplog.text
    assert "007.png': not an image" in caplog.text
    # The rows still show their own images.
    row = data.table.index[data.table["sample_id"] == "1/008.png"][0]
    assert data.images.where(int(data.table["image"][row])).endswith("1/008.png")
    assert len(load("image_folder", root=str(tmp_path), check="none")) == 120


@pytest.mark.parametrize("name", ["\x1b[31m.png", "a\nb.png", "\udcff.png"])
def test_files_of_unprintable_names_are_set_aside(
    name: str, tmp_path: Path, class_folder: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    class_folder(tmp_path, count=60)
    (tmp_path / "1" / "007.png").rename(tmp_path / "1" / name)
    escaped = f"1/{name}".encode("unicode_escape").decode()
    for check in ("full", "none"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = load("image_folder", root=str(tmp_path), check=check)
        assert data.broken == (escaped,)
        assert len(data) == 119
        assert "set aside 1 of 120 images" in caplog.text
        assert f"{escaped}': not a printable name" in caplog.text
        assert all(one.isprintable() for one in data.table["sample_id"])
    section = DataSection.model_validate(
        {"source": "images", "root": str(tmp_path), "classes": ["a", "b"]}
    )
    unlabelled = load_data(section, 0, 2, None, teacher_train=False)
    assert unlabelled.broken == (escaped,)
    fails("root", "printable", root=str(_with_folder(tmp_path, name)))


def _with_folder(root: Path, name: str) -> Path:
    """Give a folder a folder of a class with this name."""
    (root / "0").rename(root / name)
    return root


def test_too_many_broken_images_end_it(tmp_path: Path, class_folder: Writer) -> None:
    class_folder(tmp_path, count=60)
    for n in range(2):
        (tmp_path / "0" / f"{n:03d}.png").write_bytes(b"")
    error = fails(
        "max_broken",
        r"2 of 120 images .* 1 are allowed; the first: '.*0/000\.png': not an image",
        root=str(tmp_path),
    )
    assert error.value == 0.01
    assert len(load("image_folder", root=str(tmp_path), max_broken=0.1).broken) == 2


def test_files_that_a_table_names_but_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na.png,x\nb.png,y\n")
    fails(
        "max_broken",
        r"2 of 2 images .*'.*a\.png': no such file",
        "table",
        table=str(tmp_path / "t.csv"),
    )


def test_checked_once_for_the_same_files(
    tmp_path: Path,
    class_folder: Writer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = class_folder(tmp_path / "pics", count=60)
    (root / "1" / "007.png").write_text("no picture")
    first = load("image_folder", root=str(root), cache=tmp_path / "cache")

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(images, "read_image", never)
        again = load("image_folder", root=str(root), cache=tmp_path / "cache", seed=5)
    assert again.broken == first.broken == ("1/007.png",)
    (result,) = (tmp_path / "cache" / "checks").glob("*.json")
    result.write_text(result.read_text().replace("7", "8"))
    damaged = load("image_folder", root=str(root), cache=tmp_path / "cache")
    assert damaged.broken == first.broken
    assert str(result) in caplog.text
    (root / "0" / "000.png").write_text("broken later")
    changed = load("image_folder", root=str(root), cache=tmp_path / "cache", max_broken=0.1)
    assert changed.broken == ("0/000.png", "1/007.png")


def test_a_limit_is_stratified_and_keeps_groups() -> None:
    data = load("digits", limit=400)
    assert 380 <= len(data) <= 400
    assert data.table.groupby("group").size().eq(4).all()
    assert data.table["label"].value_counts().between(32, 48).all()
    assert len(load("digits", rotations=[0], limit=101)) == 101


def test_one_class(tmp_path: Path, class_folder: Writer) -> None:
    class_folder(tmp_path, classes=(4,))
    fails("", r"only one class \('4'\); at least 2 are needed", root=str(tmp_path))


def test_a_class_in_one_split_only(tmp_path: Path, class_folder: Writer) -> None:
    for number, split in enumerate(GIVEN):
        class_folder(tmp_path / split, classes=(0, 1), count=2, start=2 * number)
    class_folder(tmp_path / "test", classes=(7,), count=3)
    data = load("image_folder", root=str(tmp_path), splits="given")
    assert [data.lacking_classes(split) for split in GIVEN] == [[2], [2], []]
    (note,) = data.notes
    assert note.is_warning
    assert "student_train" in note.text
    assert "'7'" in note.text


def test_a_class_too_small_to_be_split(tmp_path: Path, class_folder: Writer) -> None:
    class_folder(tmp_path, classes=(0, 1))
    class_folder(tmp_path, classes=(2,), count=1)
    data = load("image_folder", root=str(tmp_path))
    assert sum(data.lacking_classes(split) == [2] for split in GIVEN) == 2
    assert all("'2'" in note.text and note.is_warning for note in data.notes)


def test_a_split_with_no_sample(tmp_path: Path, class_folder: Writer) -> None:
    for split in ("teacher_train", "test"):
        class_folder(tmp_path / split, count=2)
    fails(
        "splits",
        r"no sample in student_train \(found: teacher_train 4, student_train 0",
        root=str(tmp_path),
        splits="given",
    )


def test_unknown_split_and_source() -> None:
    data = load("digits", rotations=[0], limit=100)
    error = error_of(data.rows, "tests")
    assert (error.value, error.nearest) == ("tests", ("test",))
    with pytest.raises(ValueError, match=r"unknown source 'digit'; did you mean 'digits'"):
        DataSection.model_validate({"source": "digit"})


def test_the_section_dumps_to_what_it_was_read_from() -> None:
    section = DataSection.model_validate({"source": "digits", "rotations": [0, 45]})
    assert DataSection.model_validate(section.model_dump()) == section
