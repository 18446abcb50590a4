"""The `teachers` section: the hierarchy, the model of its teachers, and external annotations."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cosup.errors import UserError, known_names, within
from cosup.models.section import BackboneSection, TrainingSection
from cosup.sections import Section
from cosup.settings.teachers import (
    SIMULATED,
    TABLE,
    TEACHERS,
    KindMatch,
    TeacherTraits,
    match_kind,
)
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


class CopiesSection(Section):
    """Answers that a simulated annotator takes over from another one."""

    of: str
    """The name of another simulated annotator, listed before this one."""
    share: float = Field(ge=0, le=1)
    """The share of the other's answers that this one repeats."""


class SimulateSection(Section):
    """An annotator made from the true labels. `cosup/METHODS.md` has its rules.

    A planning tool: what would a fourth annotator of 70 % bring? Its answers depend on the true
    labels, so its figures are no measurement of anybody.
    """

    accuracy: float = Field(ge=0, le=1)
    """The share of its answers that are right, in classes and domains that are not listed below."""
    coverage: float = Field(default=1.0, gt=0, le=1)
    """The share of the samples that it answers."""
    classes: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Its accuracy on single classes, by name."""
    domains: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Its accuracy in single domains, by name; there it replaces `accuracy` and `classes`."""
    confuses: Literal["next"] | dict[str, str] | None = None
    """What its wrong answers are. null: any other class. `next`: always the next class (of the
    last: the first). A mapping of classes: that class; any other for classes not listed."""
    copies: CopiesSection | None = None
    """Answers that it takes over from another simulated annotator; null: none."""
    seed: int = Field(default=0, ge=0)
    """The seed of its answers. They do not depend on the run's seed, as those of a file."""

    @field_validator("classes", "domains", mode="before")
    @classmethod
    def _names_are_text(cls, value: object) -> object:
        """Convert names that YAML reads as numbers."""
        return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator("confuses", mode="before")
    @classmethod
    def _both_are_names(cls, value: object) -> object:
        """Convert names that YAML reads as numbers."""
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else value


class ExternalSection(Section):
    """A teacher from outside: an annotation table, or a simulated annotator."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Its name in tables, files and reports."""
    simulate: SimulateSection | None = None
    """Make it from the true labels, in place of `annotations`."""
    annotations: str | None = None
    """A Parquet or CSV file: `sample_id`, and either `label` or a column per class."""
    scope: ScopeSection = ScopeSection()
    """The classes and domains that it knows. A simulated annotator answers nothing else."""
    level: int = -1
    """Its level, from 0; -1 is the finest."""
    missing: Literal["error", "abstain"] = "error"
    """Samples without a row in `annotations`: an error, or this teacher abstains on them."""

    @field_validator("annotations")
    @classmethod
    def _one_of_two(cls, value: str | None, info: ValidationInfo) -> str | None:
        simulated = info.data.get("simulate")
        if value is None and simulated is None and "simulate" in info.data:
            raise UserError("must be given, or else `simulate`")
        if value is not None and simulated is not None:
            raise UserError("is given, and so is `simulate`", allowed="one of the two")
        return value

    @field_validator("missing")
    @classmethod
    def _of_tables(cls, value: str, info: ValidationInfo) -> str:
        if value == "abstain" and info.data.get("simulate") is not None:
            raise UserError("is for annotation tables", allowed="simulate.coverage")
        return value


class TeachersSection(Section):
    """The teachers, which annotate samples."""

    hierarchy: HierarchySection | None = HierarchySection()
    """The teachers that are trained; null if all are external."""
    model: TeacherModelSection = TeacherModelSection(name="linear_pixels")
    """The model of each of them."""
    training: TrainingSection = TrainingSection(steps=1000)
    """The training of each of them; the budget is per teacher."""
    external: list[ExternalSection] = []
    """External teachers, each an annotation table or a simulated annotator."""

    @model_validator(mode="after")
    def _somebody(self) -> "TeachersSection":
        if self.hierarchy is None and not self.external:
            raise UserError("no teacher: give a hierarchy, or external annotations")
        return self

    @model_validator(mode="after")
    def _copies_of_earlier_ones(self) -> "TeachersSection":
        simulated: list[str] = []
        for position, external in enumerate(self.external):
            copies = external.simulate.copies if external.simulate else None
            if copies is not None and copies.of not in simulated:
                raise UserError(
                    "is no simulated annotator that is listed before",
                    key=("external", str(position), "simulate", "copies", "of"),
                    value=copies.of,
                    allowed=known_names(simulated) if simulated else "no copies in the first one",
                )
            if external.simulate is not None:
                simulated.append(external.name)
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
        tables = [external for external in self.external if external.simulate is None]
        if tables:
            found.append(("teachers.external", "annotation tables", TEACHERS[TABLE].settings))
        if len(tables) < len(self.external):
            traits = TEACHERS[SIMULATED].settings
            found.append(("teachers.external", "simulated annotators", traits))
        return found
