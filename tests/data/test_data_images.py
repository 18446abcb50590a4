"""Tests of image collections and of the conversion to upright 8-bit RGB."""

import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cosup.data.images import (
    ArrayImages,
    BrokenImage,
    FileImages,
    RotatedImages,
    read_image,
    to_rgb,
)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 32768], [40000, 65279, 65535, 1000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    got = np.asarray(read_image(str(tmp_path / "deep.png")))
    np.testing.assert_array_equal(got[..., 0], np.round(values / 257).astype(np.uint8))
    assert (got == got[..., :1]).all()


def test_sixteen_bit_in_a_32_bit_container_is_the_same(tmp_path: Path) -> None:
    values = np.array([[0, 65535, 30000]], np.int32)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    got = np.asarray(read_image(str(tmp_path / "deep.tif")))
    np.testing.assert_array_equal(got[0, :, 0], [0, 255, 117])


@pytest.mark.parametrize("values", [np.array([[70000]], np.int32), np.array([[0.5]], np.float32)])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "odd.tif")
    with pytest.raises(BrokenImage, match=r"odd\.tif"):
        read_image(str(tmp_path / "odd.tif"))


def test_transparency_shows_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = [255, 0, 128]
    got = np.asarray(to_rgb(Image.fromarray(pixels, "RGBA")))[0]
    assert got[0].tolist() == [200, 0, 0]
    assert got[1].tolist() == [255, 255, 255]
    # Half covered: the average of the colour and white.
    np.testing.assert_allclose(got[2], [227, 127, 127], atol=1)


def test_palette_and_grey_transparency_show_white(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=1)
    got = np.asarray(read_image(str(tmp_path / "p.png")))[0]
    assert got.tolist() == [[10, 20, 30], [255, 255, 255]]
    Image.fromarray(np.array([[7, 9]], np.uint8)).save(tmp_path / "l.png", transparency=9)
    got = np.asarray(read_image(str(tmp_path / "l.png")))[0]
    assert got.tolist() == [[7, 7, 7], [255, 255, 255]]


def test_grey_palette_bilevel_and_cmyk() -> None:
    assert to_rgb(Image.new("L", (1, 1), 77)).getpixel((0, 0)) == (77, 77, 77)
    assert to_rgb(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)
    assert to_rgb(Image.new("LA", (1, 1), (9, 255))).getpixel((0, 0)) == (9, 9, 9)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    got = np.asarray(read_image(str(tmp_path / "turned.png")))
    np.testing.assert_array_equal(got, np.rot90(pixels, -1))


def test_broken_files_are_named_with_the_reason(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(good)
    (tmp_path / "text.jpg").write_text("I am not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:2000])
    for name, reason in [
        ("text.jpg", "not an image"),
        ("empty.png", "not an image"),
        ("cut.png", "truncated"),
        ("none.png", "no such file"),
    ]:
        with pytest.raises(BrokenImage) as caught:
            read_image(str(tmp_path / name))
        assert name in str(caught.value)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_exif_does_not_lose_the_image(tmp_path: Path) -> None:
    path = tmp_path / "exif.png"
    Image.new("RGB", (2, 2), (1, 2, 3)).save(path)
    data = path.read_bytes()
    chunk = b"eXIf" + b"II*\x00\xff\xff\xff\xffgarbage"
    packed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data[:33] + packed + data[33:])
    assert read_image(str(path)).getpixel((0, 0)) == (1, 2, 3)


def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    for n in range(20):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{n}.png")
    (tmp_path / "19.png").write_bytes(b"broken")
    images = FileImages(tmp_path, [f"{n}.png" for n in range(20)])
    before = len(os.listdir("/proc/self/fd"))
    kept = [images.read(n) for n in range(19)]
    with pytest.raises(BrokenImage):
        images.read(19)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(kept) == 19


def test_fingerprints_depend_on_content_and_order(tmp_path: Path) -> None:
    for n in range(3):
        Image.new("RGB", (4, 4), (n, n, n)).save(tmp_path / f"{n}.png")
    images = FileImages(tmp_path, ["0.png", "1.png", "2.png"])
    first = images.fingerprint(np.array([0, 1, 2]))
    assert first == images.fingerprint(np.array([0, 1, 2]))
    assert first != images.fingerprint(np.array([1, 0, 2]))
    Image.new("RGB", (40, 40)).save(tmp_path / "1.png")
    assert first != images.fingerprint(np.array([0, 1, 2]))
    pixels = np.zeros((3, 2, 2), np.uint8)
    other = pixels.copy()
    other[2, 1, 1] = 1
    order = np.arange(3)
    assert ArrayImages("a", pixels).fingerprint(order) != ArrayImages("a", other).fingerprint(order)


def test_images_are_rotated_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    images = RotatedImages("a", pixels, [0, 30, 90])
    rotate, angles = Image.Image.rotate, list[float]()

    def counted(self: Image.Image, angle: float, *arguments: Any) -> Image.Image:
        angles.append(angle)
        return rotate(self, angle, *arguments)

    monkeypatch.setattr(Image.Image, "rotate", counted)
    assert len(images) == 15
    order = np.arange(15)
    found = images.fingerprint(order)
    assert angles == []
    assert [images.read(12).tobytes() for _ in range(2)] == [
        Image.fromarray(np.rot90(pixels[2])).convert("RGB").tobytes()
    ] * 2
    assert angles == [90]
    copied = pickle.loads(pickle.dumps(images))
    assert copied.read(7).tobytes() == images.read(7).tobytes()
    assert copied.fingerprint(order) == found != images.fingerprint(order[::-1])
    assert RotatedImages("a", pixels, [0, 30, 91]).fingerprint(order) != found
    assert RotatedImages("a", pixels[::-1], [0, 30, 90]).fingerprint(order) != found
