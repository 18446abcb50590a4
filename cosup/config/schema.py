"""The whole config, section by section, in the order of the data's way."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from cosup.assignment import ASSIGNERS, Assigner
from cosup.config.teachers import TeachersSection
from cosup.consistency import FILTERS, Filter
from cosup.data.section import DataSection
from cosup.losses import LOSSES, Loss
from cosup.models.section import BackboneSection, HeadSection, TrainingSection
from cosup.registry import Choice, Registry
from cosup.section import Section

Assigners = Registry[Assigner]("assigner", ASSIGNERS, "cosup.assigners")
Filters = Registry[Filter]("filter", FILTERS, "cosup.filters")
Losses = Registry[Loss]("loss", LOSSES, "cosup.losses")

AssignerChoice = Annotated[Choice, BeforeValidator(Assigners.check)]
FilterChoice = Annotated[Choice, BeforeValidator(Filters.check)]
LossChoice = Annotated[Choice, BeforeValidator(Losses.check)]

ControlName = Literal[
    "best_teacher",
    "mean_ensemble",
    "equal_budget_generalist",
    "self_training",
    "random_assignment",
    "oracle_assignment",
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


class StudentSection(Section):
    """The strong model."""

    mode: Literal["head"] = "head"
    """`head`: a head on the backbone's frozen features."""
    backbone: BackboneSection
    """The pretrained network."""
    head: HeadSection = HeadSection()
    """What is trained on its features."""
    training: TrainingSection = TrainingSection(steps=1000)
    """How each round trains it."""
    cross_fit: int = Field(default=0, ge=0)
    """Folds for cross-fitted predictions (0: the student predicts its own training samples)."""

    @field_validator("cross_fit")
    @classmethod
    def _folds(cls, value: int) -> int:
        if value == 1:
            raise ValueError("1: must be 0, or at least 2 folds")
        return value


class RoundsSection(Section):
    """The algorithm: assign, filter, update, once per level."""

    assignment: AssignerChoice = Assigners.check("agreement")
    """Which teacher annotates which sample (`cosup ls assigners`)."""
    consistency: list[FilterChoice] = []
    """Filters; an annotation is kept if all of them keep it (`cosup ls filters`)."""
    loss: LossChoice = Losses.check("cross_entropy")
    """What the student minimises (`cosup ls losses`)."""
    targets: Literal["soft", "hard"] = "soft"
    """Learn the annotation's probabilities, or its most probable class."""
    repeat: int = Field(default=1, ge=1)
    """Rounds per level."""
    fresh_head: bool = True
    """Start each round's head anew, or from the round before."""
    min_kept: float = Field(default=0.2, ge=0, le=1)
    """Warn when a filter would keep a smaller share than this."""


class ExecutionSection(Section):
    """Where and how it runs; it changes no number beyond rounding."""

    backend: Literal["local"] = "local"
    """`local`: in this process."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of backbones' forward passes; auto is bfloat16 on GPUs that have it, else float32."""
    workers: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Threads that decode images; auto is one per core, at most 16."""
    batch_size: int = Field(default=64, gt=0)
    """Images per forward pass."""
    shard_size: int = Field(default=4096, gt=0)
    """Samples per annotation shard: what is lost when a run is killed while annotating."""
    cache: str | None = None
    """Folder of features shared by runs; null is `.cache` within `run.output`."""


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
