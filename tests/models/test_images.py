"""Augmentation: what is off leaves prediction's pixels, what is on does what it says."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from cosup.data.transforms import EvalTransform
from cosup.errors import UserError
from cosup.models.images import InputSpec, draws, training_transform
from cosup.models.training_section import AugmentSection
from cosup.seeds import forked_seeds

SPEC = InputSpec(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 1.0, "bicubic")


def image(number: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    pixels = (load_digits().images[number] * 15).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB").resize(size)


def made(seed: int = 0, size: tuple[int, int] = (32, 32), **settings: Any) -> torch.Tensor:
    transform = training_transform(AugmentSection.model_validate(settings), SPEC)
    with forked_seeds(seed):
        found = transform(image(size=size))
    assert found.dtype == torch.uint8
    assert found.shape == (3, 32, 32)
    return found


@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.9])
@pytest.mark.parametrize("size", [(32, 32), (50, 41), (20, 64)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_nothing_on_is_the_transform_of_prediction(
    crop_pct: float, size: tuple[int, int], interpolation: str
) -> None:
    spec = InputSpec(32, SPEC.mean, SPEC.std, crop_pct, interpolation)
    transform = training_transform(AugmentSection(), spec)
    assert transform.key is not None
    assert not draws(AugmentSection(erase=0.5))
    expected = EvalTransform(32, crop_pct, interpolation)(image(size=size))
    assert torch.equal(transform(image(size=size)), expected)


def test_a_certain_flip_flips() -> None:
    assert torch.equal(made(flip=1.0), made().flip(2))
    assert torch.equal(made(flip=1.0, crop="resized", scale=(1.0, 1.0)).flip(2),
                       made(flip=0.0, crop="resized", scale=(1.0, 1.0)))  # fmt: skip


def test_a_padded_crop_is_a_window_of_the_padded_image() -> None:
    whole = torch.nn.functional.pad(made(), (4, 4, 4, 4))
    windows = {
        whole[:, top : top + 32, left : left + 32].numpy().tobytes()
        for top in range(9)
        for left in range(9)
    }
    found = {made(seed, crop="padded").numpy().tobytes() for seed in range(12)}
    assert found <= windows
    assert len(found) > 5


EACH: list[dict[str, Any]] = [
    {"crop": "resized"},
    {"crop": "padded"},
    {"flip": 0.5},
    {"color_jitter": 0.4},
    {"auto_augment": "rand-m9-mstd0.5-inc1"},
    {"auto_augment": "augmix-m5-w4-d2"},
    {"auto_augment": "original", "crop": "padded", "flip": 0.5},
]


@pytest.mark.parametrize("settings", EACH)
def test_it_draws_from_the_seeded_generators_alone(settings: dict[str, Any]) -> None:
    section = AugmentSection.model_validate(settings)
    assert draws(section)
    assert training_transform(section, SPEC).key is None
    found = [made(seed, size=(40, 36), **settings) for seed in range(10)]
    again = [made(seed, size=(40, 36), **settings) for seed in range(10)]
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert len({f.numpy().tobytes() for f in found}) > 1


BAD = [
    ({"auto_augment": "rnd-m9"}, "auto_augment", "rnd-m9"),
    ({"auto_augment": "rand-q9"}, "auto_augment", "rand-q9"),
    ({"auto_augment": "original", "color_jitter": 0.4}, "color_jitter", 0.4),
]


@pytest.mark.parametrize(("settings", "key", "value"), BAD)
def test_mistakes(settings: dict[str, Any], key: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        training_transform(AugmentSection.model_validate(settings), SPEC)
    assert (caught.value.key, caught.value.value) == (("augment", key), value)
    assert caught.value.allowed
    assert "\n" not in str(caught.value)
