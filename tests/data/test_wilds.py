"""Datasets of WILDS are read in the layout of the WILDS package, with its official splits."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from helpers.user_errors import error_of, key_of
from helpers.wilds_files import write_camelyon17, write_fmow, write_iwildcam

from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.shifted_sets import with_shifted
from cosup.data.sources.wilds import Wilds
from cosup.data.table import ImageData


def load(root: Path, dataset: str, *parts: str) -> ImageData:
    source = {"name": "wilds", "root": str(root), "dataset": dataset}
    shifted = {part: {"source": {**source, "part": part}} for part in parts}
    section = DataSection.model_validate(
        {"source": "wilds", "root": str(root), "dataset": dataset, "shifted": shifted}
    )
    return with_shifted(load_data(section, 0, 1, None), section, 0, 1, None)


def test_iwildcam(tmp_path: Path) -> None:
    data = load(write_iwildcam(tmp_path), "iwildcam", "val", "test")
    table = pd.read_csv(tmp_path / "metadata.csv").set_index("filename")
    parts = {
        "teacher_train": "train",
        "student_train": "train",
        "validation": "id_val",
        "test": "id_test",
    }
    own = data.table.set_index("sample_id")
    assert set(own["split"]) == set(parts)
    for name, row in own.iterrows():
        wanted = table.loc[str(name).removeprefix("train/")]
        assert parts[row["split"]] == wanted["split"]
        assert data.classes[row["label"]] == str(wanted["y"])
        assert data.domains[row["domain"]] == f"location {wanted['location_remapped']}"
    assert len(data) == (table["split"].isin(["train", "id_val", "id_test"])).sum()
    for part, location in (("val", 3), ("test", 4)):
        found = data.shifted[part]
        assert len(found) == (table["split"] == part).sum()
        assert found.domains[found.table["domain"].iloc[0]] == f"location {location}"
        assert found.classes == data.classes
        first = found.table.iloc[0]
        filename = first["sample_id"].removeprefix("train/")
        assert found.classes[first["label"]] == str(table.loc[filename, "y"])
        assert found.read(0).size == (8, 8)


def test_camelyon17_has_no_id_test_and_its_hospitals_decide(tmp_path: Path) -> None:
    data = load(write_camelyon17(tmp_path), "camelyon17", "val", "test")
    table = pd.read_csv(tmp_path / "metadata.csv", index_col=0)
    inside = ~table["center"].isin([1, 2])
    assert data.classes == ("normal", "tumor")
    assert (data.table["split"] == "test").sum() == (inside & (table["split"] == 1)).sum()
    trained = data.table["split"].isin(["teacher_train", "student_train"])
    assert trained.sum() == (inside & (table["split"] == 0)).sum()
    assert data.table["domain"].nunique() == 3
    for part, center in (("val", 1), ("test", 2)):
        found = data.shifted[part]
        assert len(found) == (table["center"] == center).sum()
        assert set(found.table["label"]) == {0, 1}
        assert {found.domains[n] for n in found.table["domain"]} == {f"hospital {center}"}
    assert not data.table.groupby("group")["split"].nunique().gt(1).any()


def test_fmow_is_split_by_years_and_leaves_sequestered_images_out(tmp_path: Path) -> None:
    data = load(write_fmow(tmp_path), "fmow", "val", "test")
    table = pd.read_csv(tmp_path / "rgb_metadata.csv")
    year = table["timestamp"].str[:4].astype(int)
    wanted = {
        "train": (table["split"] == "train") & (year < 2013),
        "validation": (table["split"] == "val") & (year < 2013),
        "test": (table["split"] == "test") & (year < 2013),
    }
    splits = data.table["split"].replace({"teacher_train": "train", "student_train": "train"})
    assert Counter(splits) == {name: there.sum() for name, there in wanted.items()}
    later = {
        "val": (table["split"] == "val") & year.between(2013, 2015),
        "test": (table["split"] == "test") & (year >= 2016),
    }
    for part, there in later.items():
        names = [f"images/rgb_img_{number}.png" for number in table.index[there]]
        assert data.shifted[part].table["sample_id"].tolist() == names
    assert set(data.domains) == {"Africa", "Europe", "Other"}
    first = data.table.iloc[0]
    row = table.iloc[int(first["sample_id"].removeprefix("images/rgb_img_").removesuffix(".png"))]
    assert data.classes[first["label"]] == row["category"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    found = error_of(Wilds(str(tmp_path), "iwildcam").peek)
    assert (key_of(found), found.value) == ("root", str(tmp_path / "metadata.csv"))
    (tmp_path / "metadata.csv").write_text("filename,y\na.jpg,0\n")
    found = error_of(Wilds(str(tmp_path), "iwildcam").load)
    assert key_of(found) == "root"
    assert "split" in str(found)
    write_camelyon17(tmp_path / "c")
    found = error_of(Wilds(str(tmp_path / "c"), "camelyon17", "id_test").load)
    assert (key_of(found), found.value) == ("part", "id_test")


@pytest.mark.parametrize("dataset", ["iwildcam", "fmow"])
def test_peek_tells_of_no_class(dataset: str, tmp_path: Path) -> None:
    write_iwildcam(tmp_path / "iwildcam")
    write_fmow(tmp_path / "fmow")
    assert Wilds(str(tmp_path / dataset), dataset).peek().classes is None  # type: ignore[arg-type]
