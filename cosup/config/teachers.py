"""The `teachers` section: the hierarchy, the model of its teachers, and external annotations."""

from typing import Literal

from pydantic import Field, model_validator

from cosup.errors import UserError, within
from cosup.models.section import BackboneSection, TrainingSection
from cosup.sections import Section
from cosup.settings.teachers import TABLE, TEACHERS, KindMatch, TeacherTraits, match_kind
from cosup.words import literal


class ScopeSection(Section):
    """The classes and domains that a teacher was trained on; null means all."""

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
            traits = self.match.traits
        for key in traits.required:
            if getattr(self, key) is None:
                raise UserError(f"must be given with name {literal(self.name)}", key=key)
        return self

    @property
    def match(self) -> KindMatch:
        """The kind of teacher that `name` selects. Raises `UserError` for a misspelt kind."""
        return match_kind(self.name)


class TeacherSection(Section):
    """One teacher of `hierarchy.by: explicit`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Its name in tables, files and reports."""
    scope: ScopeSection = ScopeSection()
    """The classes and domains that it is trained on."""


class HierarchySection(Section):
    """The levels of teachers, coarse to fine."""

    by: Literal["class", "domain", "explicit"] = "class"
    """Specialists for blocks of classes, for domains, or as listed in `teachers`."""
    levels: list[int] = Field(default=[1], min_length=1)
    """The number of teachers of each level, coarse to fine (`by: class` or `domain`)."""
    partition: Literal["contiguous", "random"] = "contiguous"
    """Blocks in the order of classes or domains, or a random partition drawn by the run's seed."""
    teachers: list[list[TeacherSection]] | None = None
    """`by: explicit`: the teachers of each level."""

    @model_validator(mode="after")
    def _complete(self) -> "HierarchySection":
        if (self.by == "explicit") != (self.teachers is not None):
            raise UserError(
                "must be given with by 'explicit', and only then",
                key="teachers",
                value=self.teachers,
            )
        if any(count < 1 for count in self.levels):
            raise UserError(
                "every level needs at least one teacher", key="levels", value=self.levels
            )
        return self


class ExternalSection(Section):
    """An external teacher, given by its annotations."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Its name in tables, files and reports."""
    annotations: str
    """A Parquet or CSV file: `sample_id`, and either `label` or a column per class."""
    scope: ScopeSection = ScopeSection()
    """The classes and domains that it knows."""
    level: int = -1
    """Its level, from 0; -1 is the finest."""
    missing: Literal["error", "abstain"] = "error"
    """Samples without a row: an error, or this teacher abstains on them."""


class TeachersSection(Section):
    """The teachers, which annotate samples."""

    hierarchy: HierarchySection | None = HierarchySection()
    """The teachers that are trained; null if all are external."""
    model: TeacherModelSection = TeacherModelSection(name="linear_pixels")
    """The model of each of them."""
    training: TrainingSection = TrainingSection(steps=1000)
    """The training of each of them; the budget is per teacher."""
    external: list[ExternalSection] = []
    """External teachers, each an annotation table."""

    @model_validator(mode="after")
    def _somebody(self) -> "TeachersSection":
        if self.hierarchy is None and not self.external:
            raise UserError("no teacher: give a hierarchy, or external annotations")
        return self

    @property
    def trains_specialists(self) -> bool:
        """Whether a part of the task is the scope of a teacher that is trained."""
        hierarchy = self.hierarchy
        if hierarchy is None:
            return False
        if hierarchy.teachers is None:
            return max(hierarchy.levels) > 1
        scopes = [teacher.scope for level in hierarchy.teachers for teacher in level]
        return any(scope.classes or scope.domains for scope in scopes)

    def kinds(self) -> list[tuple[str, str, type[TeacherTraits]]]:
        """Return (key, name, traits) of each kind of teacher that this section asks for."""
        found: list[tuple[str, str, type[TeacherTraits]]] = []
        if self.hierarchy is not None:
            found.append(("teachers.model.name", f"'{self.model.name}'", self.model.match.traits))
        if self.external:
            found.append(("teachers.external", "annotation tables", TEACHERS[TABLE].settings))
        return found
