"""The exported student: a folder with its weights, its input settings and its class names.

student = load_student("outputs/quickstart/student")
probs = student.predict("some.png")                # [1, C], columns as student.classes
probs = student.predict(paths, batch_size=256)     # [N, C]; also PIL images and uint8 tensors
probs = student.predict(paths, team=True)          # together with its teachers
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cosup.data.given import GivenImages, OneImage, decode_batches, given_images
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
BATCH = 64
READERS = min(8, os.cpu_count() or 1)
"""Threads that decode files."""


@dataclass(frozen=True)
class Answers:
    """What a student says of a batch.

    places: of the n images that could be read, among all. probs: [n, C]. asked: the weights [n, T]
    of the teachers, [n, 0] without a team. broken: why the other images could not be read.
    """

    places: list[int]
    probs: Tensor
    asked: Tensor
    broken: dict[int, str]


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

    def predict(
        self, images: OneImage | Sequence[OneImage], team: bool = False, batch_size: int = BATCH
    ) -> Tensor:
        """Predict class probabilities [N, C].

        images: one or many of paths, PIL images of any mode and size and uint8 tensors [3, H, W],
        or a uint8 tensor [N, 3, H, W]. team: together with the teachers, as `predict_team`.
        batch_size: images that are decoded and predicted at once; memory grows with it alone.
        Raises `UserError` for an image that cannot be read, and after a meta stage.
        """
        return self._predict(images, team, batch_size)[0]

    def predict_team(
        self, images: OneImage | Sequence[OneImage], batch_size: int = BATCH
    ) -> tuple[Tensor, Tensor]:
        """Predict together with the teachers, and tell which of them were asked.

        images, batch_size: as for `predict`. Returns the class probabilities [N, C], the normalised
        product of those of student and team with the exponents that the run fitted, and the weights
        [N, T] of the teachers, columns as `team.names`. Raises `UserError` for a student without a
        team, and for an image that cannot be read.
        """
        return self._predict(images, True, batch_size)

    def answers(
        self, images: GivenImages, team: bool = False, batch_size: int = BATCH
    ) -> Iterator[Answers]:
        """Yield the answers to batches of images in order; broken images are left out and named.

        Raises `UserError` after a meta stage, and for a student without a team if `team`.
        """
        if self.meta:
            raise UserError(
                "this student went through the meta stage and no longer classifies its base "
                "classes; use embed(images) and the nearest centroid"
            )
        names = len(self.team.names) if team else 0
        for batch in decode_batches(images, self.transform, batch_size, READERS):
            probs, asked = torch.zeros(0, len(self.classes)), torch.zeros(0, names)
            if batch.pixels is not None:
                probs, features = self._alone(batch.pixels)
                asked = torch.zeros(len(probs), 0)
                if team:
                    given = images.part(batch.places)
                    probs, asked = self.team.predict(given, probs, features)
            yield Answers(batch.places, probs, asked, batch.broken)

    @torch.inference_mode()
    def _alone(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the student's probabilities of a batch, and the features that a head reads."""
        if isinstance(self.model, HeadOnBackbone):
            features = self.model.embed(pixels).cpu()
            logits: Tensor = self.model.head(features)[0]
        else:
            features, logits = None, self.model(pixels)
        return logits.float().softmax(1).cpu(), None if features is None else features.float()

    def _predict(
        self, images: OneImage | Sequence[OneImage], team: bool, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        parts = [torch.zeros(0, len(self.classes))]
        asked = [torch.zeros(0, len(self.team.names) if team else 0)]
        for answers in self.answers(given_images(images), team, batch_size):
            _raise_broken(answers.broken)
            parts.append(answers.probs)
            asked.append(answers.asked)
        return torch.cat(parts), torch.cat(asked)

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
    def embed(self, images: OneImage | Sequence[OneImage], batch_size: int = BATCH) -> Tensor:
        """Return embeddings [N, D]: the pooled features that its last layer reads.

        images, batch_size: as for `predict`. Raises `UserError` for an image that cannot be read,
        and for no image.
        """
        parts = []
        for batch in decode_batches(given_images(images), self.transform, batch_size, READERS):
            _raise_broken(batch.broken)
            assert batch.pixels is not None
            parts.append(self.model.embed(batch.pixels).float().cpu())
        if not parts:
            raise UserError("no image is given", key="images")
        return torch.cat(parts)


def _raise_broken(broken: Mapping[int, str]) -> None:
    """Raise `UserError` about the first image that could not be read, if there is one."""
    for reason in broken.values():
        raise UserError(f"cannot read {reason}")


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
