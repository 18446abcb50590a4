"""Tests that training batches depend on seed and step only, and leave global generators alone."""

import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

import cosup.data.loader as loader
from cosup.data.load import load_data
from cosup.data.loader import Order, TrainingBatches
from cosup.data.section import DataSection
from cosup.data.table import ImageData
from cosup.data.transforms import EvalTransform
from cosup.errors import RunError
from cosup.seeds import random_states, restore_random_states


def noisy(image: Image.Image) -> Tensor:
    """Transform an image with numbers drawn from all three global generators."""
    pixels = np.array(image.resize((8, 8))).transpose(2, 0, 1).copy()
    pixels[0, 0, 0] = random.randrange(256)
    pixels[0, 0, 1] = np.random.randint(256)  # noqa: NPY002
    pixels[0, 0, 2] = int(torch.randint(256, ()))
    return torch.from_numpy(pixels)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    """120 digits as PNG files."""
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for number in range(120):
        folder = root / str(digits.target[number])
        folder.mkdir(exist_ok=True)
        pixels = (digits.images[number] * 15).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    source = {"name": "image_folder", "root": str(root)}
    shares = {"teacher_train": 0.3, "student_train": 0.5, "validation": 0, "test": 0.2}
    section = DataSection.model_validate({"source": source, "splits": shares})
    return load_data(section, 0, 1, None)


def batches(data: ImageData, start: int = 0, **changes: object) -> list[tuple[Tensor, Tensor]]:
    rows = data.rows("student_train")
    settings = {"batch_size": 8, "steps": 6, "seed": 3, **changes}
    return list(TrainingBatches(data, rows, noisy, **settings)(start))  # type: ignore[arg-type]


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def test_every_pass_has_every_sample_once() -> None:
    order = Order(10, 4, seed=1)
    drawn = torch.cat([order.positions(step) for step in range(5)]).tolist()
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    assert Order(10, 4, seed=1).positions(3).tolist() == drawn[12:16]
    assert Order(10, 4, seed=2).positions(0).tolist() != drawn[:4]


def test_workers_restarts_and_ranks_change_nothing(files: ImageData) -> None:
    whole = batches(files)
    assert len(whole) == 6
    assert all(images.shape == (8, 3, 8, 8) for images, _ in whole)
    assert same(batches(files, workers=2), whole)
    assert same(batches(files, start=4, workers=1), whole[4:])
    assert not same(batches(files, seed=4), whole)
    halves = [batches(files, rank=rank, world_size=2) for rank in range(2)]
    joined = [
        (torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in zip(*halves, strict=True)
    ]
    assert same(joined, whole)
    # All samples of all steps get different random numbers.
    drawn = torch.cat([images[:, 0, 0, :3] for images, _ in whole])
    assert len({tuple(row) for row in drawn.tolist()}) == len(drawn)


def test_images_are_of_the_rows(files: ImageData) -> None:
    rows = files.rows("student_train")
    for images, positions in batches(files):
        for image, position in zip(images, positions.tolist(), strict=True):
            expected = np.array(files.read(int(rows[position])).resize((8, 8))).transpose(2, 0, 1)
            assert (image.numpy()[:, 1:] == expected[:, 1:]).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_restored(files: ImageData, workers: int) -> None:
    before = random_states()
    batches(files, workers=workers)
    after = random_states()
    assert before["python"] == after["python"]
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["numpy"][2:] == after["numpy"][2:]
    drawn = (random.random(), torch.rand(2), np.random.rand())  # noqa: NPY002
    restore_random_states(before)
    again = (random.random(), torch.rand(2), np.random.rand())  # noqa: NPY002
    assert drawn[0] == again[0]
    assert torch.equal(drawn[1], again[1])
    assert drawn[2] == again[2]


def test_deterministic_transforms_are_decoded_once(
    files: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, transform = files.rows("student_train"), EvalTransform(16)
    reads: list[int] = []
    real = type(files.images).read

    def counting(self: object, index: int) -> Image.Image:
        reads.append(index)
        return real(self, index)  # type: ignore[arg-type]

    monkeypatch.setattr(type(files.images), "read", counting)
    kept = list(TrainingBatches(files, rows, transform, 8, 12, 3)())
    assert len(reads) <= len(rows) + 1
    monkeypatch.setattr(loader, "MEMORY", 0)
    assert same(list(TrainingBatches(files, rows, transform, 8, 12, 3)()), kept)


def test_custom_order(files: ImageData) -> None:
    places = torch.tensor([[0, 0, 1], [5, 4, 3]])
    found = batches(files, steps=2, order=places.__getitem__)
    assert [positions.tolist() for _, positions in found] == places.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_named_and_workers_end(
    files: ImageData, workers: int, tmp_path: Path
) -> None:
    broken = Path(files.images.where(int(files.table["image"][files.rows("student_train")[0]])))
    content = broken.read_bytes()
    try:
        broken.write_bytes(content[:20])
        with pytest.raises(RunError, match=broken.name) as caught:
            batches(files, workers=workers)
        assert "\n" not in str(caught.value)
    finally:
        broken.write_bytes(content)
    assert not children()


def test_closing_ends_the_workers(files: ImageData) -> None:
    stream = TrainingBatches(files, files.rows("student_train"), noisy, 4, 100, 0, workers=2)()
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert not children()


def children() -> list[multiprocessing.process.BaseProcess]:
    """Return the processes that are still there; an idle one has a minute to end."""
    end = time.monotonic() + 60
    while (found := multiprocessing.active_children()) and time.monotonic() < end:
        time.sleep(0.02)
    return found
