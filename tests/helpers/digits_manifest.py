"""A manifest of real digits, whose rows may name each image many times."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits


def write_digits(folder: Path, count: int = 1797) -> np.ndarray:
    """Write digits as PNG files `N.png`; return their labels."""
    scans, labels = load_digits(return_X_y=True)
    folder.mkdir(parents=True, exist_ok=True)
    for number, scan in enumerate(scans[:count]):
        pixels = (scan.reshape(8, 8) * 15.9).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return labels[:count].astype(np.int64)


def write_manifest(
    path: Path,
    labels: np.ndarray,
    rows: int,
    labelled: int,
    files: int = 1,
    named: bool = True,
    truth: bool = False,
) -> Path:
    """Write a manifest of digits in `images/` beside it; the first rows have a label.

    rows: how many; row n names image n modulo the number of images. labelled: rows with a label:
    half of them teacher_train, a quarter validation and a quarter test. named: in a column. truth:
    the other rows have a label too.
    """
    path.mkdir(parents=True, exist_ok=True)
    splits = np.asarray(["teacher_train", "teacher_train", "validation", "test"])
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        images, known = part % len(labels), part < labelled
        texts = labels[images].astype(str)
        columns = {
            "id": pa.array([f"sample-{row:07d}" for row in part]),
            "uri": pa.array([f"../images/{image:04d}.png" for image in images]),
            "label": pa.array(np.where(known | truth, texts, None), pa.string()),
        }
        if named:
            split = np.where(known, splits[part % 4], "student_train")
            columns["split"] = pa.array(split.astype(str), pa.string())
        parquet.write_table(pa.table(columns), path / f"part-{number:03d}.parquet")
    return path
