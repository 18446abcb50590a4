"""The `student` section: the strong model and its training."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cosup.config.rounds import LossChoice
from cosup.data.section import MOST_IN_EPISODE, MOST_PER_EPISODE, check_episode
from cosup.errors import UserError, raise_all, within
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import MOST_SCALE, BackboneSection, HeadSection
from cosup.models.training_section import MOST_RATE, MOST_STEPS, AugmentSection, TrainingSection
from cosup.sections import Section
from cosup.words import literal


class MetaSection(Section):
    """The meta stage of few-shot learning: the trained student learns from episodes of the base
    classes to tell a few classes apart by a few examples ("Meta-Baseline", Chen et al., arXiv
    2003.04390)."""

    steps: int = Field(default=500, gt=0, le=MOST_STEPS)
    """Optimiser steps, each of `episodes_per_step` episodes."""
    episodes_per_step: int = Field(default=1, gt=0, le=1000)
    """Episodes per optimiser step (published: 4). All of their images are one batch, of at most
    100,000 images."""
    ways: int = Field(default=5, ge=2, le=MOST_PER_EPISODE)
    """Classes per episode. All images of an episode are one batch."""
    shots: int = Field(default=1, gt=0, le=MOST_PER_EPISODE)
    """Examples per class."""
    queries: int = Field(default=15, gt=0, le=MOST_PER_EPISODE)
    """Further images per class, which are classified."""
    scale: float = Field(default=10.0, gt=0, le=MOST_SCALE)
    """Initial factor (inverse temperature) of the cosines; it is learned. Beyond 10,000 only the
    nearest class counts."""
    optimizer: str = "sgd"
    """Any optimiser of timm."""
    lr: float = Field(default=1e-3, gt=0, le=MOST_RATE)
    """The constant learning rate."""
    weight_decay: float = Field(default=5e-4, ge=0, le=MOST_RATE)
    """Weight decay."""
    loss: LossChoice | None = None
    """The loss; null: `rounds.loss`."""
    augment: AugmentSection | None = None
    """Augmentation of the images of episodes (published: none); null: that of `training`."""
    teacher: Literal["annotations", "centroids", "meta_centroids"] = "annotations"
    """What the student learns of a query beside its way: its annotation, restricted to the classes
    of the episode; or the answer of the one teacher by its own centroids of the episode, as it is
    (`centroids`, published), or after a meta stage of its own on the same episodes
    (`meta_centroids`, published as a variant)."""

    @model_validator(mode="after")
    def _fits_memory(self) -> "MetaSection":
        check_episode(self.ways, self.shots, self.queries)
        if self.images_per_step > MOST_IN_EPISODE:
            raise UserError(
                f"makes {self.images_per_step:,} images per step",
                key="episodes_per_step",
                value=self.episodes_per_step,
                allowed=f"at most {MOST_IN_EPISODE:,} images",
            )
        return self

    @property
    def images_per_step(self) -> int:
        """The images of a step."""
        return self.ways * (self.shots + self.queries) * self.episodes_per_step

    def training(self) -> TrainingSection:
        """Return the settings as a training section."""
        return TrainingSection(
            steps=self.steps,
            batch_size=self.images_per_step,
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule="constant",
        )


class StudentSection(Section):
    """The strong model."""

    mode: Literal["head", "finetune"] = "head"
    """`head`: a head on the backbone's frozen features. `finetune`: the whole network, on images.
    """
    backbone: BackboneSection
    """The network, pretrained or (weights: null) randomly initialised."""
    head: HeadSection = HeadSection()
    """The head that is trained on its features (`finetune`: linear only)."""
    training: TrainingSection = TrainingSection(steps=1000)
    """The training in each round."""
    meta: MetaSection | None = None
    """The meta stage after each round (`data.few_shot`); null: none."""
    cross_fit: Annotated[int, Field(ge=0, le=100)] | Literal["auto"] = "auto"
    """Folds for cross-fitted predictions (0: the student predicts its own training samples; each
    fold trains a student, and with 100 it lacks 1 % of the samples). auto:
    5 for a head and 2 for a network where an assigner takes the student for a source, else 0; after
    the last round a head is cross-fitted in any case, for `labels.parquet`."""

    @field_validator("cross_fit")
    @classmethod
    def _folds(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value == 1:
            raise UserError("must be {allowed}", value=value, allowed="0, or at least 2 folds")
        return value

    @model_validator(mode="after")
    def _fits_mode(self) -> "StudentSection":
        with within("training"):
            if self.mode == "head":
                self.training.check_head(untrained=self.head.init == "text")
            else:
                self.training.check_network()
        if self.mode == "finetune":
            raise_all(self._network_mistakes())
        if self.mode == "head" and self.meta is not None:
            raise UserError("needs mode 'finetune': a head does not change the network", key="meta")
        if self.head.hidden and self.training.optimizer == "lbfgs":
            raise UserError(
                "finds the minimum of a linear head, and one with hidden layers has many",
                key="training.optimizer",
                value="lbfgs",
                allowed="adam, adamw",
            )
        if self.mode == "head" and self.head.reads_text:
            raise_all(self._text_mistakes())
        return self

    def _network_mistakes(self) -> Iterator[UserError]:
        """Check the settings of heads on frozen features, which a whole network does not have."""
        if self.head.kind != "linear":
            yield UserError(
                "must be {allowed} with mode 'finetune'",
                key="head.kind",
                value=self.head.kind,
                allowed="linear",
            )
        if self.head.start is not None:
            yield UserError(
                "is for mode 'head': the classifier of a network starts as its library has it",
                key="head.start",
                value=self.head.start,
                allowed="null",
            )
        if self.head.hidden:
            yield UserError(
                "is for mode 'head': a network has its own classifier",
                key="head.hidden",
                value=self.head.hidden,
                allowed="0",
            )
        for name in self.backbone.of_frozen:
            yield UserError(
                "is for mode 'head': a network is trained with the input and the layers it has",
                key=f"backbone.{name}",
                value=getattr(self.backbone, name),
            )

    def _text_mistakes(self) -> Iterator[UserError]:
        """Check that features are comparable with text features, which are in CLIP's own space."""
        if not self.backbone.name.startswith(OPEN_CLIP):
            yield UserError(
                "needs a backbone with a text encoder, {allowed}, not "
                + literal(self.backbone.name),
                key="head.init",
                value=self.head.init,
                allowed=f"{OPEN_CLIP}MODEL@WEIGHTS",
            )
        if self.training.standardize:
            yield UserError(
                "would scale the features, but not the text features",
                key="training.standardize",
                value=True,
                allowed="false",
            )
        if self.head.init == "prompts" and self.training.optimizer == "lbfgs":
            yield UserError(
                "encodes all prompts at each try of its line search",
                key="training.optimizer",
                value="lbfgs",
                allowed="adam or adamw, with head.init 'prompts'",
            )
