"""Corruptions do what their names say, more with each strength, and the same for one sample."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image

from cosup.data.corruptions import CORRUPTIONS, CorruptedImages, corrupt
from cosup.data.images import ArrayImages

PIXELS = np.ascontiguousarray(load_sample_image("china.jpg")[100:324, 200:424])
PHOTO = Image.fromarray(PIXELS)


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def error(kind: str, strength: int) -> float:
    return float(np.abs(array(corrupt(PHOTO, kind, strength, "a")) - PIXELS).mean())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_strength_changes_more(kind: str) -> None:
    errors = [error(kind, strength) for strength in range(1, 6)]
    assert errors == sorted(errors)
    assert errors[0] > 1


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_image_keeps_its_size_and_the_original_is_untouched(kind: str) -> None:
    image = PHOTO.crop((0, 0, 50, 31))
    before = array(image)
    found = corrupt(image, kind, 5, "a")
    assert (found.mode, found.size) == ("RGB", (50, 31))
    assert (array(image) == before).all()


def test_noise_has_the_published_deviation_and_belongs_to_the_sample() -> None:
    grey = Image.new("RGB", (300, 300), (128, 128, 128))
    for strength, wanted in enumerate((0.08, 0.12, 0.18), start=1):
        noise = array(corrupt(grey, "noise", strength, "a")) / 255 - 128 / 255
        assert noise.std() == pytest.approx(wanted, rel=0.01)  # 270,000 draws
        assert abs(noise.mean()) < 0.001
    one, other = (array(corrupt(grey, "noise", 3, name)) for name in "ab")
    assert (one == array(corrupt(grey, "noise", 3, "a"))).all()
    assert (one != other).mean() > 0.9


def test_contrast_is_the_distance_from_the_mean_colour() -> None:
    mean = PIXELS.reshape(-1, 3).mean(0)
    for strength, left in enumerate((0.4, 0.3, 0.2, 0.1, 0.05), start=1):
        wanted = (PIXELS - mean) * left + mean
        assert np.abs(array(corrupt(PHOTO, "contrast", strength, "a")) - wanted).max() <= 0.5 + 1e-9


def test_blur_grows_with_the_image() -> None:
    """It is the Gaussian that Pillow approximates by boxes: within two grey levels on average."""
    wanted = np.stack([gaussian_filter(PIXELS[..., c].astype(float), 3.0) for c in range(3)], -1)
    assert np.abs(array(corrupt(PHOTO, "blur", 3, "a")) - wanted)[12:-12, 12:-12].mean() < 2
    large = PHOTO.resize((448, 448), Image.Resampling.BICUBIC)
    again = corrupt(large, "blur", 3, "a").resize((224, 224), Image.Resampling.BOX)
    assert np.abs(array(again) - array(corrupt(PHOTO, "blur", 3, "a"))).mean() < 2


def test_jpeg_is_a_file_of_that_quality() -> None:
    content = io.BytesIO()
    PHOTO.save(content, "JPEG", quality=15)
    assert (array(corrupt(PHOTO, "jpeg", 3, "a")) == array(Image.open(content))).all()


def test_fingerprints_tell_corruptions_and_samples_apart() -> None:
    images = ArrayImages("photo", np.stack([PIXELS, PIXELS[::-1]]))
    names = {0: "a", 1: "b"}
    order = np.array([0, 1])
    prints = {
        CorruptedImages(images, *about).fingerprint(order)
        for about in (
            ("noise", 1, names),
            ("noise", 2, names),
            ("blur", 1, names),
            ("noise", 1, {0: "a", 1: "c"}),
        )
    }
    assert len(prints | {images.fingerprint(order)}) == 5
    found = CorruptedImages(images, "noise", 1, names)
    assert (array(found.read(1)) == array(corrupt(images.read(1), "noise", 1, "b"))).all()
