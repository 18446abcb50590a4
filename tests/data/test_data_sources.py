"""Tests of the sources on small copies of the published layouts."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.user_errors import error_of
from PIL import Image
from sklearn.datasets import load_digits

from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.sources import SOURCES, Collection

Digit = Callable[[int, int], Image.Image]
Writer = Callable[..., Path]


def load(source: str, **settings: Any) -> Collection:
    section = DataSection.model_validate({"source": source, **settings})
    return SOURCES.build(section.source).load()


def peek(source: str, **settings: Any) -> None:
    """Check what `cosup validate` checks."""
    SOURCES.build(DataSection.model_validate({"source": source, **settings}).source).peek()


def inaturalist_of(root: Path) -> Path:
    """Write lists like those of 2018 for all images below root; each class's last is in val."""
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    categories = [{"id": 10 * c, "name": f"Species {c}"} for c in range(3)]
    for part in ("train", "val"):
        own = [(n, p) for n, p in enumerate(paths) if (n % 10 == 9) == (part == "val")]
        tree = {
            "images": [{"id": 500 + n, "file_name": path} for n, path in own],
            "annotations": [
                {"id": n, "image_id": 500 + n, "category_id": 10 * int(path[0])}
                for n, path in reversed(own)
            ],
            "categories": categories,
        }
        (root / f"{part}2018.json").write_text(json.dumps(tree))
    return root


def mini_imagenet_of(root: Path, class_folder: Writer) -> Path:
    """Write the layout of folders: six digits in three parts."""
    for part, classes in (("train", (3, 1)), ("val", (0, 5)), ("test", (2, 4))):
        class_folder(root / part, classes=classes, count=3)
    return root


def test_digits_are_rotated_scans() -> None:
    found = load("digits")
    assert len(found.table) == 4 * 1797
    assert found.domains == ("rot0", "rot30", "rot60", "rot90")
    assert found.table["sample_id"].iloc[1797 + 42] == "0042@30"
    assert found.table.groupby("group").size().eq(4).all()
    scans, labels = load_digits(return_X_y=True)
    assert (found.table["label"].to_numpy().reshape(4, -1) == labels).all()
    upright, quarter = (np.asarray(found.images.read(n * 1797))[..., 0] for n in (0, 3))
    np.testing.assert_array_equal(np.rot90(upright), quarter)
    # Shrunk again, the upright image is the scan.
    small = np.asarray(Image.fromarray(upright).resize((8, 8), Image.Resampling.BOX), np.float64)
    assert np.corrcoef(small.ravel(), scans[0])[0, 1] > 0.98
    turned = Image.fromarray(upright).rotate(30, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(found.images.read(1797))[..., 0], np.asarray(turned))


def test_classes_named_by_numbers_are_in_numeric_order(tmp_path: Path, digit: Digit) -> None:
    for name in ("10", "9", "2"):
        (tmp_path / name).mkdir()
        digit(0, 0).save(tmp_path / name / "a.png")
    assert load("image_folder", root=str(tmp_path)).classes == ("2", "9", "10")


def test_folders_of_splits(tmp_path: Path, class_folder: Writer) -> None:
    for part in ("train", "val"):
        class_folder(tmp_path / part, count=2)
    found = load("image_folder", root=str(tmp_path))
    assert found.classes == ("0", "1")
    assert found.table["split"].value_counts().to_dict() == {"train": 4, "val": 4}
    assert found.table["sample_id"].iloc[0] == "train/0/000.png"


def test_a_class_called_train_is_a_class(tmp_path: Path, digit: Digit) -> None:
    for name in ("train", "valid"):
        (tmp_path / name).mkdir()
        digit(0, 0).save(tmp_path / name / "a.png")
    assert load("image_folder", root=str(tmp_path)).classes == ("train", "valid")


def test_other_files_nested_folders_and_loops(tmp_path: Path, class_folder: Writer) -> None:
    class_folder(tmp_path, count=2)
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "0" / "Thumbs.db").write_text("x")
    (tmp_path / "0" / ".hidden.png").write_text("x")
    (tmp_path / "1" / "more").mkdir()
    (tmp_path / "1" / "000.png").rename(tmp_path / "1" / "more" / "000.PNG")
    (tmp_path / "1" / "loop").symlink_to(tmp_path / "1")
    found = load("image_folder", root=str(tmp_path))
    assert found.table["sample_id"].tolist() == [
        "0/000.png",
        "0/001.png",
        "1/001.png",
        "1/more/000.PNG",
    ]


def test_domainbed(tmp_path: Path, class_folder: Writer) -> None:
    class_folder(tmp_path / "sketch", classes=(0, 1), count=2)
    class_folder(tmp_path / "photo", classes=(1, 2), count=3)
    found = load("domain_folder", root=str(tmp_path))
    assert found.domains == ("photo", "sketch")
    assert found.classes == ("0", "1", "2")
    assert found.table["domain"].tolist() == [0] * 6 + [1] * 4
    assert not found.official_test
    one = load("domain_folder", root=str(tmp_path), domains=["sketch"])
    assert one.domains == ("sketch",)
    assert len(one.table) == 4
    error = error_of(load, "domain_folder", root=str(tmp_path), domains=["skech"])
    assert (error.key, error.value, error.nearest) == (("domains",), "skech", ("sketch",))


@pytest.fixture
def domainnet(tmp_path: Path, class_folder: Writer) -> Path:
    """Two domains with lists whose numbers are not in alphabetical order; one image is unlisted."""
    for domain in ("clipart", "real"):
        class_folder(tmp_path / domain, classes=(3, 5), count=5)
        for part, numbers in (("train", range(3)), ("test", [3])):
            lines = [
                f"{domain}/{c}/{n:03d}.png {number}"
                for number, c in enumerate((5, 3))
                for n in numbers
            ]
            (tmp_path / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_domainnet_lists(domainnet: Path) -> None:
    found = load("domain_folder", root=str(domainnet))
    assert found.official_test
    assert found.classes == ("5", "3")
    assert found.domains == ("clipart", "real")
    assert len(found.table) == 2 * 2 * 4
    assert (found.table["split"] == "test").sum() == 4
    assert (
        found.table.loc[found.table["split"] == "test", "sample_id"].str[-7:] == "003.png"
    ).all()
    assert not load("domain_folder", root=str(domainnet), official_test=False).official_test


def test_domainnet_lists_that_disagree(domainnet: Path) -> None:
    (domainnet / "real_test.txt").write_text("real/3/000.png 0\n")
    error = error_of(load, "domain_folder", root=str(domainnet))
    assert (error.key, error.value) == (("root",), "3")
    assert "real_test.txt' line 1: class" in error.problem
    assert "number 0" in error.problem
    (domainnet / "real_test.txt").write_text("real/3/000.png\n")
    error = error_of(load, "domain_folder", root=str(domainnet))
    assert (error.key, error.value) == (("root",), "real/3/000.png")
    assert "real_test.txt' line 1: " in error.problem
    (domainnet / "real_test.txt").write_text("")
    error = error_of(load, "domain_folder", root=str(domainnet))
    assert (error.key, error.value) == (("root",), str(domainnet / "real_test.txt"))


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_tables(tmp_path: Path, class_folder: Writer, ending: str) -> None:
    class_folder(tmp_path / "pics", count=2)
    frame = pd.DataFrame(
        {
            "path": ["0/000.png", "0/001.png", "1/000.png", "1/001.png"],
            "label": ["NA", "007", "NA", None],
            "domain": ["x", "y", "x", "y"],
            "split": ["test", "teacher_train", "", "student_train"],
            "group": ["g", "g", None, None],
            "camera": [1, 2, 2, 1],
        }
    )
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    found = load("table", table=str(path), root=str(tmp_path / "pics"))
    assert found.classes == ("007", "NA")
    assert found.table["label"].tolist() == [1, 0, 1, -1]
    assert found.domains == ("x", "y")
    assert found.table["split"].tolist() == ["test", "teacher_train", "", "student_train"]
    assert found.table["group"].nunique() == 3
    assert found.table["camera"].tolist() == ["1", "2", "2", "1"]
    found.images.read(3)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("filename", "category"), None),
        (("photo", "species"), {"path": "photo", "label": "species"}),
    ],
)
def test_tables_with_columns_of_other_names(
    tmp_path: Path, class_folder: Writer, names: tuple[str, str], columns: dict[str, str] | None
) -> None:
    class_folder(tmp_path / "pics", count=1)
    frame = pd.DataFrame([["0/000.png", "x"], ["1/000.png", "y"]], columns=list(names))
    frame.to_csv(tmp_path / "t.csv", index=False)
    root = str(tmp_path / "pics")
    found = load("table", table=str(tmp_path / "t.csv"), root=root, columns=columns)
    assert found.table["sample_id"].tolist() == ["0/000.png", "1/000.png"]
    assert found.table["label"].tolist() == [0, 1]
    found = load("images", root=root, labels=str(tmp_path / "t.csv"), columns=columns)
    assert dict(zip(found.table["sample_id"], found.table["label"], strict=True)) == {
        "0/000.png": 0,
        "1/000.png": 1,
    }


def test_columns_that_are_not_there_or_doubtful(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("photo,label,species\na.png,x,y\n")
    table = str(tmp_path / "t.csv")
    error = error_of(load, "table", table=table, columns={"path": "phot", "label": "species"})
    assert (error.key, error.value) == (("columns", "path"), "phot")
    assert list(error.nearest) == ["photo"]
    error = error_of(load, "table", table=table, columns={"path": "photo", "label": "species"})
    assert (error.key, error.value) == (("columns", "label"), "species")
    error = error_of(load, "table", table=table)
    assert "`columns`" in error.problem


def test_validation_names_a_column_that_is_not_there(tmp_path: Path, digit: Digit) -> None:
    digit(0, 0).save(tmp_path / "0.png")
    (tmp_path / "labels.csv").write_text("sample_id,lable\n0.png,1\n")
    labels, root = str(tmp_path / "labels.csv"), str(tmp_path)
    error = error_of(peek, "images", root=root, labels=labels)
    assert "no column 'label' (found: sample_id, lable)" in error.problem
    peek("images", root=root, labels=labels, columns={"label": "lable"})
    peek("images", root=root, labels=labels, classes=["1"])
    frame, table = pd.DataFrame({"phto": ["0.png"], "label": ["1"]}), str(tmp_path / "t.parquet")
    frame.to_parquet(table)
    error = error_of(peek, "table", table=table)
    assert "no column 'path' (found: phto, label)" in error.problem
    peek("table", table=table, columns={"path": "phto"})
    (tmp_path / "t.parquet").write_text("no table")
    assert "cannot be read as Parquet" in error_of(peek, "table", table=table).problem


def test_whole_numbers_stay_whole_beside_gaps(tmp_path: Path) -> None:
    frame = pd.DataFrame({"path": ["a.png", "b.png", "c.png"], "label": [3.0, np.nan, 11.0]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert load("table", table=str(tmp_path / "t.parquet")).classes == ("3", "11")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,kind\na.png,x\n", r"no column 'label' \(found: path, kind\)"),
        ("path,label\na.png,x\na.png,y\n", r"^rows 1 and 2 of .*t\.csv' have the sample_id"),
        ("path,label\n,x\n", r"^row 1: 'path' is empty"),
        ("path,label\na.png,\n", "every label is empty"),
        ("path,label\n", "no row"),
        ("", "cannot be read as CSV"),
        ("path,label\na,b,c,d\ne\nf,g,h,i,j\n", "cannot be read as CSV"),
        ("path,label,sample_id\na.png,x,1\nb.png,x,1\n", "^rows 1 and 2 of .* have the sample_id"),
        ("path,label,domain\na.png,x,\n", "row 1: 'domain' is empty"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    error = error_of(load, "table", table=str(tmp_path / "t.csv"))
    assert error.key == ("table",)
    repeated = {"a.png,x\na.png": "a.png", "x,1\nb.png": "1"}
    value = next((value for part, value in repeated.items() if part in text), None)
    assert error.value == (value or str(tmp_path / "t.csv"))
    assert re.search(message, error.problem)


def test_unreadable_tables(tmp_path: Path) -> None:
    for name, content, message in [
        ("t.parquet", b"path,label\n", "cannot be read as Parquet"),
        ("t.csv", b"\xff\xfe\x00\x81PAR1", "cannot be read as CSV"),
        ("t.xlsx", b"", "unknown file type"),
        ("none.csv", None, "no file"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        error = error_of(load, "table", table=str(tmp_path / name))
        assert (error.key, error.value) == (("table",), str(tmp_path / name))
        assert error.problem.startswith(message)
        assert (error.allowed == ".csv, .tsv or .parquet") == name.endswith(".xlsx")
    (tmp_path / "u.csv").write_text("path,label\na.png,x\nb.png,z\n")
    error = error_of(load, "table", table=str(tmp_path / "u.csv"), classes=["x", "y"])
    assert (error.key, error.value, error.allowed) == (("table",), "z", "x, y")
    assert "row 2" in error.problem


def test_cifar10(tmp_path: Path) -> None:
    """A small copy of torchvision's files; the comparison of checksums is switched off."""
    from torchvision.datasets import CIFAR10

    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        batch = {"data": rng.integers(0, 255, (4, 3072), np.uint8), "labels": [0, 1, 2, 9]}
        (base / name).write_bytes(pickle.dumps(batch))
    names = {"label_names": list("abcdefghij")}
    (base / "batches.meta").write_bytes(pickle.dumps(names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        found = load("torchvision", dataset="CIFAR10", root=str(tmp_path))
        pooled = load("torchvision", dataset="CIFAR10", root=str(tmp_path), parts=["train"])
    assert found.classes == tuple("abcdefghij")
    assert (found.table["split"] == "test").sum() == 4
    assert found.images.read(23).size == (32, 32)
    assert len(pooled.table) == 20
    assert not pooled.official_test


def test_imagenet(tmp_path: Path, digit: Digit) -> None:
    """The layout that torchvision makes: root/{train,val}/WNID/*, and meta.bin beside them."""
    import torch

    wnids = ["n01", "n02", "n03"]
    for part in ("train", "val"):
        for number, wnid in enumerate(wnids):
            (tmp_path / part / wnid).mkdir(parents=True)
            digit(number, 0).save(tmp_path / part / wnid / "a.png")
    names = {"n01": ("crane", "bird"), "n02": ("tench",), "n03": ("crane", "machine")}
    torch.save((names, wnids), tmp_path / "meta.bin")
    found = load("torchvision", dataset="ImageNet", root=str(tmp_path))
    assert found.classes == ("crane (0)", "tench", "crane (2)")
    assert found.table["split"].tolist() == [""] * 3 + ["test"] * 3
    assert found.images.files
    assert found.images.where(3).endswith("val/n01/a.png")
    val = load("torchvision", dataset="ImageNet", root=str(tmp_path), parts=["val"])
    assert val.table["sample_id"].tolist() == ["val/00000", "val/00001", "val/00002"]


def test_bad_torchvision(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown dataset 'CIFAR1O'; .*'CIFAR10'"):
        DataSection.model_validate({"source": "torchvision", "dataset": "CIFAR1O", "root": "x"})
    with pytest.raises(ValueError, match=r"unknown part of CIFAR10 'val' \(allowed: test, train\)"):
        DataSection.model_validate(
            {"source": "torchvision", "dataset": "CIFAR10", "root": "x", "parts": ["val"]}
        )
    error = error_of(load, "torchvision", dataset="CIFAR10", root=str(tmp_path))
    assert (error.key, error.value) == (("root",), str(tmp_path))
    assert re.search(r"cannot load CIFAR10 from .*download: false.*not found", error.problem)
    error = error_of(load, "torchvision", dataset="CIFAR10", root=str(tmp_path / "none"))
    assert (error.key, error.value) == (("root",), str(tmp_path / "none"))


@pytest.mark.parametrize("source", ["image_folder", "domain_folder"])
def test_bad_folders(tmp_path: Path, source: str, class_folder: Writer) -> None:
    def message(root: Path, wrong: Path | None = None) -> str:
        error = error_of(load, source, root=str(root))
        assert (error.key, error.value) == (("root",), str(wrong or root))
        return error.problem

    assert message(tmp_path / "none").startswith("no folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert message(empty).startswith("no ")
    (tmp_path / "file").write_text("x")
    assert message(tmp_path / "file") == "not a folder"
    root = tmp_path / "set" if source == "image_folder" else tmp_path / "set" / "photo"
    class_folder(root, count=1)
    (root / "9").mkdir()
    assert message(tmp_path / "set", root / "9").startswith("no image")


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    # Tests may run as root, who can read any folder.
    monkeypatch.setattr("cosup.data.sources.files.os.scandir", refuse)
    error = error_of(load, "image_folder", root=str(tmp_path))
    assert (error.key, error.value) == (("root",), str(tmp_path))
    assert error.problem.endswith("Permission denied")


def test_parts_are_those_that_torchvision_takes() -> None:
    import inspect

    from torchvision import datasets

    from cosup.data.sources.torchvision import DATASET_PARTS

    for name, parts in DATASET_PARTS.items():
        cls = getattr(datasets, name)
        taken = inspect.signature(cls).parameters
        for part in parts:
            key = "train" if isinstance(part, bool) else "split"
            assert part is None or key in taken, name
        source = inspect.getsource(cls)
        for part in (part for part in parts if isinstance(part, str)):
            assert f'"{part}"' in source, (name, part)


def test_inaturalist(tmp_path: Path, class_folder: Writer) -> None:
    root = inaturalist_of(class_folder(tmp_path))
    found = load("inaturalist", root=str(root))
    # The third category has no image.
    assert found.classes == ("Species 0", "Species 1")
    assert found.official_test
    ids, table = found.table["sample_id"].tolist(), found.table
    assert ids[0] == "1/008.png"
    assert [sample[0] for sample in ids] == [str(label) for label in table["label"]]
    assert sorted(table["sample_id"][table["split"] == "test"]) == ["0/009.png", "1/009.png"]
    found.images.read(7)
    assert not load("inaturalist", root=str(root), official_test=False).official_test
    names = [{"id": 10 * c, "name": "Passer"} for c in range(3)]
    (root / "categories.json").write_text(json.dumps(names))
    assert load("inaturalist", root=str(root)).classes == ("Passer (0)", "Passer (10)")
    for part in ("train", "val"):
        (root / f"{part}2018.json").rename(root / f"{part}.json")
    assert len(load("inaturalist", root=str(root), year=2021).table) == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^no file .* \(data\.year: 2018\)"),
        ("{", "^cannot be read"),
        ("{}", "^not a list in COCO format .*: KeyError 'images'"),
        ("[]", "^not a list in COCO format"),
        ('{"images": [], "annotations": [], "categories": []}', "no annotation"),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [],'
            ' "annotations": [{"image_id": 1, "category_id": 4}]}',
            r"image 'a\.png' has category 4, which is not listed",
        ),
    ],
)
def test_bad_inaturalist(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "train2018.json").write_text(text)
    error = error_of(load, "inaturalist", root=str(tmp_path))
    assert (error.key, error.value) == (("root",), str(tmp_path / "train2018.json"))
    assert re.search(message, error.problem)


def test_mini_imagenet_in_folders(tmp_path: Path, class_folder: Writer) -> None:
    found = load("mini_imagenet", root=str(mini_imagenet_of(tmp_path, class_folder)))
    assert found.classes == ("1", "3", "0", "5", "2", "4")
    assert found.roles == ("base", "base", "validation", "validation", "novel", "novel")
    section = DataSection.model_validate(
        {
            "source": "mini_imagenet",
            "root": str(tmp_path),
            "share_train": True,
            "splits": {"student_train": 0.9},
            "few_shot": {"novel": "given", "validation": "given", "ways": 2, "queries": 2},
        }
    )
    data = load_data(section, 0, 1, None)
    assert data.novel is not None
    assert data.novel_validation is not None
    assert data.classes == ("1", "3")
    assert data.novel.classes == ("2", "4")
    assert data.novel_validation.classes == ("0", "5")
    assert all(name.startswith("test/") for name in data.novel.table["sample_id"])


def test_mini_imagenet_in_lists(tmp_path: Path, digit: Digit) -> None:
    """Ravi and Larochelle's files name images that are all in one folder."""
    (tmp_path / "images").mkdir()
    for part, classes in (("train", (3, 1)), ("val", (0,)), ("test", (2,))):
        lines = ["filename,label"]
        for c in classes:
            for n in range(2):
                digit(c, n).save(tmp_path / "images" / f"n{c}{n:05d}.png")
                lines.append(f"n{c}{n:05d}.png,n{c}")
        (tmp_path / f"{part}.csv").write_text("\n".join(lines))
    found = load("mini_imagenet", root=str(tmp_path))
    assert found.classes == ("n3", "n1", "n0", "n2")
    assert found.roles == ("base", "base", "validation", "novel")
    assert found.table["sample_id"].iloc[0] == "images/n300000.png"
    assert found.table["label"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    found.images.read(7)
    val = tmp_path / "val.csv"

    def fails(value: object, problem: str) -> None:
        error = error_of(load, "mini_imagenet", root=str(tmp_path))
        assert (error.key, error.value) == (("root",), str(value))
        assert problem in error.problem

    val.write_text("filename,label\nx.png,n3\n")
    fails("n3", "is in train and in val")
    val.write_text("filename,label\nx.png,n0\n,n0\n")
    fails(val, "row 2: 'filename' is empty")
    val.write_text("file,label\nx.png,n0\n")
    fails(val, "no column 'filename' (found: file, label)")
    val.unlink()
    fails(val, "no file")
    (tmp_path / "train.csv").unlink()
    fails(tmp_path, "neither train.csv, val.csv and test.csv nor")
