"""The model of a teacher, and what a teacher is made of: its model and its training."""

from dataclasses import dataclass, field, replace

from pydantic import Field, model_validator

from cosup.errors import UserError, within
from cosup.models.section import BackboneSection, TrainingSection
from cosup.sections import Section
from cosup.settings.teachers import KindMatch, TeacherTraits, match_kind
from cosup.words import literal

__all__ = ["DEFAULT_SETUP", "TeacherModelSection", "TeacherSetup"]


class TeacherModelSection(Section):
    """The weak model. `name` selects the kind of teacher."""

    name: str
    """`linear_pixels`, `linear_features`, `call:MODULE:FUNCTION` (a Python function: images uint8
    [B, 3, H, W] -> probabilities [B, C]), a kind of an installed package, or else a network: a timm
    name, `hf-hub:owner/model`, or cosup's own `cifar_NAME`.
    """
    size: int = Field(default=8, ge=1)
    """`linear_pixels`: side in pixels of the small grey images."""
    backbone: BackboneSection | None = None
    """`linear_features`: the weak backbone whose frozen features the linear model reads."""
    weights: str | None = None
    """Networks: initial weights, given as for a backbone; null trains from scratch."""
    image_size: int | None = Field(default=None, ge=8)
    """Networks and functions: side of the square input in pixels; null: the network's default."""
    checkpoint: str | None = None
    """Networks: file of a trained classifier over the task's classes, in their order; it is used
    unchanged. `{name}` in it is replaced by the teacher's name."""

    @model_validator(mode="after")
    def _fits_kind(self) -> "TeacherModelSection":
        with within("name"):
            traits = self.traits
        for key in traits.required:
            if getattr(self, key) is None:
                raise UserError(f"must be given with name {literal(self.name)}", key=key)
        return self

    @property
    def traits(self) -> type[TeacherTraits]:
        """The traits of the kind of teacher. Raises `UserError` for a misspelt kind."""
        return self.match.traits

    @property
    def features(self) -> BackboneSection | None:
        """The backbone whose frozen features it reads, if it does."""
        return self.backbone if "backbone" in self.traits.required else None

    def reading(self, backbone: BackboneSection) -> "TeacherModelSection":
        """Return the same model, reading the features of this backbone."""
        return self.model_copy(update={"backbone": backbone})

    @property
    def match(self) -> KindMatch:
        """The kind of teacher that `name` selects. Raises `UserError` for a misspelt kind."""
        return match_kind(self.name)


DEFAULT_MODEL = TeacherModelSection(name="linear_pixels")
DEFAULT_TRAINING = TrainingSection(steps=1000)


@dataclass(frozen=True)
class TeacherSetup:
    """The model and the training of a teacher of the hierarchy.

    model_key, training_key: where they stand in the config, for errors. Setups are equal if model
    and training are.
    """

    model: TeacherModelSection = DEFAULT_MODEL
    training: TrainingSection = DEFAULT_TRAINING
    model_key: str = field(default="teachers.model", compare=False)
    training_key: str = field(default="teachers.training", compare=False)

    @property
    def trained(self) -> bool:
        """Whether the run trains it on labelled samples; else it is used as it is."""
        return self.model.traits.needs_labelled_samples and self.model.checkpoint is None

    def with_steps(self, steps: int) -> "TeacherSetup":
        """Return the same with another number of training steps."""
        training = self.training.model_copy(update={"steps": steps, "epochs": None})
        return replace(self, training=training)

    def resembles(self, other: "TeacherSetup") -> bool:
        """Whether the two differ in the length of their training at most."""
        return self.with_steps(1) == other.with_steps(1)


DEFAULT_SETUP = TeacherSetup()
