"""The exported student: a folder with its weights, its input settings and its class names.

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
from torch import Tensor, nn

from cosup.data.images import to_rgb
from cosup.data.transforms import Transform, eval_transform
from cosup.errors import UserError
from cosup.files import save_tensors, write_atomic, write_json
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.clip import encoder_in
from cosup.models.compute import Compute, resolve_device, resolve_precision
from cosup.models.heads import HeadBank, head_bank
from cosup.models.networks import Backbone, load_backbone
from cosup.models.section import BackboneSection
from cosup.models.weights import hash_tensors

HEAD, NETWORK, SETTINGS, CARD = "head.safetensors", "model.safetensors", "student.json", "README.md"


@dataclass(frozen=True)
class ExportedStudent:
    """A trained student.

    model: uint8 images [B, 3, H, W] -> logits [B, C]. classes: names of the columns of
    probabilities. meta: whether it went through the meta stage of few-shot learning, after which
    its classifier is out of date and only `embed` is useful.
    """

    model: "HeadOnBackbone | Classifier"
    transform: Transform
    classes: tuple[str, ...]
    meta: bool = False

    @torch.inference_mode()
    def predict(self, images: Sequence[Image.Image]) -> Tensor:
        """Predict class probabilities [N, C] of PIL images of any mode and size.

        Raises `UserError` after a meta stage.
        """
        if self.meta:
            raise UserError(
                "this student went through the meta stage and no longer classifies its base "
                "classes; use embed(images) and the nearest centroid"
            )
        logits: Tensor = self.model(self._pixels(images))
        return logits.float().softmax(1).cpu()

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return embeddings [N, D]: the pooled features that its last layer reads."""
        return self.model.embed(self._pixels(images)).float().cpu()

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.stack([self.transform(to_rgb(image)) for image in images])


class HeadOnBackbone(nn.Module):
    """uint8 images [B, 3, H, W] -> logits [B, C] of a head on a frozen backbone."""

    def __init__(self, backbone: Backbone, head: HeadBank) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, on the CPU."""
        logits: Tensor = self.head(self.backbone(images).cpu())
        return logits[0]

    def embed(self, images: Tensor) -> Tensor:
        """Return the backbone's features [B, D]."""
        features: Tensor = self.backbone(images)
        return features


def save_student(
    folder: Path,
    head: Mapping[str, Tensor],
    backbone: BackboneSection,
    weights: str,
    classes: Sequence[str],
    card: str,
) -> None:
    """Write the folder of a head: its weights, settings and model card (Markdown).

    The backbone's weights are referenced, not copied; `weights` is their hash.
    """
    save_tensors(folder / HEAD, head)
    _describe(folder, {"backbone": backbone.model_dump(), "weights": weights}, classes, card)


def save_network(
    folder: Path,
    network: Mapping[str, Tensor],
    backbone: BackboneSection,
    classes: Sequence[str],
    card: str,
    meta: bool = False,
) -> None:
    """Write the folder of a whole network: weights under timm's names, settings, model card."""
    save_tensors(folder / NETWORK, network)
    _describe(folder, {"backbone": backbone.model_dump(), "meta": meta}, classes, card)


def load_student(folder: str | Path, device: str = "auto") -> ExportedStudent:
    """Load the student in a run's `student` folder.

    Raises `UserError` if the folder is not an exported student, or if the backbone's weights are
    not those that the head was trained on.
    """
    folder = Path(folder)
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
        whole = (folder / NETWORK).exists()
        tensors = load_file(folder / (NETWORK if whole else HEAD))
        section = BackboneSection.model_validate(settings["backbone"])
        classes = tuple(settings["classes"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        problem = f"is not an exported student ({error})"
        raise UserError(problem, where=str(folder)) from None
    where = resolve_device(device)
    if whole:
        built = encoder_in(folder, section)
        network = build_classifier(built.name, len(classes), None, built.image_size)
        try:
            network.model.load_state_dict(tensors)
        except RuntimeError as error:
            text = " ".join(str(error).split())[:200]
            problem = f"{NETWORK} does not fit {section.name} ({text})"
            raise UserError(problem, where=str(folder)) from None
        network.to(where).eval()
        return ExportedStudent(
            network, eval_transform(network.input), classes, bool(settings["meta"])
        )
    compute = Compute(where, resolve_precision("auto", where))
    backbone = load_backbone(encoder_in(folder, section), compute)
    if settings["weights"] != hash_tensors(backbone.model.state_dict()):
        problem = f"the backbone {section.name} has other weights than those it was trained on"
        raise UserError(problem, where=str(folder))
    model = HeadOnBackbone(backbone, head_bank(tensors))
    return ExportedStudent(model, eval_transform(backbone.input), classes)


def _describe(folder: Path, settings: Mapping[str, Any], classes: Sequence[str], card: str) -> None:
    write_json(folder / SETTINGS, {**settings, "classes": list(classes)})
    write_atomic(folder / CARD, card.encode())
