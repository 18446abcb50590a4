"""Contract of all registered sources, on a small real dataset."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as HubImage
from helpers.wilds_files import write_iwildcam
from PIL import Image
from sklearn.datasets import load_digits

from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.sources import SOURCES

SHARES = {"teacher_train": 0.3, "student_train": 0.4, "test": 0.3}


def idx(path: Path, array: np.ndarray) -> None:
    """Write an idx file of bytes, gzipped."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def inaturalist(root: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    """Write the lists of 2018 and their images; every fourth image is in val."""
    lists: dict[str, Any] = {}
    for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        part = "val" if row % 4 == 0 else "train"
        path = f"train_val2018/Aves/{label}/{row}.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(root / path)
        found = lists.setdefault(part, {"images": [], "annotations": []})
        found["images"].append({"id": row, "file_name": path})
        found["annotations"].append({"image_id": row, "category_id": int(label) * 3})
    categories = [{"id": n, "name": f"bird {n}", "supercategory": "Aves"} for n in range(30)]
    for part, found in lists.items():
        tree = json.dumps({**found, "categories": categories})
        (root / f"{part}2018.json").write_text(tree)
    return root


def settings(source: str, root: Path) -> dict[str, Any]:
    """Write 400 real digits in the layout of the source; return its settings."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels[:400].reshape(-1, 8, 8) * 15.9, labels[:400]
    if source == "digits":
        return {"rotations": [0]}
    if source == "huggingface":
        features = Features(image=HubImage(), label=ClassLabel(num_classes=10))
        scans = [Image.fromarray(image.astype(np.uint8)) for image in pixels]
        rows = {"image": scans, "label": labels.tolist()}
        Dataset.from_dict(rows, features).save_to_disk(root / "set")
        return {"dataset": str(root / "set")}
    if source in ("idx", "torchvision"):
        folder = root / "FashionMNIST" / "raw" if source == "torchvision" else root
        folder.mkdir(parents=True, exist_ok=True)
        for part, rows in (("train", slice(0, 300)), ("t10k", slice(300, 400))):
            for kind, array in (("images-idx3", pixels[rows]), ("labels-idx1", labels[rows])):
                idx(folder / f"{part}-{kind}-ubyte.gz", array)
                if source == "torchvision":
                    plain = gzip.decompress((folder / f"{part}-{kind}-ubyte.gz").read_bytes())
                    (folder / f"{part}-{kind}-ubyte").write_bytes(plain)
        named = {"dataset": "FashionMNIST"} if source == "torchvision" else {}
        return {"root": str(root), **named}
    if source == "wilds":
        return {"root": str(write_iwildcam(root, 700)), "dataset": "iwildcam"}
    if source == "inaturalist":
        return {"root": str(inaturalist(root, pixels, labels))}
    lines = ["path,label"]
    for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        domain = f"d{row % 2}/" if source == "domain_folder" else ""
        if source == "mini_imagenet":
            domain = "train/" if label < 5 else "val/" if label < 7 else "test/"
        path = root / f"{domain}c{label}/{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
        lines.append(f"{path.relative_to(root)},c{label}")
    if source == "table":
        (root / "table.csv").write_text("\n".join(lines))
        return {"root": str(root), "table": str(root / "table.csv")}
    if source == "manifest":
        frame = pd.DataFrame([line.split(",") for line in lines[1:]], columns=["uri", "label"])
        frame.to_parquet(root / "all.parquet")
        return {"path": str(root / "all.parquet")}
    if source == "images":
        (root / "table.csv").write_text("\n".join(lines))
        return {"root": str(root), "labels": str(root / "table.csv")}
    return {"root": str(root)}


@pytest.mark.parametrize("source", sorted(SOURCES.builtin))
def test_source_contract(source: str, tmp_path: Path) -> None:
    section = DataSection.model_validate(
        {"source": source, **settings(source, tmp_path), "splits": SHARES}
    )
    found = SOURCES.build(section.source).load()
    assert len(found.table) == len(found.images)
    assert found.table["image"].tolist() == list(range(len(found.table)))
    assert found.table["sample_id"].is_unique
    assert len(set(found.classes)) == len(found.classes)
    assert found.images.read(len(found.table) - 1).mode == "RGB"
    order = np.arange(len(found.table))
    same = SOURCES.build(section.source).load().images
    assert found.images.fingerprint(order) == same.fingerprint(order)
    data = load_data(section, seed=0, workers=1, cache=None)
    table = data.table
    assert table["sample_id"].is_unique
    assert table["label"].between(0, len(data.classes) - 1).all()
    assert table["domain"].between(0, len(data.domains) - 1).all()
    assert not table.groupby("group")["split"].nunique().gt(1).any()
    for split in SHARES:
        rows = data.rows(split)
        assert set(data.truth(rows).labels.tolist()) == set(range(len(data.classes)))
        image = data.read(int(rows[0]))
        assert image.mode == "RGB"
        assert len(image.getcolors(10_000) or []) > 1
    again = load_data(section, seed=0, workers=2, cache=tmp_path / "cache")
    assert again.fingerprint == data.fingerprint
    assert again.table.equals(table)
