"""Tests of images without labels: `data.unlabelled` beside labelled ones, and the source `images`.

On real scans (scikit-learn's digits) written to disk.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.user_errors import error_of

from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.table import ImageData

Writer = Callable[..., Path]


def load(source: str, **settings: Any) -> ImageData:
    section = DataSection.model_validate({"source": source, **settings})
    return load_data(section, 0, 1, None, teacher_train=False)


def unlabelled_ids(data: ImageData) -> list[str]:
    return sorted(data.table.loc[data.table["label"] < 0, "sample_id"])


@pytest.fixture
def world(tmp_path: Path, class_folder: Writer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two classes, `own`, and three images in no class, in `more` and below it."""
    monkeypatch.chdir(tmp_path)
    class_folder(tmp_path / "own", count=10)
    class_folder(tmp_path / "more" / "deep", classes=(1,), count=2, start=20)
    (tmp_path / "more" / "deep" / "1" / "020.png").rename(tmp_path / "more" / "a.png")
    return tmp_path


def pixels_of(data: ImageData, name: str) -> bytes:
    """Return the pixels of a sample, by its id."""
    row = int(data.table.index[data.table["sample_id"] == name][0])
    return data.read(row).tobytes()


@pytest.mark.parametrize("inside", [False, True])
def test_beside_a_folder_per_class(world: Path, inside: bool) -> None:
    folder = "more"
    if inside:
        (world / "more").rename(world / "own" / "more")
        folder = "own/more"
    data = load("image_folder", root="own", unlabelled=folder)
    assert data.classes == ("0", "1")
    assert unlabelled_ids(data) == ["more/a.png", "more/deep/1/021.png"]
    assert len(data) == 22
    assert data.sample_ids(data.rows("student_train")) == ["more/a.png", "more/deep/1/021.png"]
    assert pixels_of(data, "0/003.png") == pixels_of(
        load("image_folder", root="own/../own", unlabelled=folder), "0/003.png"
    )
    assert data.images.where(int(data.table["image"].iloc[-1])).endswith("021.png")
    assert data.read(len(data) - 1).size == (8, 8)


def test_beside_folders_of_splits(world: Path, class_folder: Writer) -> None:
    for split, start in (("train", 0), ("test", 4)):
        class_folder(world / "set" / split, count=4, start=start)
    os.rename("more", "set/more")
    data = load("image_folder", root="set", unlabelled="set/more")
    # Without a teacher to train, labelled `train` images and the others are the student's.
    assert [len(data.rows(s)) for s in ("teacher_train", "student_train", "test")] == [0, 10, 8]


def test_domains_have_folders(tmp_path: Path, class_folder: Writer) -> None:
    for domain in ("photo", "sketch"):
        class_folder(tmp_path / "own" / domain, count=10)
        class_folder(tmp_path / "more" / domain, classes=(1,), count=2, start=20)
    keys = {"root": str(tmp_path / "own"), "unlabelled": str(tmp_path / "more")}
    data = load("domain_folder", **keys)
    rows = data.rows("student_train")
    assert data.sample_ids(rows) == [
        f"more/{domain}/1/{n:03d}.png" for domain in ("photo", "sketch") for n in (20, 21)
    ]
    assert data.truth(rows).domains.tolist() == [0, 0, 1, 1]
    one = load("domain_folder", **keys, domains=["sketch"])
    assert one.sample_ids(one.rows("student_train")) == [
        "more/sketch/1/020.png",
        "more/sketch/1/021.png",
    ]
    (tmp_path / "more" / "sketch").rename(tmp_path / "more" / "skech")
    error = error_of(load, "domain_folder", **keys)
    assert (error.key, error.value, error.nearest) == (
        ("data", "unlabelled"),
        "skech",
        ("sketch",),
    )


def test_a_table_of_some_images_of_a_folder(world: Path) -> None:
    """The folder of unlabelled images may be that of the labelled ones: no image is there twice."""
    names = [f"{c}/{n:03d}.png" for c in (0, 1) for n in range(4)]
    frame = pd.DataFrame({"path": names, "label": [name[0] for name in names], "camera": "x"})
    frame.to_csv("own/t.csv", index=False)
    data = load("table", table="own/t.csv", unlabelled="own", group_by="camera")
    assert len(data) == 20
    others = [f"{c}/{n:03d}.png" for c in (0, 1) for n in range(4, 10)]
    assert unlabelled_ids(data) == others
    assert data.table["group"].nunique() == 1 + len(others)
    more = load("table", table="own/t.csv", unlabelled="more")
    assert unlabelled_ids(more) == ["more/a.png", "more/deep/1/021.png"]


def test_mistakes_about_the_folder(world: Path, class_folder: Writer) -> None:
    def error(folder: str) -> Any:
        found = error_of(load, "image_folder", root="own", unlabelled=folder)
        assert found.key == ("data", "unlabelled")
        return found

    assert error("nowhere").problem.startswith("no folder")
    (world / "empty").mkdir()
    assert "no image" in error("empty").problem
    assert "every image" in error("own").problem
    class_folder(world / "other" / "own", classes=(0,), count=1)
    (world / "own" / "own").mkdir()
    (world / "own" / "0" / "000.png").rename(world / "own" / "own" / "x.png")
    (world / "other" / "own" / "0" / "000.png").rename(world / "other" / "own" / "x.png")
    clash = error_of(load, "image_folder", root="own", unlabelled="other/own")
    assert clash.key == ("data", "unlabelled")
    assert "'own/x.png'" in clash.problem


def test_loose_images_and_a_table_of_some_labels(world: Path) -> None:
    rows = ["path,label,split", "./0/000.png,zero,test", "0/001.png,zero,", "1/000.png,one,test"]
    (world / "labels.csv").write_text("\n".join([*rows, "1/001.png,,"]))
    data = load("images", root="own", labels="labels.csv", classes=["zero", "one", "two"])
    assert data.classes == ("zero", "one", "two")
    assert len(data) == 20
    assert data.sample_ids(data.rows("test")) == ["0/000.png", "1/000.png"]
    assert data.truth(data.rows("test")).labels.tolist() == [0, 1]
    assert len(data.rows("student_train")) == 17
    # The row without a split, whose label nobody asks for.
    assert data.table.loc[data.table["split"] == "", "sample_id"].tolist() == ["0/001.png"]
    assert load("images", root="own", labels="labels.csv").classes == ("one", "zero")


def test_loose_images_without_labels(world: Path) -> None:
    data = load("images", root="more", classes=[0, 1])
    assert data.classes == ("0", "1")
    assert unlabelled_ids(data) == data.sample_ids(data.rows("student_train"))
    assert unlabelled_ids(data) == ["a.png", "deep/1/021.png"]
    both = load("images", root="own", unlabelled="more", classes=["a", "b"])
    assert len(both) == 22
    error = error_of(load, "images", root="own")
    assert error.key == ("data", "classes")
    assert "data.labels" in error.problem
    error = error_of(load, "images", root="own", classes=["a", "b", "a"])
    assert error.key == ("data", "classes")


def test_loose_images_in_folders_of_splits(world: Path, class_folder: Writer) -> None:
    for split, start in (("train", 0), ("test", 4)):
        class_folder(world / "set" / split, count=4, start=start)
    names = [f"test/{c}/{n:03d}.png,{c}" for c in (0, 1) for n in range(4, 8)]
    (world / "labels.csv").write_text("\n".join(["sample_id,label", *names]))
    data = load("images", root="set", labels="labels.csv")
    assert [len(data.rows(split)) for split in ("student_train", "test")] == [8, 8]


def test_columns_of_the_table_of_labels(world: Path) -> None:
    names = [f"{c}/{n:03d}.png" for c in (0, 1) for n in range(10)]
    frame = pd.DataFrame({"path": names, "label": ["0", ""] * 10, "domain": ["x", "y"] * 10})
    frame["group"] = ["g", "h", *[""] * 18]
    frame.assign(camera="k").to_parquet("labels.parquet")
    data = load("images", root="own", labels="labels.parquet", classes=["0", "1"])
    assert data.domains == ("x", "y")
    assert data.table["group"].tolist()[:3] == ["g", "h", "(0/002.png)"]
    assert any("'camera'" in note.text for note in data.notes)
    frame[:5].to_parquet("labels.parquet")
    error = error_of(load, "images", root="own", labels="labels.parquet", classes=["0", "1"])
    assert error.key == ("data", "labels")
    assert "'0/005.png'" in error.problem


@pytest.mark.parametrize(
    ("rows", "key", "parts", "nearest"),
    [
        (["own/0/000.png,0", "own/1/000.png,1"], "labels", ["2 of 2", "'own/0/000.png'"], "0/000"),
        (["0/000.png,0", "0/00.png,1"], "labels", ["1 of 2", "'0/00.png'", "'0/000.png'"], "0/0"),
        (["0/000.png,zero", "0/001.png,zer"], "labels", ["row 2"], "zero"),
        (["0/000.png,zero", "0/000.png,one"], "labels", ["rows 1 and 2"], ""),
        (["0/000.png,zero", "./0/000.png,one"], "labels", ["rows 1 and 2"], ""),
    ],
)
def test_mistakes_in_the_table_of_labels(
    world: Path, rows: list[str], key: str, parts: list[str], nearest: str
) -> None:
    (world / "labels.csv").write_text("\n".join(["sample_id,label", *rows]))
    classes = ["0", "1", "zero", "one"]
    error = error_of(load, "images", root="own", labels="labels.csv", classes=classes)
    assert error.key == ("data", key)
    assert all(part in str(error) for part in parts)
    assert nearest in "".join(error.nearest)
    assert "\n" not in str(error)


def test_the_table_of_labels_is_read_as_any_other(world: Path) -> None:
    for text, part in (("name,label\nx,0\n", "sample_id"), ("path,kind\nx,0\n", "'label'")):
        (world / "labels.csv").write_text(text)
        error = error_of(load, "images", root="own", labels="labels.csv")
        assert (error.key, error.value) == (("data", "labels"), "labels.csv")
        assert part in error.problem
    error = error_of(load, "images", root="own", labels="no.csv")
    assert (error.key, error.value) == (("data", "labels"), "no.csv")
