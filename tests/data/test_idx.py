"""Tests of the idx source: parts, rotations and broken files."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.idx_files import write_idx
from helpers.user_errors import error_of
from PIL import Image

from cosup.config import check_config
from cosup.data.load import load_data
from cosup.data.section import SPLITS, DataSection
from cosup.data.sources import SOURCES, Collection
from cosup.data.sources.idx import read_idx
from cosup.data.table import ImageData
from cosup.errors import UserError

Digit = Callable[[int, int], Image.Image]
FASHION = Path("/usr/share/datasets/fashion-mnist")
THIRDS = {"teacher_train": 0.34, "student_train": 0.33, "test": 0.33}


def load(root: Path, **settings: Any) -> Collection:
    section = DataSection.model_validate({"source": "idx", "root": str(root), **settings})
    return SOURCES.build(section.source).load()


def data_of(root: Path, **settings: Any) -> ImageData:
    section = DataSection.model_validate({"source": "idx", "root": str(root), **settings})
    return load_data(section, 0, 1, None)


def pixels(found: Collection | ImageData, index: int) -> np.ndarray:
    return np.asarray(found.images.read(index))[..., 0]


def test_idx(idx_folder: Path, digit: Digit) -> None:
    found = load(idx_folder, classes=["zero", "one", "two"])
    assert found.official_test
    assert not found.grouped
    assert found.domains == ("all",)
    assert found.table["split"].value_counts().to_dict() == {"": 18, "test": 6}
    assert found.table["sample_id"].iloc[18] == "test/00000"
    assert found.table["label"].tolist() == [0, 1, 2] * 8
    np.testing.assert_array_equal(np.asarray(found.images.read(4)), digit(1, 1).convert("RGB"))


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian() -> None:
    found = load(FASHION)
    assert len(found.table) == 70_000
    assert found.table.groupby(["split", "label"]).size().unique().tolist() == [6000, 1000]


def test_one_part_alone_has_no_official_test(idx_folder: Path, digit: Digit) -> None:
    whole = load(idx_folder)
    for part, rows in (("train", slice(0, 18)), ("test", slice(18, 24))):
        found = load(idx_folder, part=part)
        assert found.table["sample_id"].tolist() == whole.table["sample_id"].tolist()[rows]
        assert found.table["label"].tolist() == [0, 1, 2] * (len(found.table) // 3)
        assert not found.official_test
        assert (found.table["split"] == "").all()
    # The last part read is the test part: its first image is of scan 6.
    np.testing.assert_array_equal(pixels(found, 0), np.asarray(digit(0, 6)))
    data = data_of(
        idx_folder, part="train", splits={"teacher_train": 0.5, "student_train": 0.17, "test": 0.33}
    )
    assert [len(data.rows(split)) for split in SPLITS] == [9, 3, 0, 6]


def test_other_parts_are_not_read(idx_folder: Path) -> None:
    for file in idx_folder.glob("train-*"):
        file.write_bytes(b"neither gzip nor anything else")
    assert len(load(idx_folder, part="test").table) == 6
    for file in idx_folder.glob("train-*"):
        file.unlink()
    assert len(load(idx_folder, part="test").table) == len(load(idx_folder).table) == 6
    error = error_of(load, idx_folder, part="train")
    assert (error.key, error.value) == (("part",), "train")
    assert f"'{idx_folder}' has no train-images-idx3-ubyte" in error.problem
    error = error_of(load, idx_folder / "nowhere", part="test")
    assert (error.key, error.value) == (("root",), str(idx_folder / "nowhere"))


def test_every_image_in_every_rotation(idx_folder: Path) -> None:
    plain, found = load(idx_folder), load(idx_folder, rotations=[0, 30, 90, 180, -90])
    table = found.table
    assert found.domains == ("rot0", "rot30", "rot90", "rot180", "rot-90")
    assert found.grouped
    assert found.official_test
    assert table["domain"].tolist() == [domain for domain in range(5) for _ in range(24)]
    assert table["image"].tolist() == list(range(5 * 24))
    assert table["sample_id"].iloc[[0, 24, 119]].tolist() == [
        "train/00000@0",
        "train/00000@30",
        "test/00005@-90",
    ]
    for column in ("label", "split"):
        assert table[column].tolist() == plain.table[column].tolist() * 5
    assert table["group"].tolist() == plain.table["sample_id"].tolist() * 5
    for number in range(24):
        upright = pixels(plain, number)
        bicubic = Image.fromarray(upright).rotate(30, Image.Resampling.BICUBIC)
        # Counter-clockwise: what was the right edge, read downwards, is the top row.
        quarter = upright.T[::-1]
        expected = [upright, np.asarray(bicubic), quarter, upright[::-1, ::-1], upright.T[:, ::-1]]
        for domain, image in enumerate(expected):
            np.testing.assert_array_equal(pixels(found, domain * 24 + number), image)


def test_rotations_are_of_the_images_that_are_there_now(idx_folder: Path) -> None:
    """Rotated images of a listing are kept for the next one, if it has the same images."""
    settings = {"part": "test", "rotations": [30, 60]}
    first, again = (load(idx_folder, **settings) for _ in range(2))
    (file,) = idx_folder.glob("t10k-images*")
    write_idx(file, read_idx(file, 3)[:, ::-1])
    other = load(idx_folder, **settings)
    for number in range(len(first.table)):
        np.testing.assert_array_equal(pixels(first, number), pixels(again, number))
        turned = Image.fromarray(pixels(load(idx_folder, part="test"), number % 6))
        expected = turned.rotate(30 if number < 6 else 60, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels(other, number), np.asarray(expected))
        assert (pixels(first, number) != pixels(other, number)).any()


def test_a_single_rotation_is_a_domain_too(idx_folder: Path) -> None:
    found = load(idx_folder, part="test", rotations=[90])
    assert found.domains == ("rot90",)
    assert found.table["sample_id"].iloc[0] == "test/00000@90"
    assert not found.official_test


@pytest.mark.parametrize("settings", [{}, {"part": "train"}, {"official_test": False}])
def test_no_image_is_in_two_splits(idx_folder: Path, settings: dict[str, Any]) -> None:
    data = data_of(idx_folder, rotations=[0, 45, 90, 135], splits=THIRDS, **settings)
    table = data.table.assign(base=data.table["sample_id"].str.partition("@")[0])
    images = table.groupby("base")
    assert images.size().eq(4).all()
    assert images["split"].nunique().eq(1).all()
    assert images["domain"].nunique().eq(4).all()
    if not settings:  # the official test part is the test split, in all rotations
        assert (table["split"] == "test").equals(table["sample_id"].str.startswith("test/"))
    # A class of a domain is divided by the shares, within one sample.
    counts = table.groupby(["split", "label", "domain"]).size().unstack([1, 2])
    assert counts.shape == (3, 12)
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


def test_a_limit_keeps_the_rotations_of_an_image_together(idx_folder: Path) -> None:
    settings = {"part": "train", "rotations": [0, 10, 20], "splits": THIRDS}
    data = data_of(idx_folder, limit=47, **settings)
    images = data.table.groupby("group")
    assert len(images) == 15
    assert images.size().eq(3).all()
    assert data.table.groupby("label").size().between(12, 18).all()
    # Rows still show their own images.
    row = data.sample_ids(np.arange(45)).index(f"{data.table['group'].iloc[0]}@20")
    number = int(data.table["group"].iloc[0].removeprefix("train/"))
    upright = Image.fromarray(pixels(load(idx_folder), number))
    turned = upright.rotate(20, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(data.read(row))[..., 0], np.asarray(turned))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"part": "tset"}, "part: 'tset': must be one of both, train, test; did you mean 'test'?"),
        ({"part": None}, "part: null: must be one of both, train, test"),
        (
            {"rotations": []},
            "rotations: []: must be 1 to 360 angles in degrees, from -360 to 360",
        ),
        ({"rotations": [30, -330]}, "rotations: [30.0, -330.0]: two angles are the same"),
        # Different, but both would be called rot30.
        (
            {"rotations": [30, 30.00000001]},
            "rotations: [30.0, 30.00000001]: two angles are the same",
        ),
        (
            {"rotations": [0, float("nan")]},
            "rotations.1: nan: must be a number, and finite in float32",
        ),
        ({"rotations": 90}, "rotations: 90: must be a list (each item: a number) or null"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], line: str) -> None:
    student = {"backbone": {"name": "resnet18", "weights": None}}
    tree = {"data": {"source": "idx", "root": "x", **settings}, "student": student}
    with pytest.raises(UserError) as caught:
        check_config(tree, "c.yaml")
    assert str(caught.value) == f"c.yaml: data.{line}"


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_rotated_fashion_mnist() -> None:
    data = data_of(FASHION, part="test", rotations=[0, 90], limit=2000)
    assert data.domains == ("rot0", "rot90")
    assert [len(data.rows(split)) for split in SPLITS] == [600, 1000, 0, 400]
    assert data.table.groupby(["label", "domain"]).size().eq(100).all()
    assert data.read(0).size == (28, 28)


def test_bad_idx_files(idx_folder: Path) -> None:
    labels = idx_folder / "train-labels-idx1-ubyte.gz"
    images = idx_folder / "train-images-idx3-ubyte.gz"
    good = labels.read_bytes()

    def fails(value: Path, problem: str) -> None:
        error = error_of(load, idx_folder)
        assert (error.key, error.value) == (("root",), str(value))
        assert problem in error.problem

    error = error_of(load, idx_folder, classes=["a", "b"])
    assert (error.key, error.value) == (("classes",), ["a", "b"])
    assert "has label 2" in error.problem
    labels.write_bytes(b"not gzip")
    fails(labels, "cannot be read")
    labels.write_bytes(images.read_bytes())
    fails(labels, "not an idx file")
    labels.write_bytes(gzip.compress(gzip.decompress(good)[:-1]))
    fails(labels, "should have (18,) bytes, but has 17")
    write_idx(labels, np.zeros(3, np.uint8))
    fails(images, "18 images, but 3 labels")
    labels.unlink()
    fails(images, "no file of labels")
    error = error_of(load, idx_folder / "nowhere")
    assert (error.key, error.value) == (("root",), str(idx_folder / "nowhere"))


def test_read_idx_needs_no_gzip(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "plain", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "plain", 3), array)
