"""The `teachers` section: the hierarchy, what a teacher is, and those made elsewhere."""

from typing import Literal

from pydantic import Field, model_validator

from cosup.errors import UserError
from cosup.models.section import BackboneSection, TrainingSection
from cosup.registry import Section, mistakes
from cosup.settings.teachers import TABLE, TEACHERS, KindMatch, TeacherTraits, match_kind


class ScopeSection(Section):
    """What a teacher was trained on: the named classes and domains; null means all."""

    classes: list[str | int] | None = Field(default=None, alias="class")
    """Class names (or indices)."""
    domains: list[str | int] | None = Field(default=None, alias="domain")
    """Domain names (or indices)."""

    model_config = {**Section.model_config, "populate_by_name": True}

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {k: [v] if isinstance(v, str | int) else v for k, v in value.items()}


class TeacherModelSection(Section):
    """The weak model. `name` says what kind it is."""

    name: str
    """`linear_pixels`, `linear_features`, a timm name, `hf-hub:owner/model`, one of cosup's own
    `cifar_NAME`, or `call:MODULE:FUNCTION` (a Python callable: images uint8 [B, 3, H, W] ->
    probabilities [B, C]).
    """
    size: int = Field(default=8, ge=1)
    """`linear_pixels`: side in pixels that images are scaled down to, in grey."""
    backbone: BackboneSection | None = None
    """`linear_features`: the weak backbone whose frozen features a linear model reads."""
    weights: str | None = None
    """timm models: start from these weights (as a backbone's); null trains from scratch."""
    image_size: int | None = Field(default=None, ge=8)
    """timm models and callables: side of the square input in pixels; null: the model's own."""
    checkpoint: str | None = None
    """timm models: a trained classifier over all of the task's classes, in their order; it is used
    as it is. May hold `{name}`, which becomes the teacher's name."""

    @model_validator(mode="after")
    def _fits_kind(self) -> "TeacherModelSection":
        try:
            traits = self.match.traits
        except UserError as error:
            raise mistakes([(("name",), str(error))]) from None
        for key in traits.required:
            if getattr(self, key) is None:
                raise ValueError(f"{self.name} needs a {key}")
        return self

    @property
    def match(self) -> KindMatch:
        """The kind of teacher that `name` selects. Raises `UserError` for a misspelt kind."""
        return match_kind(self.name)


class TeacherSection(Section):
    """One teacher, spelled out (`hierarchy.by: explicit`)."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Its name in tables, files and reports."""
    scope: ScopeSection = ScopeSection()
    """What it is trained on."""


class HierarchySection(Section):
    """The tree of teachers, coarse to fine."""

    by: Literal["class", "domain", "explicit"] = "class"
    """Specialists for blocks of classes, for domains, or as spelled out in `teachers`."""
    levels: list[int] = Field(default=[1], min_length=1)
    """The number of teachers of each level, coarse to fine (`by: class` or `domain`)."""
    partition: Literal["contiguous", "random"] = "contiguous"
    """Blocks in the order of the classes or domains, or a random partition by the run's seed."""
    teachers: list[list[TeacherSection]] | None = None
    """`by: explicit`: the teachers of each level."""

    @model_validator(mode="after")
    def _complete(self) -> "HierarchySection":
        if (self.by == "explicit") != (self.teachers is not None):
            raise ValueError("'teachers' goes with 'by: explicit', and only with it")
        if any(count < 1 for count in self.levels):
            raise ValueError(f"levels {self.levels}: every level needs at least one teacher")
        return self


class ExternalSection(Section):
    """A teacher made elsewhere, known by its annotations."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Its name in tables, files and reports."""
    annotations: str
    """A Parquet or CSV file: `sample_id`, and either `label` or a column per class."""
    scope: ScopeSection = ScopeSection()
    """What it knows."""
    level: int = -1
    """The level it belongs to, from 0; -1 is the finest."""
    missing: Literal["error", "abstain"] = "error"
    """What a sample without a row means: a mistake, or that this teacher abstains on it."""


class TeachersSection(Section):
    """Who annotates."""

    hierarchy: HierarchySection | None = HierarchySection()
    """The teachers trained here; null where all are external."""
    model: TeacherModelSection = TeacherModelSection(name="linear_pixels")
    """What each of them is."""
    training: TrainingSection = TrainingSection(steps=1000)
    """How each of them is trained (the budget is per teacher)."""
    external: list[ExternalSection] = []
    """Teachers made elsewhere, each an annotation table."""

    @model_validator(mode="after")
    def _somebody(self) -> "TeachersSection":
        if self.hierarchy is None and not self.external:
            raise ValueError("no teacher: give a hierarchy, or external annotations")
        return self

    def kinds(self) -> list[tuple[str, str, type[TeacherTraits]]]:
        """Return (key, name, traits) of each kind of teacher that this section asks for."""
        found: list[tuple[str, str, type[TeacherTraits]]] = []
        if self.hierarchy is not None:
            found.append(("teachers.model.name", f"'{self.model.name}'", self.model.match.traits))
        if self.external:
            found.append(("teachers.external", "annotation tables", TEACHERS[TABLE].settings))
        return found
