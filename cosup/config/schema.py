"""The schema of a config: its sections in the order in which a run uses them.

`ExecutionSection` sets where and how a run computes; it changes no result beyond rounding.
"""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from cosup.config.cross_checks import find_conflicts
from cosup.config.default_controls import default_controls
from cosup.config.loggers import DEFAULT_LOGGERS, LoggerChoice
from cosup.config.needs import wants_teacher_train
from cosup.config.references import References
from cosup.config.rounds import Assigners, Filters, Losses, RoundsSection
from cosup.config.student import MetaSection, StudentSection
from cosup.config.teachers import TeachersSection
from cosup.controls import CONTROLS
from cosup.data.section import DataSection
from cosup.errors import UserError, raise_all
from cosup.remote import is_uri
from cosup.sections import Choice, Section

__all__ = [
    "ActorsSection",
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
    "WorkersSection",
]


GPUs = Annotated[float, Field(ge=0)] | Literal["auto"]


class ActorsSection(Section):
    """Ray actors of one kind, and the resources that each reserves."""

    num_cpus: float = Field(default=1, gt=0)
    """CPUs per actor."""
    num_gpus: GPUs = "auto"
    """GPUs per actor, also a fraction of one (it does not limit memory); auto is a quarter
    for teachers and one for features if the cluster has GPUs, else 0."""
    actors: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Number of actors; auto is as many as the cluster has resources for, at most 16."""


class WorkersSection(Section):
    """The workers of Ray Train that train the student."""

    workers: int = Field(default=1, gt=0)
    """Number of workers; each processes its share of every batch, so the batch size is the same."""
    num_cpus: float = Field(default=1, gt=0)
    """CPUs per worker."""
    num_gpus: GPUs = "auto"
    """GPUs per worker; auto is one if the cluster has GPUs, else 0."""


class ExecutionSection(Section):
    """Where and how a run computes; it changes no result beyond rounding."""

    backend: Literal["local", "ray"] = "local"
    """`local`: in this process. `ray`: teachers, features and student on a Ray cluster."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of backbones' forward passes; auto is bfloat16 where the GPU supports it."""
    workers: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Threads that decode images; auto is one per core, at most 16."""
    threads: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Threads of torch per process; auto is torch's default in the process that starts the run,
    for Ray's actors too. The last digits of sums depend on it."""
    batch_size: int = Field(default=64, gt=0)
    """Images per forward pass."""
    shard_size: int = Field(default=4096, gt=0)
    """Samples per annotation shard, and so the most that a killed run loses while annotating."""
    cache: str | None = None
    """Folder of this machine for features shared by runs; null is `.cache` within `run.output`, or
    within the staging folder of a URI."""
    address: str | None = None
    """ray: the cluster's address, as host:port, or `auto` for a cluster on this machine; null is
    RAY_ADDRESS (set in jobs), else a cluster that is started for the run and ends with it."""
    teachers: ActorsSection = ActorsSection()
    """ray: actors that train teachers and annotate."""
    features: ActorsSection = ActorsSection()
    """ray: actors that extract features."""
    student: WorkersSection = WorkersSection()
    """ray: workers that train the student."""
    tries: int = Field(default=3, gt=0)
    """ray: attempts at a shard or a training before the run fails."""
    shard_timeout: float = Field(default=1800, gt=0)
    """ray: seconds after which a shard counts as failed."""
    wait: float = Field(default=600, ge=0)
    """ray: seconds to wait for lost resources."""

    @field_validator("cache")
    @classmethod
    def _cache(cls, cache: str | None) -> str | None:
        if cache is not None and is_uri(cache):
            raise UserError("must be {allowed}", value=cache, allowed="a folder of this machine")
        return cache


AUTO_FOLDS = {"head": 5, "finetune": 2}
"""`student.cross_fit: auto`, where cross-fitted predictions are read."""


if TYPE_CHECKING:
    ControlName = str
else:  # the names of the table of controls, which a type checker cannot read
    ControlName = Literal[tuple(CONTROLS)]


class RunSection(Section):
    """The run's name, its output folder and its seed."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$")
    """The run's directory within `output`."""
    seed: int = Field(default=0, ge=0)
    """Every random stream is derived from it."""
    seeds: list[int] | None = Field(default=None, min_length=1)
    """Repeat the run with each of these seeds and aggregate; null runs `seed` alone."""
    output: str = "outputs"
    """The folder that holds run directories."""
    loggers: list[LoggerChoice] = list(DEFAULT_LOGGERS)
    """Where the run's numbers are shown besides its own records (`cosup ls loggers`)."""

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None and len(set(seeds)) < len(seeds):
            raise UserError("give each seed once", value=seeds)
        return seeds

    @field_validator("loggers")
    @classmethod
    def _one_of_each(cls, loggers: list[Choice]) -> list[Choice]:
        names = [choice.name for choice in loggers]
        if len(set(names)) < len(names):
            raise UserError("give each logger once", value=names)
        return loggers


class Config(Section):
    """One experiment."""

    run: RunSection = RunSection()
    data: DataSection
    teachers: TeachersSection = TeachersSection()
    student: StudentSection
    rounds: RoundsSection = RoundsSection()
    controls: list[ControlName] = Field(
        default_factory=lambda sections: default_controls(**sections)
    )
    """Comparisons with simpler supervision (or, the oracles and the ceiling, with the truth). The
    default is all that apply; for a network as the student, which is trained anew for each, `team`,
    `student_and_team`, `labels`, `mean_ensemble`, `best_teacher` and `ceiling`."""
    execution: ExecutionSection = ExecutionSection()

    _references: References = PrivateAttr(default_factory=dict)

    @property
    def references(self) -> References:
        """The texts that were written with references to the environment (`${NAME}`), as written
        and as expanded; what is stored of the config has them as written."""
        return self._references

    def referring(self, references: References) -> Self:
        """Return a copy that knows how its texts were written."""
        copy = self.model_copy()
        copy._references = references
        return copy

    @property
    def folds(self) -> int:
        """`student.cross_fit`, with `auto` resolved."""
        if self.student.cross_fit != "auto":
            return self.student.cross_fit
        reads = self.rounds.reads_student or self.rounds.choose
        return AUTO_FOLDS[self.student.mode] if reads else 0

    @property
    def wants_teacher_train(self) -> bool:
        """Whether the run needs the split teacher_train (`load_data`)."""
        return wants_teacher_train(self.teachers, self.rounds)

    @property
    def folds_for_labels(self) -> int:
        """Folds in which a head is trained once more after the last round, for the labels of the
        run; 0 if its predictions are cross-fitted already, or may not be."""
        untrained = self.student.training.steps == 0
        if self.folds or untrained or self.student.cross_fit == 0 or self.student.mode != "head":
            return 0
        return AUTO_FOLDS["head"]

    @model_validator(mode="after")
    def _together(self) -> "Config":
        raise_all(find_conflicts({name: getattr(self, name) for name in type(self).model_fields}))
        return self
