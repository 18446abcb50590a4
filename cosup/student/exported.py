"""The exported student: a folder with its weights, its input settings and its class names.

student = load_student("outputs/quickstart/student")
probs = student.predict("some.png")                # [1, C], columns as student.classes
probs = student.predict(paths, batch_size=256)     # [N, C]; also PIL images and uint8 tensors
probs = student.predict(paths, team=True)          # together with its teachers
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from cosup.data.given import GivenImages, OneImage, decode_batches, given_images
from cosup.data.transforms import Transform, eval_transform
from cosup.errors import UserError, in_short
from cosup.models.backbone import Backbone, load_backbone
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.compute import Compute, resolve_device, resolve_precision
from cosup.models.heads import HeadBank, head_bank
from cosup.models.images import InputSpec
from cosup.models.section import BackboneSection
from cosup.models.weights import hash_tensors
from cosup.origins import obtain_below
from cosup.student.folder import HEAD, TEAM, read_settings, student_folder
from cosup.student.reading import check_fit, check_head, check_recorded, of_folder, read_tensors
from cosup.student.schema import StudentFile
from cosup.student.stored import backbone_in, check_clip
from cosup.student.team import ExportedTeam, load_team
from cosup.student.timm_folder import CONFIG, NETWORK, load_timm
from cosup.words import plural

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


@dataclass(frozen=True, repr=False)
class ExportedStudent:
    """A trained student.

    model: uint8 images [B, 3, H, W] -> logits [B, C]. classes: names of the columns of
    probabilities. meta: whether it went through the meta stage of few-shot learning, after which
    its classifier is out of date and only `embed` is useful. folder: where it was loaded from, with
    its team. no_team: why it was exported without one. packages: modules that the team may import.
    """

    model: "HeadOnBackbone | Classifier"
    transform: Transform
    classes: tuple[str, ...]
    meta: bool = False
    folder: Path | None = None
    no_team: str | None = None
    packages: tuple[str, ...] = ()

    def __repr__(self) -> str:
        place = "" if self.folder is None else f" in {self.folder}"
        return f"<student of {len(self.classes)} classes{place}>"

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
                probs, asked = self._answered(batch.pixels, images.part(batch.places), team)
            yield Answers(batch.places, probs, asked, batch.broken)

    @torch.inference_mode()
    def _answered(self, pixels: Tensor, images: GivenImages, team: bool) -> tuple[Tensor, Tensor]:
        """Return the probabilities of a batch, and the weights of the teachers that were asked."""
        if not team:
            logits = self.model(pixels)
            return logits.float().softmax(1).cpu(), torch.zeros(len(pixels), 0)
        logits, features = self.model.with_embedding(pixels)
        alone = logits.float().softmax(1).cpu()
        return self.team.predict(images, alone, features.float().cpu())

    def _predict(
        self, images: OneImage | Sequence[OneImage], team: bool, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        given = given_images(images)
        # One tensor for all: small ones between the batches would split the free memory.
        probs = torch.zeros(len(given), len(self.classes))
        asked = torch.zeros(len(given), len(self.team.names) if team else 0)
        for answers in self.answers(given, team, batch_size):
            _raise_broken(answers.broken)
            probs[answers.places], asked[answers.places] = answers.probs, answers.asked
        return probs, asked

    @cached_property
    def team(self) -> ExportedTeam:
        """The team, loaded when it is first used. Raises `UserError` as `load_team` does."""
        where = str(self.folder)
        if self.folder is None or self.no_team is not None:
            raise UserError(f"the student has no team: {self.no_team}", where=where)
        obtain_below(self.folder / TEAM)
        if not (self.folder / TEAM).is_dir():
            raise UserError("the student was exported without its team", where=where)
        device = next(self.model.parameters()).device
        return load_team(self.folder / TEAM, self.classes, device, self.packages)

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
        self.input: InputSpec = backbone.input
        self.pixels = backbone.pixels

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, on the CPU."""
        return self.with_embedding(images)[0]

    def logits(self, pixels: Tensor) -> Tensor:
        """Return logits [B, C] of normalised images, in float32."""
        logits: Tensor = self.head(self.backbone.model(pixels))
        return logits[0]

    def embed(self, images: Tensor) -> Tensor:
        """Return the backbone's features [B, D]."""
        features: Tensor = self.backbone(images)
        return features

    def with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, C] and features [B, D], on the CPU."""
        features = self.embed(images).cpu()
        return self.head(features)[0], features


def load_student(
    where: str | Path, device: str = "auto", packages: Collection[str] = ()
) -> ExportedStudent:
    """Load a student, whoever made it: nothing in its folder is run, and no pickle is read.

    where: its folder, the directory of its run, a URI of either (`s3://bucket/runs/mine`), or
    `hf-hub:owner/name[@revision]`. device: as `execution.device`. packages: modules whose code you
    trust, which the student and its team may import beside `cosup.models.trusted.PACKAGES`. Raises
    `UserError` for what is no student, a folder of a newer format, weights that are missing, not
    finite or of another network, a backbone with other weights than those that the head was trained
    on, a module that is not allowed, and a URI that cannot be used. Raises `Damaged` (a `RunError`)
    for a file that is not what was written, and `RunError` for a URI that cannot be read.
    """
    folder = student_folder(where)
    settings = read_settings(folder)
    on = resolve_device(device)
    with of_folder(folder):
        if (folder / NETWORK).is_file():
            model: HeadOnBackbone | Classifier = _network(folder, settings, on)
        else:
            model = _head(folder, settings, on, packages)
    return ExportedStudent(
        model,
        eval_transform(model.input),
        settings.classes,
        settings.meta,
        folder,
        settings.no_team,
        tuple(packages),
    )


def _network(folder: Path, settings: StudentFile, device: torch.device) -> Classifier:
    section, classes = settings.backbone, settings.classes
    state = read_tensors(folder / NETWORK, folder)
    if (folder / CONFIG).is_file():
        check_recorded(folder / CONFIG, folder)
        network = load_timm(folder, section.name, classes)
    else:
        network = _other_network(folder, section, len(classes))
    try:
        network.model.load_state_dict(state)
    except RuntimeError as error:
        problem = f"{NETWORK} does not fit {section.name} ({in_short(error)})"
        raise UserError(problem, where=str(folder)) from None
    return network.to(device).eval()


def _other_network(folder: Path, section: BackboneSection, classes: int) -> Classifier:
    """Build a network that is not timm's, or one after the meta stage, with random weights."""
    built = backbone_in(folder, section.model_copy(update={"weights": None}), folder)
    if built.name != section.name:
        check_clip(folder, folder / NETWORK, folder)

    def build() -> Classifier:
        return build_classifier(built.name, classes, None, built.image_size)

    check_fit(folder / NETWORK, section.name, lambda: build().model)
    return build()


def _head(
    folder: Path, settings: StudentFile, device: torch.device, packages: Collection[str]
) -> HeadOnBackbone:
    if not (folder / HEAD).is_file():
        problem = f"the student has no weights: neither {NETWORK} nor {HEAD}"
        raise UserError(problem, where=str(folder))
    state = read_tensors(folder / HEAD, folder)
    check_head(state, folder / HEAD, len(settings.classes))
    section = backbone_in(folder, settings.backbone, folder, packages)
    backbone = load_backbone(section, Compute(device, resolve_precision("auto", device)))
    if settings.weights != hash_tensors(backbone.model.state_dict()):
        problem = f"the backbone {section.name} has other weights than those it was trained on"
        raise UserError(problem, where=str(folder))
    head = head_bank(state)
    if head.num_features != backbone.num_features:
        problem = f"{HEAD} reads {plural(head.num_features, 'feature')}, and {section.name} has "
        raise UserError(f"{problem}{backbone.num_features}", where=str(folder))
    return HeadOnBackbone(backbone, head)
