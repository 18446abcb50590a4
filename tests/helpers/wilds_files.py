"""Miniatures of WILDS datasets: real digits in the layout that the WILDS package reads."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

PARTS = ("train", "train", "train", "id_val", "id_test", "val", "test")
"""The splits of one digit after the other."""


def scans(count: int) -> tuple[list[Image.Image], list[int]]:
    """Return the first scans and their digits."""
    pixels, labels = load_digits(return_X_y=True)
    greys = (pixels[:count].reshape(-1, 8, 8) * 15.9).astype(np.uint8)
    return [Image.fromarray(grey) for grey in greys], labels[:count].tolist()


def write_iwildcam(root: Path, count: int = 210) -> Path:
    """Write metadata.csv, and images below `train`; `val` and `test` are of other locations."""
    images, labels = scans(count)
    (root / "train").mkdir(parents=True)
    rows = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        part = PARTS[number % len(PARTS)]
        location = {"val": 3, "test": 4}.get(part, number % 3)
        image.save(root / "train" / f"{number}.jpg")
        rows.append(
            {
                "split": part,
                "location_remapped": location,
                "location": f"l{location}",
                "sequence_remapped": number // 2,
                "datetime": "2013-01-01 12:00:00.000",
                "filename": f"{number}.jpg",
                "y": label,
                "category_id": 10 * label,
            }
        )
    pd.DataFrame(rows).to_csv(root / "metadata.csv", index=False)
    return root


def write_camelyon17(root: Path, count: int = 200) -> Path:
    """Write metadata.csv with an index, and patches; the centers 1 and 2 are val and test."""
    images, labels = scans(count)
    rows = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        center = number % 5
        row = {
            "patient": f"{4 + center:03d}",
            "node": number % 2,
            "x_coord": 32 * number,
            "y_coord": 96,
            "tumor": label % 2,
            "slide": number % 10,
            "center": center,
            "split": int(number % 4 == 0),
        }
        name = "patient_{patient}_node_{node}".format(**row)
        folder = root / "patches" / name
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"patch_{name}_x_{row['x_coord']}_y_96.png")
        rows.append(row)
    pd.DataFrame(rows).to_csv(root / "metadata.csv")
    return root


def write_fmow(root: Path, count: int = 200) -> Path:
    """Write rgb_metadata.csv, country_code_mapping.csv, and images by the number of their row."""
    images, labels = scans(count)
    (root / "images").mkdir(parents=True)
    rows = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        year = (2010, 2014, 2016)[number % 3]
        rows.append(
            {
                "split": ("train", "train", "val", "test", "seq")[number % 5],
                "category": f"building_{label}",
                "country_code": ("FRA", "KEN", "XXX")[number % 7 % 3],
                "timestamp": f"{year}-01-01T00:00:00Z",
            }
        )
        image.save(root / "images" / f"rgb_img_{number}.png")
    pd.DataFrame(rows).to_csv(root / "rgb_metadata.csv", index=False)
    regions = {"alpha-3": ["FRA", "KEN"], "region": ["Europe", "Africa"]}
    pd.DataFrame(regions).to_csv(root / "country_code_mapping.csv", index=False)
    return root
