"""Tests of the source `huggingface`, on small sets that the real library `datasets` wrote."""

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from helpers.user_errors import error_of, key_of
from PIL import Image

from cosup.cli import call
from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.sources import SOURCES, Collection
from cosup.data.sources.base import Names
from cosup.data.table import ImageData

Digit = Callable[[int, int], Image.Image]
CONFIG = """\
run: {name: hub, output: runs}
data: {source: huggingface, dataset: set, domain: site}
teachers:
  hierarchy: {by: domain, levels: [2]}
  model: {name: linear_pixels, size: 4}
  training: {steps: 20}
student:
  backbone: {name: test_resnet.r160_in1k, weights: null, image_size: 32}
  training: {steps: 20, lr: 0.01, standardize: true}
controls: []
execution: {device: cpu, workers: 2, cache: cache}
"""


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def rows(digit: Digit) -> Callable[..., Dataset]:
    """Return a function that makes rows of three digits: from the n-th to the m-th scan of each."""

    def make(start: int, end: int, **changed: Any) -> Dataset:
        scans = [(c, n) for n in range(start, end) for c in range(3)]
        columns = {
            "id": [f"{c}-{n}" for c, n in scans],
            "site": [f"s{n % 2}" for _, n in scans],
            "img": [digit(c, n) for c, n in scans],
            "digit": [c for c, _ in scans],
        }
        columns |= {name: [value(c, n) for c, n in scans] for name, value in changed.items()}
        features = Features(
            id=Value("string"),
            site=Value("string"),
            img=datasets.Image(),
            digit=ClassLabel(names=["nought", "one", "two"]),
        )
        return Dataset.from_dict(columns, features)

    return make


def listed(dataset: str = "set", **settings: Any) -> Collection:
    section = DataSection.model_validate({"source": "huggingface", "dataset": dataset, **settings})
    source = SOURCES.build(section.source)
    peeked = source.peek()
    found = source.load()
    assert peeked.classes in (None, found.classes)
    assert peeked.domains in (None, found.domains)
    return found


def loaded(**settings: Any) -> ImageData:
    section = DataSection.model_validate({"source": "huggingface", "dataset": "set", **settings})
    return load_data(section, 0, 2, None)


def test_columns_are_found_by_their_types(rows: Callable[..., Dataset]) -> None:
    rows(0, 4).save_to_disk("set")
    found = listed()
    assert found.classes == ("nought", "one", "two")
    assert found.table["label"].tolist() == [0, 1, 2] * 4
    assert found.table["sample_id"].tolist()[:2] == ["train/00000", "train/00001"]
    assert set(found.table["split"]) == {""}
    source = SOURCES.build(
        DataSection.model_validate({"source": "huggingface", "dataset": "set"}).source
    )
    assert source.peek() == Names(("nought", "one", "two"), ("all",))


@pytest.mark.parametrize("form", ["saved", "parquet", "arrow", "images"])
def test_every_form_of_a_folder_has_the_same_images(
    form: str, rows: Callable[..., Dataset], digit: Digit
) -> None:
    parts = {"train": rows(0, 3), "test": rows(3, 5)}
    if form == "saved":
        DatasetDict(parts).save_to_disk("set")
    for name, part in parts.items():
        if form == "parquet":
            Path("set").mkdir(exist_ok=True)
            part.to_parquet(f"set/{name}-00000-of-00001.parquet")
        elif form == "arrow":
            part.save_to_disk("saved")
            Path("set", name).mkdir(parents=True)
            for number, file in enumerate(Path("saved").glob("*.arrow")):
                file.rename(Path("set", name, f"{number}.arrow"))
        elif form == "images":
            for number, row in enumerate(part):
                folder = Path("set", name, f"{row['digit']}")
                folder.mkdir(parents=True, exist_ok=True)
                row["img"].save(folder / f"{number}.png")
    found = listed()
    assert found.table["split"].value_counts().to_dict() == {"train": 9, "test": 6}
    pixels = {found.images.read(row).tobytes() for row in range(15)}
    assert pixels == {digit(c, n).convert("RGB").tobytes() for n in range(5) for c in range(3)}


def test_the_splits_of_the_set_are_used_or_drawn_anew(rows: Callable[..., Dataset]) -> None:
    parts = {"train": rows(0, 10), "validation": rows(10, 12), "test": rows(12, 16)}
    DatasetDict(parts).save_to_disk("set")
    data = loaded()
    named = data.table["sample_id"].str.partition("/")[0]
    assert (named[data.table["split"] == "test"] == "test").all()
    assert [len(data.rows(name)) for name in ("validation", "test")] == [6, 12]
    assert len(data.rows("teacher_train")) + len(data.rows("student_train")) == 30
    drawn = loaded(splits={"teacher_train": 0.5, "student_train": 0.5})
    assert len(drawn.rows("teacher_train")) == 24
    assert len(loaded(parts=["train"]).rows("test")) == 6  # one split is none


def test_a_split_of_another_name_is_one_line(rows: Callable[..., Dataset]) -> None:
    DatasetDict(train=rows(0, 4), tests=rows(4, 6)).save_to_disk("set")
    error = error_of(loaded)
    assert error.nearest == ("test",)
    assert key_of(error) == "data.splits"


def test_rows_without_label_are_for_the_student(rows: Callable[..., Dataset]) -> None:
    def label(c: int, n: int) -> int | None:
        return c if n < 8 else (-1 if n < 10 else None)

    rows(0, 12, digit=label).save_to_disk("set")
    data = loaded()
    assert (data.table["label"] < 0).sum() == 12
    assert set(data.rows("student_train")) >= set(np.flatnonzero(data.table["label"] < 0))


def test_labels_as_text_or_numbers_and_none_at_all(rows: Callable[..., Dataset]) -> None:
    plain = rows(0, 3).cast_column("digit", Value("int64"))
    plain.rename_column("digit", "label").save_to_disk("numbers")
    assert listed("numbers").classes == ("0", "1", "2")
    assert listed("numbers", label="site").classes == ("s0", "s1")
    chosen = listed("numbers", classes=["2", "1", "0"])
    assert chosen.table["label"].tolist() == [2, 1, 0] * 3
    plain.save_to_disk("others")
    assert key_of(error_of(listed, "others")) == "label"
    assert set(listed("others", classes=["a", "b"]).table["label"]) == {-1}
    assert error_of(listed, "numbers", classes=["0", "1"]).value == "2"


def test_domains_and_groups(rows: Callable[..., Dataset]) -> None:
    rows(0, 4, id=lambda c, n: None if n == 3 else f"g{c}").save_to_disk("set")
    found = listed(domain="site", group="id")
    assert found.domains == ("s0", "s1")
    assert found.table["domain"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert found.grouped
    assert found.table["group"].nunique() == 3 + 3
    rows(0, 2, site=lambda c, n: None).save_to_disk("gap")
    assert key_of(error_of(listed, "gap", domain="site")) == "domain"


def test_every_kind_of_pixel_becomes_rgb(digit: Digit) -> None:
    grey = digit(3, 0)
    clear = Image.new("RGBA", grey.size, (0, 0, 0, 0))
    images = [grey, grey.convert("CMYK"), clear, grey.convert("1")]
    features = Features(image=datasets.Image(), label=ClassLabel(num_classes=2))
    encoded = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "TIFF")
        encoded.append({"bytes": file.getvalue(), "path": None})
    Dataset.from_dict({"image": encoded, "label": [0, 1, 0, 1]}, features).save_to_disk("set")
    found = listed()
    read = [found.images.read(row) for row in range(4)]
    assert {image.mode for image in read} == {"RGB"}
    assert read[0].tobytes() == grey.convert("RGB").tobytes()
    assert read[2].getpixel((0, 0)) == (255, 255, 255)


def test_images_that_are_missing_or_broken_are_set_aside(digit: Digit) -> None:
    digit(1, 0).save("good.png")
    features = Features(image=datasets.Image(), label=ClassLabel(num_classes=2))
    held = [{"bytes": None, "path": str(Path("good.png").absolute())}] * 8
    held += [None, {"bytes": b"no image", "path": None}]
    Dataset.from_dict({"image": held, "label": [0, 1] * 5}, features).save_to_disk("set")
    data = loaded(max_broken=0.5)
    assert data.broken == ("train/00008", "train/00009")
    assert key_of(error_of(loaded, max_broken=0.1)) == "data.max_broken"


def test_a_column_of_bytes_or_paths_can_be_named(digit: Digit) -> None:
    file = io.BytesIO()
    digit(1, 0).save(file, "PNG")
    digit(1, 0).save("a.png")
    columns = {"raw": [file.getvalue()] * 2, "file": ["a.png"] * 2, "label": ["x", "y"]}
    Dataset.from_dict(columns).save_to_disk("set")
    assert key_of(error_of(listed)) == "image"
    for name in ("raw", "file"):
        pixels = listed(image=name).images.read(1).tobytes()
        assert pixels == digit(1, 0).convert("RGB").tobytes()


def test_threads_and_processes_read_the_same(rows: Callable[..., Dataset]) -> None:
    rows(0, 20).save_to_disk("set")
    images = listed().images
    alone = [images.read(row).tobytes() for row in range(60)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda row: images.read(row).tobytes(), [*range(60)] * 4))
    assert together == alone * 4
    copied = pickle.loads(pickle.dumps(images))
    assert [copied.read(row).tobytes() for row in range(60)] == alone


def test_the_fingerprint_is_of_the_images_and_their_order(rows: Callable[..., Dataset]) -> None:
    DatasetDict(train=rows(0, 3), test=rows(3, 4)).save_to_disk("set")
    order = np.arange(12)
    first = listed().images.fingerprint(order)
    assert listed().images.fingerprint(order) == first
    assert listed().images.fingerprint(order[::-1].copy()) != first
    DatasetDict(train=rows(1, 4), test=rows(3, 4)).save_to_disk("set")
    assert listed().images.fingerprint(order) != first


def test_the_fingerprint_knows_files_outside_the_set(digit: Digit) -> None:
    digit(1, 0).save("a.png")
    columns = {"image": [str(Path("a.png").absolute())] * 2, "label": ["x", "y"]}
    Dataset.from_dict(columns).save_to_disk("set")
    order = np.arange(2)
    first = listed(image="image").images.fingerprint(order)
    digit(2, 0).resize((16, 16)).save("a.png")
    assert listed(image="image").images.fingerprint(order) != first


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"dataset": "./nothing"}, "dataset"),
        ({"dataset": "set/state.json"}, "dataset"),
        ({"image": "image"}, "image"),
        ({"image": "digit"}, "image"),
        ({"label": "img"}, "label"),
        ({"label": "lable"}, "label"),
        ({"domain": "sites"}, "domain"),
        ({"group": "sites"}, "group"),
        ({"parts": ["test"]}, "parts"),
        ({"classes": ["nought", "nought", "one"]}, "classes"),
    ],
)
def test_mistakes_are_one_line(
    rows: Callable[..., Dataset], settings: dict[str, Any], key: str
) -> None:
    rows(0, 2).save_to_disk("set")
    assert key_of(error_of(listed, **settings)) == key


def test_an_unknown_configuration_is_one_line(rows: Callable[..., Dataset]) -> None:
    Path("set").mkdir()
    rows(0, 2).to_parquet("set/train.parquet")
    assert key_of(error_of(listed, config="large")) == "config"


def test_a_hub_that_is_out_of_reach_is_one_line(forks: list[str]) -> None:
    Path("c.yaml").write_text(CONFIG.replace("dataset: set", "dataset: cifar10"))
    done = subprocess.run(
        [sys.executable, "-m", "cosup", "validate", "c.yaml"],
        env={"HF_DATASETS_OFFLINE": "1", "HF_HOME": "hf", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cifar10" in done.stderr


def test_without_the_extra_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    Path("c.yaml").write_text(CONFIG)
    assert call(["validate", "c.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data.source" in line
    assert "'.[hub]'" in line


@pytest.mark.slow
def test_a_whole_run(rows: Callable[..., Dataset]) -> None:
    DatasetDict(train=rows(0, 40), test=rows(40, 50)).save_to_disk("set")
    Path("c.yaml").write_text(CONFIG)
    assert call(["run", "c.yaml"]) == 0
    summary = json.loads(Path("runs/hub/summary.json").read_text())
    assert summary["data"]["samples"]["test"] == 30
    assert summary["student"]["accuracy"] > 0.4
