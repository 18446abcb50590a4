"""The model of a teacher, and what a teacher is made of: its model and its training."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import Field, field_validator, model_validator

from cosup.errors import UserError, raise_all, unknown_name, within
from cosup.models.prompts import OPEN_CLIP, check_templates
from cosup.models.section import (
    MOST_PIXELS,
    BackboneSection,
    HeadSection,
    NamesAsWritten,
    Start,
    names_as_text,
)
from cosup.models.training_section import TrainingSection
from cosup.sections import Section
from cosup.settings.teachers import (
    NETWORK,
    PRETRAINED,
    ZERO_SHOT,
    KindMatch,
    TeacherTraits,
    match_kind,
)
from cosup.words import listed, literal

__all__ = ["DEFAULT_SETUP", "TeacherModelSection", "TeacherSetup"]

OF_USE = {PRETRAINED: ("classes", "least_mass"), ZERO_SHOT: ("templates", "class_names")}
"""The settings of each use, which no other model has."""


class TeacherModelSection(Section):
    """The weak model. `name` selects the kind of teacher."""

    name: str
    """`linear_pixels`, `linear_features`, `call:MODULE:FUNCTION` (a Python function: images uint8
    [B, 3, H, W] -> probabilities [B, C]), a kind of an installed package, or else a network: a timm
    name, `hf-hub:owner/model`, or cosup's own `cifar_NAME` and `few_shot_NAME`.
    """
    use: Literal["pretrained", "zero_shot"] | None = None
    """How a model is used that is not trained here. `pretrained`: a classifier as it is, over
    classes of its own. `zero_shot`: CLIP (`open_clip:MODEL@TAG`), by prompts of the class names.
    """
    size: int = Field(default=8, ge=1, le=128)
    """`linear_pixels`: side in pixels of the small grey images. All images are held in memory: of
    128 pixels each takes 64 kB."""
    backbone: BackboneSection | None = None
    """`linear_features`: the weak backbone whose frozen features the linear model reads."""
    start: Start | None = None
    """`linear_pixels`, `linear_features`: how the linear model starts, as in `student.head`; null:
    `zero`."""
    softmax: Literal["scope", "all"] = "scope"
    """Models that are trained here: over which classes. `scope`: over those of the teacher's scope.
    `all`: over all classes of the task, as published code has it; probabilities are restricted to
    the scope and scaled to sum to 1 where the teacher annotates."""
    other_classes: float = Field(default=0.0, ge=0, le=1)
    """`linear_features`, `linear_pixels`, with `softmax: all`: the chance to draw a sample of a
    class outside the scope, where one inside has 1 (a soft specialist). It needs
    `training.sampling: independent`."""
    weights: str | None = None
    """Networks: initial weights, given as for a backbone; null trains from scratch. With `use`: a
    file or `package:MODULE` in place of the published weights."""
    image_size: int | None = Field(default=None, ge=8, le=MOST_PIXELS)
    """Networks and functions: side of the square input in pixels, at most 2,048 as for a backbone;
    null: the network's default."""
    checkpoint: str | None = None
    """Networks: file of a trained classifier over the task's classes, in their order; it is used
    unchanged. `{name}` in it is replaced by the teacher's name."""
    classes: dict[str, list[int | str]] | None = None
    """`pretrained`: for each class of the task that it knows, its own classes that are a part of
    it: indices, or ImageNet's names (`{cat: [tabby, 282], dog: beagle}`). null: the classes of the
    same names, or, for a model without names, the task's classes in their order."""
    least_mass: float = Field(default=0.0, ge=0, le=1)
    """`pretrained`: it abstains where the classes of its scope have less of its probability."""
    templates: str | list[str] = HeadSection().templates
    """`zero_shot`: the prompts, as in `student.head`."""
    class_names: str | list[str] | dict[str, str] | None = None
    """`zero_shot`: the classes' names in prompts, as in `student.head`."""

    later = ("softmax", "other_classes")

    @field_validator(
        "classes",
        mode="before",
        json_schema_input_type=dict[str, int | str | list[int | str]] | None,
    )
    @classmethod
    def _lists(cls, value: object) -> object:
        """Convert names that YAML reads as numbers, and single classes to lists."""
        if not isinstance(value, dict):
            return value
        parts = {str(k): v if isinstance(v, list) else [v] for k, v in value.items()}
        for key, items in parts.items():
            if any(isinstance(item, bool) for item in items):  # it would be read as 0 or 1
                raise UserError("is no class", key=key, value=value[key], allowed="indices, names")
        return parts

    @field_validator("templates")
    @classmethod
    def _holes(cls, value: str | list[str]) -> str | list[str]:
        check_templates(value)
        return value

    @field_validator("class_names", mode="before", json_schema_input_type=NamesAsWritten)
    @classmethod
    def _names_are_texts(cls, value: object) -> object:
        return names_as_text(value)

    @model_validator(mode="after")
    def _fits_kind(self) -> "TeacherModelSection":
        with within("name"):
            traits = self.traits
        for key in traits.required:
            if getattr(self, key) is None:
                raise UserError(f"must be given with name {literal(self.name)}", key=key)
        if self.start is not None and traits.training != "head":
            raise UserError("is for linear models", key="start", value=self.start)
        if self.softmax != "scope" and not (traits.needs_labelled_samples and not self.checkpoint):
            raise UserError("is for models that are trained", key="softmax", value=self.softmax)
        if self.other_classes and not (traits.training == "head" and self.softmax == "all"):
            problem = "is for linear models with softmax 'all'"
            raise UserError(problem, key="other_classes", value=self.other_classes, allowed="0")
        self._fits_use()
        return self

    def _fits_use(self) -> None:
        """Raise `UserError` for settings of another use, and for what cannot be used so."""
        for use, keys in OF_USE.items():
            for key in self.given(keys) if self.use != use else ():
                raise UserError(f"is for use {literal(use)}", key=key)
        if self.use is None:
            return
        with within("name"):
            named = match_kind(self.name).traits.kind
        clip = self.name.startswith(OPEN_CLIP)
        if named != NETWORK:
            problem = f"is for networks, not for {literal(self.name)}"
            raise UserError(problem, key="use", value=self.use)
        if self.checkpoint is not None:
            raise UserError("is given, and so is `use`", key="checkpoint", allowed="one of the two")
        if self.use == ZERO_SHOT and not clip:
            problem, allowed = "has no text encoder to use", f"{OPEN_CLIP}MODEL@TAG"
            raise UserError(problem, key="name", value=self.name, allowed=allowed)
        if self.use == PRETRAINED and clip:
            problem = f"is for classifiers, and {literal(self.name)} is none"
            raise UserError(problem, key="use", value=self.use, allowed=ZERO_SHOT)
        if self.classes is not None and not self.classes:
            raise UserError("names no class of the task", key="classes", value={})
        for name, own in (self.classes or {}).items():
            if not own:
                raise UserError("names no class of the model", key=("classes", name), value=[])

    @property
    def traits(self) -> type[TeacherTraits]:
        """The traits of the kind of teacher. Raises `UserError` for a misspelt kind."""
        return self.match.traits

    @property
    def features(self) -> BackboneSection | None:
        """The backbone whose frozen features it reads, if it does."""
        if self.use == ZERO_SHOT:
            weights = self.weights or "pretrained"
            return BackboneSection(name=self.name, weights=weights, image_size=self.image_size)
        return self.backbone if "backbone" in self.traits.required else None

    @property
    def prompted(self) -> HeadSection:
        """The head of a `zero_shot` model, which is made of prompts."""
        names = {"templates": self.templates, "class_names": self.class_names}
        return HeadSection.model_validate({"kind": "prototype", "init": "text", **names})

    def own_classes(self, classes: Sequence[str]) -> dict[str, int]:
        """Return the index of the task's class for each key of `classes`; a number that is not a
        name is an index. Raises `UserError` (key `classes`) with every unknown class."""
        places = {str(index): index for index in range(len(classes))}
        places |= {name: index for index, name in enumerate(classes)}
        given = self.classes or {}
        found = {key: places[key] for key in given if key in places}
        if not found:
            problem = "maps onto none of the task's classes"
            near = [n for key in given for n in difflib.get_close_matches(key, classes, n=1)]
            raise UserError(
                problem, key="classes", value=list(given), allowed=listed(classes), nearest=near
            )
        raise_all(
            unknown_name("class", key, classes, key=("classes", key))
            for key in given
            if key not in places
        )
        return found

    def reading(self, backbone: BackboneSection) -> "TeacherModelSection":
        """Return the same model, reading the features of this backbone."""
        if self.use == ZERO_SHOT:
            own = backbone.model_dump(include={"name", "weights", "image_size"})
            return self.model_copy(update=own)
        return self.model_copy(update={"backbone": backbone})

    @property
    def match(self) -> KindMatch:
        """The kind of teacher that `name` selects. Raises `UserError` for a misspelt kind."""
        return match_kind(self.name, self.use)


DEFAULT_MODEL = TeacherModelSection(name="linear_pixels")
DEFAULT_TRAINING = TrainingSection(steps=1000)


@dataclass(frozen=True)
class TeacherSetup:
    """The model and the training of a teacher of the hierarchy.

    calibrate, calibration_share: as in `teachers`. model_key, training_key: where they stand in the
    config, for errors. Setups are equal if everything else is.
    """

    model: TeacherModelSection = DEFAULT_MODEL
    training: TrainingSection = DEFAULT_TRAINING
    calibrate: Literal["temperature"] | None = None
    calibration_share: float = 0.2
    model_key: str = field(default="teachers.model", compare=False)
    training_key: str = field(default="teachers.training", compare=False)

    @property
    def trained(self) -> bool:
        """Whether the run trains it on labelled samples; else it is used as it is."""
        return self.model.traits.needs_labelled_samples and self.model.checkpoint is None

    @property
    def cross_fits(self) -> bool:
        """Whether it is cheap enough to be trained again on parts of its samples: it is where the
        features of its images are computed once."""
        return self.model.traits.cross_fits and not self.training.augments

    def with_steps(self, steps: int) -> "TeacherSetup":
        """Return the same with another number of training steps."""
        training = self.training.model_copy(update={"steps": steps, "epochs": None})
        return replace(self, training=training)

    @property
    def text(self) -> str:
        """The model's name and how it is used, as texts about it have them."""
        if self.model.use is not None:
            return f"{self.model.name} ({self.model.use})"
        as_it_is = self.model.traits.kind == NETWORK and not self.trained
        return f"{self.model.name} (checkpoint)" if as_it_is else self.model.name

    def resembles(self, other: "TeacherSetup") -> bool:
        """Whether the two differ in the length of their training at most."""
        return self.with_steps(1) == other.with_steps(1)


DEFAULT_SETUP = TeacherSetup()
