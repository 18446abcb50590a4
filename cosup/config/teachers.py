"""The `teachers` section: the hierarchy, the model of its teachers, and external annotations."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cosup.config.external import ExternalSection
from cosup.config.scope import ScopeSection
from cosup.config.teacher_model import DEFAULT_SETUP, TeacherModelSection, TeacherSetup
from cosup.errors import UserError, known_names
from cosup.models.training_section import TrainingSection
from cosup.sections import FileName, Section
from cosup.settings.teachers import SIMULATED, TABLE, TEACHERS, TeacherTraits

TEACHER_KEY = "teachers.hierarchy.teachers.{}.{}"
"""The key of a listed teacher, by its level and its position."""


class TeacherSection(Section):
    """One teacher of `hierarchy.by: explicit`."""

    name: FileName
    """Its name in tables, files and reports."""
    scope: ScopeSection = ScopeSection()
    """The classes and domains that it is trained on."""
    model: TeacherModelSection | None = None
    """Its model; null: `teachers.model`."""
    training: TrainingSection | None = None
    """Its training, in place of `teachers.training`; null: that one."""


TeacherCount = Annotated[int, Field(ge=1, le=1024)]


class HierarchySection(Section):
    """The levels of teachers, coarse to fine."""

    by: Literal["class", "domain", "explicit"] = "class"
    """Specialists for blocks of classes, for domains, or as listed in `teachers`."""
    levels: list[TeacherCount] = Field(default=[1], min_length=1, max_length=64)
    """The number of teachers of each level, coarse to fine (`by: class` or `domain`): the numbers
    do not fall, as rounds go from broad to narrow scopes, and the last level counts as the finest.
    At most 1,024 teachers a level, each with annotations of every sample."""
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
        if self.levels != sorted(self.levels):
            raise UserError(
                "must not fall: levels go from coarse to fine",
                key="levels",
                value=self.levels,
                allowed=", ".join(map(str, sorted(self.levels))),
            )
        return self


class TeachersSection(Section):
    """The teachers, which annotate samples."""

    hierarchy: HierarchySection | None = HierarchySection()
    """The teachers that are trained, or used as they are; null if all are external."""
    model: TeacherModelSection = DEFAULT_SETUP.model
    """The model of each of them that has none of its own."""
    training: TrainingSection = DEFAULT_SETUP.training
    """The training of each of them that has none of its own; the budget is per teacher."""
    calibrate: Literal["temperature"] | None = None
    """`temperature`: divide the logits of each teacher of the hierarchy by a temperature that is
    fitted to labels it was not trained on: those of validation, or else a part of teacher_train."""
    calibration_share: float = Field(default=0.2, gt=0, le=0.5)
    """`calibrate` without labels in validation: the share of teacher_train (of its groups) that no
    teacher is trained on. Half of the labels is much for one number each."""
    external: list[ExternalSection] = []
    """External teachers, each an annotation table or a simulated annotator."""

    @model_validator(mode="after")
    def _somebody(self) -> "TeachersSection":
        if self.hierarchy is None and not self.external:
            raise UserError("no teacher: give a hierarchy, or external annotations")
        if self.hierarchy is None and self.calibrate is not None:
            raise UserError(
                "calibrates teachers of the hierarchy, and all of these are external",
                key="calibrate",
                value=self.calibrate,
                allowed="null",
            )
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
            if external.simulate is not None and external.name is not None:
                simulated.append(external.name)
        return self

    @property
    def setups(self) -> list[TeacherSetup]:
        """What the teachers of the hierarchy are made of, without repetition."""
        return _distinct(setup for _, setup in self._members())

    @property
    def specialist_setups(self) -> list[TeacherSetup]:
        """What those are made of that are trained on a part of the task, without repetition."""
        return _distinct(
            setup for restricted, setup in self._members() if restricted and setup.trained
        )

    @property
    def trains_on_labels(self) -> bool:
        """Whether any teacher is trained on the labelled samples of teacher_train."""
        return any(setup.trained for setup in self.setups)

    @property
    def trains_specialists(self) -> bool:
        """Whether a part of the task is the scope of a teacher that is trained."""
        return bool(self.specialist_setups)

    def setup(self, level: int = 0, position: int = 0) -> TeacherSetup:
        """Return what a teacher of the hierarchy is made of; each the same unless `by: explicit`.

        level, position: its place in `hierarchy.teachers`.
        """
        common = TeacherSetup(self.model, self.training, self.calibrate, self.calibration_share)
        if self.hierarchy is None or self.hierarchy.teachers is None:
            return common
        own, key = self.hierarchy.teachers[level][position], TEACHER_KEY.format(level, position)
        if own.model is not None:
            common = replace(common, model=own.model, model_key=f"{key}.model")
        if own.training is not None:
            common = replace(common, training=own.training, training_key=f"{key}.training")
        return common

    def _members(self) -> list[tuple[bool, TeacherSetup]]:
        """Return whether a part of the task is its scope, and its setup, for each teacher of the
        hierarchy (of those that are not listed, for each level)."""
        hierarchy = self.hierarchy
        if hierarchy is None:
            return []
        if hierarchy.teachers is None:
            return [(count > 1, self.setup()) for count in hierarchy.levels]
        return [
            (teacher.scope.restricted, self.setup(level, position))
            for level, teachers in enumerate(hierarchy.teachers)
            for position, teacher in enumerate(teachers)
        ]

    def scopes(self) -> list[tuple[str, ScopeSection]]:
        """Return (key, scope) of each listed and each external teacher."""
        listed = self.hierarchy.teachers if self.hierarchy is not None else None
        return [
            *(
                (f"{TEACHER_KEY.format(level, position)}.scope", teacher.scope)
                for level, teachers in enumerate(listed or ())
                for position, teacher in enumerate(teachers)
            ),
            *(
                (f"teachers.external.{position}.scope", external.scope)
                for position, external in enumerate(self.external)
            ),
        ]

    def kinds(self) -> list[tuple[str, str, type[TeacherTraits]]]:
        """Return (key, name, traits) of each kind of teacher that this section asks for."""
        found: list[tuple[str, str, type[TeacherTraits]]] = []
        for setup in self.setups:
            kind = f"{setup.model_key}.name", f"'{setup.text}'", setup.model.traits
            if kind not in found:
                found.append(kind)
        tables = [external for external in self.external if external.simulate is None]
        if tables:
            found.append(("teachers.external", "annotation tables", TEACHERS[TABLE].settings))
        if len(tables) < len(self.external):
            traits = TEACHERS[SIMULATED].settings
            found.append(("teachers.external", "simulated annotators", traits))
        return found


def _distinct(setups: Iterable[TeacherSetup]) -> list[TeacherSetup]:
    """Return one setup for each place of a model and of a training."""
    return list({(setup.model_key, setup.training_key): setup for setup in setups}.values())
