"""Tests of decoding images in threads."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cosup.data.load import load_data
from cosup.data.loader import image_batches
from cosup.data.section import DataSection
from cosup.data.table import ImageData
from cosup.data.transforms import EvalTransform, PixelTransform
from cosup.errors import RunError


@pytest.fixture
def folder(tmp_path: Path, class_folder: Callable[..., Path]) -> ImageData:
    class_folder(tmp_path / "images", count=20)
    section = DataSection.model_validate(
        {"source": "image_folder", "root": str(tmp_path / "images")}
    )
    return load_data(section, 0, 2, None)


def decoding() -> int:
    return sum(thread.name.startswith("cosup-decode") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_every_image_in_the_order_of_rows(folder: ImageData, workers: int, batch_size: int) -> None:
    rows = np.random.default_rng(0).permutation(len(folder))[:33]
    transform = PixelTransform(8)
    batches = list(image_batches(folder, rows, transform, batch_size, workers))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    expected = torch.stack([transform(folder.read(int(row))) for row in rows])
    assert torch.equal(torch.cat(batches), expected)
    assert batches[0].dtype == torch.uint8
    assert decoding() == 0


def test_no_rows_no_batches(folder: ImageData) -> None:
    assert list(image_batches(folder, np.array([], np.int64), EvalTransform(8), 4, 2)) == []


def test_threads_end_when_the_consumer_stops(folder: ImageData) -> None:
    batches = image_batches(folder, np.arange(len(folder)), EvalTransform(16), 2, 2)
    next(batches)
    assert decoding() > 0
    batches.close()  # type: ignore[attr-defined]
    assert decoding() == 0


def test_decoding_stays_a_few_batches_ahead(folder: ImageData) -> None:
    seen = []

    class Counting:
        key = "counting"

        def __call__(self, image: object) -> torch.Tensor:
            seen.append(1)
            return torch.zeros(1, 1, 1, dtype=torch.uint8)

    batches = image_batches(folder, np.arange(len(folder)), Counting(), 2, 2)
    next(batches)
    assert len(seen) <= 2 * 4
    batches.close()  # type: ignore[attr-defined]


def test_a_file_that_broke_after_the_check_is_named(folder: ImageData, tmp_path: Path) -> None:
    (tmp_path / "images/1/003.png").write_text("gone")
    with pytest.raises(RunError, match=r"003\.png.*not an image"):
        list(image_batches(folder, np.arange(len(folder)), PixelTransform(4), 8, 2))
    assert decoding() == 0
