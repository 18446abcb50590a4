"""The whole config, section by section, in the order of the data's way."""

from typing import Literal

from pydantic import Field, model_validator

from cosup.config.execution import ExecutionSection
from cosup.config.rounds import Assigners, Filters, Losses, RoundsSection
from cosup.config.student import MetaSection, StudentSection
from cosup.config.teachers import TeachersSection
from cosup.config.together import check_together
from cosup.data.section import DataSection
from cosup.section import Section

__all__ = [
    "Assigners",
    "Config",
    "ControlName",
    "ExecutionSection",
    "Filters",
    "Losses",
    "MetaSection",
    "RoundsSection",
    "RunSection",
    "StudentSection",
]

ControlName = Literal[
    "zero_shot",
    "best_teacher",
    "mean_ensemble",
    "equal_budget_generalist",
    "self_training",
    "random_assignment",
    "oracle_assignment",
    "given_labels",
    "ceiling",
]


class RunSection(Section):
    """What the run is called, where it is written, and its seed."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$")
    """The run's directory within `output`."""
    seed: int = Field(default=0, ge=0)
    """Every random stream is derived from it."""
    seeds: list[int] | None = Field(default=None, min_length=1)
    """Repeat the run with each of these seeds and aggregate; null runs `seed` alone."""
    output: str = "outputs"
    """The folder that holds run directories."""


class Config(Section):
    """One experiment."""

    run: RunSection = RunSection()
    data: DataSection
    teachers: TeachersSection = TeachersSection()
    student: StudentSection
    rounds: RoundsSection = RoundsSection()
    controls: list[ControlName] = ["best_teacher", "mean_ensemble", "ceiling"]
    """Comparisons with simpler supervision (or, the oracle and the ceiling, with the truth)."""
    execution: ExecutionSection = ExecutionSection()

    @model_validator(mode="after")
    def _together(self) -> "Config":
        check_together(self.data, self.teachers, self.student, self.rounds, self.controls)
        return self
