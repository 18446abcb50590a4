"""The schema of a config: its sections in the order in which a run uses them.

`ExecutionSection` sets where and how a run computes; it changes no result beyond rounding.
"""

from collections import Counter
from collections.abc import Sequence
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
from cosup.sections import Choice, FileName, Section

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
    "Seed",
    "ShardActorsSection",
    "StudentSection",
    "TeacherActorsSection",
    "WorkersSection",
    "check_once",
]


MOST_THREADS = 1024
"""No machine has more cores; torch ends the process at some 10,000 threads."""
MOST_ACTORS = 1024
MOST_SECONDS = 365 * 24 * 3600
"""A year; Python's timers end at some centuries."""
GPUs = Annotated[float, Field(ge=0, le=1024)] | Literal["auto"]
CPUs = Annotated[float, Field(gt=0, le=MOST_THREADS)] | Literal["auto"]


ActorCount = Annotated[int, Field(gt=0, le=MOST_ACTORS)]


class ActorRange(Section):
    """The least and the largest number of actors of a cluster that grows and shrinks."""

    min: ActorCount = 1
    """Actors that must have a place before the run starts; no more than `max`."""
    max: ActorCount
    """Actors that are asked for, at most 1,024."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            allowed = f"at most {self.max}, which is max"
            raise UserError("must be {allowed}", key="min", value=self.min, allowed=allowed)
        return self


class ShardActorsSection(Section):
    """Ray actors that assign, filter, sum and predict shards, without a GPU."""

    num_cpus: CPUs = "auto"
    """CPUs per actor, each of which decodes images in a thread; at most as many as a machine has
    (1,024). auto is 1 without a GPU, else the actor's share of its node: the CPUs per GPU times
    `num_gpus`, of the node that has least, in whole CPUs and at least 1. Networks take no more of
    it than decode as many images in a second as the card computes, which is measured on images of
    the run when the actors start; it changes no number."""
    actors: ActorCount | ActorRange | Literal["auto"] = "auto"
    """Number of actors, or `{min: 1, max: 8}`: the run starts with `min` of them, and Ray's
    autoscaler is asked for the others; auto is as many as the cluster has resources for, those of
    nodes that join later too. Beyond 1,024 one driver does not keep them busy."""


class ActorsSection(ShardActorsSection):
    """Ray actors of one kind, and the resources that each reserves."""

    num_gpus: GPUs = "auto"
    """GPUs per actor, also a fraction of one (it does not limit memory); auto is a quarter
    for teachers and one for features if the cluster has GPUs, else 0."""


class TeacherActorsSection(ActorsSection):
    """The actors of teachers, and how many teachers each holds at once."""

    memory_gb: float = Field(default=2, gt=0, le=10_000)
    """Weights, in GB (10^9 bytes), of the teachers that an actor holds on its device, or a local
    run on its GPU; one teacher is always held, and training takes its own memory. Teachers within
    it that have equal inputs annotate together, so that each image is decoded once for all of them:
    2 are 42 ResNet-18 or 5 ViT-B/16. `num_gpus` does not limit memory: the actors of a card share
    it, and passes of images take as much again. No machine has 10,000."""


class WorkersSection(Section):
    """The workers of Ray Train that train a network as the student; heads are fitted by the process
    that starts the run. Trainings that do not wait for each other run side by side, each with so
    many workers, as far as the cluster has room."""

    workers: int = Field(default=1, gt=0, le=MOST_ACTORS)
    """Number of workers of a training; each processes its share of every batch, so the batch size
    is the same, and more than 1,024 have too little to do."""
    num_cpus: CPUs = "auto"
    """CPUs per worker, which decode its images; at most as many as a machine has (1,024). auto is 1
    without a GPU, else the worker's share of its node."""
    num_gpus: GPUs = "auto"
    """GPUs per worker; auto is one if the cluster has GPUs, else 0."""


WarningSignal = Literal["SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGURG", "SIGQUIT"]
"""Slurm sends the signal of `--signal`, Grid Engine SIGUSR2 (`-notify`) and SIGXCPU, LSF that of
`bsub -wa`."""


RAY_DEVICES = ("auto", "cpu", "cuda")


class ExecutionSection(Section):
    """Where and how a run computes; it changes no result beyond rounding."""

    backend: Literal["local", "ray"] = "local"
    """`local`: in this process. `ray`: teachers, features and student on a Ray cluster."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`. ray: of the actors and
    workers, `auto`, `cpu` or `cuda`; Ray gives each its card, and the driver takes none."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of backbones' forward passes; auto is bfloat16 where the GPU supports it."""
    workers: Annotated[int, Field(gt=0, le=MOST_THREADS)] | Literal["auto"] = "auto"
    """Threads that decode images; auto is one per core, at most 16. Beyond the number of cores more
    are slower; no machine has more than 1,024."""
    threads: Annotated[int, Field(gt=0, le=MOST_THREADS)] | Literal["auto"] = "auto"
    """Threads of torch per process; auto is torch's default, and for Ray's actors and workers the
    CPUs that each may reserve. The last digits of sums depend on it: give a number for equal
    results elsewhere. Beyond the number of cores more are slower, and from some 10,000 the process
    is ended; no machine has more than 1,024."""
    side_by_side: Annotated[int, Field(gt=0, le=MOST_THREADS)] | Literal["auto"] = "auto"
    """Seeds (`run.seeds`) that run at once, in processes of their own, which computes the same
    numbers; auto is one per GPU, or without one as many as there are cores (divided by `threads`,
    if it is given) and memory of 3 GB for each. With Ray each has an equal share of the cluster,
    and no more run than it has room for; those of sharded runs go in turn with auto. Within a run,
    networks that do not wait for each other (teachers, controls, folds) train so too, on a machine
    with several GPUs: each on a card."""
    batch_size: int = Field(default=64, gt=0, le=65_536)
    """Images per forward pass; of features at most 64, so that a larger number changes none. Larger
    batches than some hundreds are no faster, and so many images of 224 pixels take 39 GB."""
    shard_size: int = Field(default=4096, gt=0, le=1_000_000)
    """Samples per annotation shard, and so the most that a killed run loses while annotating. A
    shard is held in memory: one of a million samples over 1,000 classes takes 4 GB."""
    cache: str | None = None
    """Folder of this machine for features shared by runs; null is `.cache` within `run.output`, or
    within the staging folder of a URI."""
    stop_signal: WarningSignal | None = "SIGUSR1"
    """The signal by which a job scheduler warns before it ends a job: a network's training finishes
    its step and saves its state, and the run stops, to be resumed; null is none. SIGTERM, SIGHUP
    and Ctrl-C stop it at once. The exit status of a run that was stopped is 130."""
    address: str | None = None
    """ray: the cluster's address, as host:port, or `auto` for a cluster on this machine; null is
    RAY_ADDRESS (set in jobs), else a cluster that is started for the run and ends with it."""
    teachers: TeacherActorsSection = TeacherActorsSection()
    """ray: actors that train teachers and annotate; of it a local run reads `memory_gb` alone."""
    features: ActorsSection = ActorsSection()
    """ray: actors that extract features."""
    student: WorkersSection = WorkersSection()
    """ray: workers that train the student, if it is a network."""
    shards: ShardActorsSection = ShardActorsSection()
    """ray: actors that do the rest of the work on shards (`data.sharded`), without a GPU."""
    decode: Literal["auto", "actors", "apart"] = "auto"
    """ray, `data.sharded`: who decodes images. `actors`: those that compute on them. `apart`: tasks
    of Ray Data on any CPU of the cluster, which send whole shards of decoded images (`shard_size`
    times the pixels; keep it under a gigabyte); auto is `apart` for actors with a GPU."""
    tries: int = Field(default=3, gt=0, le=1000)
    """ray: attempts at a shard or a training before the run fails; more than 1,000 would hide that
    it always fails."""
    shard_timeout: float = Field(default=1800, gt=0, le=MOST_SECONDS)
    """ray: seconds after which a shard counts as failed, at most a year."""
    wait: float = Field(default=600, ge=0, le=MOST_SECONDS)
    """ray: seconds to wait for lost resources, at most a year."""
    wait_for_nodes: Annotated[float, Field(ge=0, le=MOST_SECONDS)] | Literal["auto"] = "auto"
    """ray: seconds to wait, before a run starts, for nodes that the autoscaler is asked for; auto
    is 300 on a cluster with an address, and 0 on one that is started for the run and cannot
    grow."""

    @model_validator(mode="after")
    def _device_of_ray(self) -> Self:
        if self.backend == "ray" and self.device not in RAY_DEVICES:
            raise UserError(
                "Ray gives each actor and worker its device; execution.device must be {allowed}",
                key="device",
                value=self.device,
                allowed=", ".join(RAY_DEVICES),
            )
        return self

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


Seed = Annotated[int, Field(ge=0)]


class RunSection(Section):
    """The run's name, its output folder and its seed."""

    name: FileName = "run"
    """The run's directory within `output`, where cosup's own files begin with a dot."""
    seed: Seed = 0
    """Every random stream is derived from it."""
    seeds: list[Seed] | None = Field(default=None, min_length=1, max_length=1000)
    """Repeat the run with each of these seeds and aggregate; null runs `seed` alone. Intervals gain
    nothing from more than 1,000."""
    output: str = "outputs"
    """The folder that holds run directories, or a URI. A secret in it is written as a reference to
    the environment, `s3://bucket/runs?secret_key=${SECRET_KEY}`."""
    loggers: list[LoggerChoice] = list(DEFAULT_LOGGERS)
    """Where the run's numbers are shown besides its own records (`cosup ls loggers`)."""

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: list[int] | None) -> list[int] | None:
        check_once("seed", seeds or [])
        return seeds

    @field_validator("loggers")
    @classmethod
    def _one_of_each(cls, loggers: list[Choice]) -> list[Choice]:
        check_once("logger", [choice.name for choice in loggers])
        return loggers


def check_once(noun: str, items: Sequence[object]) -> None:
    """Raise `UserError` with the items that are given more than once."""
    twice = [item for item, times in Counter(items).items() if times > 1]
    if twice:
        raise UserError(f"give each {noun} once", value=twice)


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

    @field_validator("controls")
    @classmethod
    def _each_control_once(cls, controls: list[str]) -> list[str]:
        check_once("control", controls)
        return controls

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
        reads = self.rounds.reads_own_samples or self.rounds.choose or self.weighs_labels
        return AUTO_FOLDS[self.student.mode] if reads else 0

    @property
    def weighs_labels(self) -> bool:
        """Whether the weight of the labelled samples is chosen."""
        rounds = self.rounds
        return rounds.labelled and rounds.labelled_weight == "auto" and self.student.mode == "head"

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
