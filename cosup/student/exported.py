"""The exported student: a folder with its weights, its input settings and its class names.

student = load_student("outputs/quickstart/student")
probs = student.predict([Image.open("some.png")])      # [1, C], columns as student.classes
probs = student.predict([Image.open("some.png")], team=True)      # together with its teachers
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from cosup.student.team import ExportedTeam, load_team

HEAD, NETWORK, SETTINGS, CARD = "head.safetensors", "model.safetensors", "student.json", "README.md"
TEAM = "team"
"""The folder of the team, within that of the student."""


@dataclass(frozen=True)
class ExportedStudent:
    """A trained student.

    model: uint8 images [B, 3, H, W] -> logits [B, C]. classes: names of the columns of
    probabilities. meta: whether it went through the meta stage of few-shot learning, after which
    its classifier is out of date and only `embed` is useful. folder: where it was loaded from, with
    its team. no_team: why it was exported without one.
    """

    model: "HeadOnBackbone | Classifier"
    transform: Transform
    classes: tuple[str, ...]
    meta: bool = False
    folder: Path | None = None
    no_team: str | None = None

    @torch.inference_mode()
    def predict(self, images: Sequence[Image.Image], team: bool = False) -> Tensor:
        """Predict class probabilities [N, C] of PIL images of any mode and size.

        team: together with the teachers, as `predict_team`. Raises `UserError` after a meta stage.
        """
        if team:
            return self.predict_team(images)[0]
        if self.meta:
            raise UserError(
                "this student went through the meta stage and no longer classifies its base "
                "classes; use embed(images) and the nearest centroid"
            )
        logits: Tensor = self.model(self._pixels(images))
        return logits.float().softmax(1).cpu()

    def predict_team(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Predict together with the teachers, and tell which of them were asked.

        Returns the class probabilities [N, C], the normalised product of those of student and team
        with the exponents that the run fitted, and the weights [N, T] of the teachers, columns as
        `team.names`. Raises `UserError` for a student without a team.
        """
        if not isinstance(self.model, HeadOnBackbone):
            return self.team.predict(images, self.predict(images))
        with torch.inference_mode():
            features = self.embed(images)
            own = self.model.head(features)[0].float().softmax(1).cpu()
        return self.team.predict(images, own, features)

    @cached_property
    def team(self) -> ExportedTeam:
        """The team, loaded when it is first used. Raises `UserError` as `load_team` does."""
        where = str(self.folder)
        if self.folder is None or self.no_team is not None:
            raise UserError(f"the student has no team: {self.no_team}", where=where)
        if not (self.folder / TEAM).is_dir():
            raise UserError("the student was exported without its team", where=where)
        device = next(self.model.parameters()).device
        return load_team(self.folder / TEAM, self.classes, device)

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
    no_team: str | None = None,
) -> None:
    """Write the folder of a head: its weights, settings and model card (Markdown).

    The backbone's weights are referenced, not copied; `weights` is their hash. no_team: why there
    is no team.
    """
    save_tensors(folder / HEAD, head)
    about = {"backbone": backbone.model_dump(), "weights": weights, "no_team": no_team}
    _describe(folder, about, classes, card)


def save_network(
    folder: Path,
    network: Mapping[str, Tensor],
    backbone: BackboneSection,
    classes: Sequence[str],
    card: str,
    meta: bool = False,
    no_team: str | None = None,
) -> None:
    """Write the folder of a whole network: weights under timm's names, settings, model card.

    no_team: why there is no team.
    """
    save_tensors(folder / NETWORK, network)
    about = {"backbone": backbone.model_dump(), "meta": meta, "no_team": no_team}
    _describe(folder, about, classes, card)


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
            network,
            eval_transform(network.input),
            classes,
            bool(settings["meta"]),
            folder,
            settings.get("no_team"),
        )
    compute = Compute(where, resolve_precision("auto", where))
    backbone = load_backbone(encoder_in(folder, section), compute)
    if settings["weights"] != hash_tensors(backbone.model.state_dict()):
        problem = f"the backbone {section.name} has other weights than those it was trained on"
        raise UserError(problem, where=str(folder))
    model = HeadOnBackbone(backbone, head_bank(tensors))
    return ExportedStudent(
        model,
        eval_transform(backbone.input),
        classes,
        folder=folder,
        no_team=settings.get("no_team"),
    )


def _describe(folder: Path, settings: Mapping[str, Any], classes: Sequence[str], card: str) -> None:
    write_json(folder / SETTINGS, {**settings, "classes": list(classes)})
    write_atomic(folder / CARD, card.encode())
