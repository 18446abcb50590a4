"""The exported student: a folder that holds the head, what it reads, and its class names.

student = load_student("outputs/quickstart/student")
probs = student.predict([Image.open("some.png")])      # [1, C], columns as student.classes
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cosup.data.images import to_rgb
from cosup.data.transforms import EvalTransform, Transform
from cosup.errors import UserError
from cosup.files import save_tensors, write_atomic, write_json
from cosup.models.backbones import Backbone, hash_tensors, load_backbone
from cosup.models.device import resolve_device, resolve_precision
from cosup.models.heads import HeadBank, head_bank
from cosup.models.section import BackboneSection

HEAD, SETTINGS, CARD = "head.safetensors", "student.json", "README.md"


@dataclass(frozen=True)
class ExportedStudent:
    """A trained student. classes: the names of the probabilities' columns."""

    backbone: Backbone
    head: HeadBank
    transform: Transform
    classes: tuple[str, ...]

    @torch.inference_mode()
    def predict(self, images: Sequence[Image.Image]) -> Tensor:
        """Class probabilities [N, C] of PIL images of any mode and size."""
        pixels = torch.stack([self.transform(to_rgb(image)) for image in images])
        logits = self.head(self.backbone(pixels.to(self.backbone.device)).cpu())
        return logits[0].softmax(1)  # type: ignore[no-any-return]


def save_student(
    folder: Path,
    head: Mapping[str, Tensor],
    backbone: BackboneSection,
    weights: str,
    classes: Sequence[str],
    card: str,
) -> None:
    """Write the folder: head weights, what they stand on, and the model card (Markdown).

    The backbone's own weights are named, not copied; `weights` is their hash.
    """
    save_tensors(folder / HEAD, head)
    settings = {
        "backbone": backbone.model_dump(),
        "weights": weights,
        "classes": list(classes),
    }
    write_json(folder / SETTINGS, settings)
    write_atomic(folder / CARD, card.encode())


def load_student(folder: str | Path, device: str = "auto") -> ExportedStudent:
    """The student in a run's `student` folder.

    Raises `UserError` if the folder isn't one, or the backbone's weights are no longer those that
    the head was trained on.
    """
    folder = Path(folder)
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
        head = head_bank(load_file(folder / HEAD))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: not an exported student ({error})") from None
    where = resolve_device(device)
    section = BackboneSection.model_validate(settings["backbone"])
    backbone = load_backbone(section, where, resolve_precision("auto", where))
    if settings["weights"] != hash_tensors(backbone.model.state_dict()):
        raise UserError(
            f"{folder}: the backbone {section.name} has other weights than those it was trained on"
        )
    return ExportedStudent(backbone, head, eval_transform(backbone), tuple(settings["classes"]))


def eval_transform(backbone: Backbone) -> EvalTransform:
    """How images are prepared for a backbone."""
    spec = backbone.input
    return EvalTransform(spec.size, spec.crop_pct, spec.interpolation)
