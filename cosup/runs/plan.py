"""What a run would do, as data: `cosup plan --json` prints it.

`cosup.runs.planning` finds it out without running anything, and `cosup.runs.plan_text` puts it into
words.
"""

from dataclasses import dataclass, field

from rich.console import RenderableType

from cosup.data.notes import Note
from cosup.runs.costs import CostsPlan
from cosup.runs.notebook import as_html, as_text
from cosup.runs.sharded_plan import ShardsPlan
from cosup.teachers.table import TableCounts


@dataclass(frozen=True)
class RunPlan:
    """Where the run would be written, and how often it would be repeated."""

    place: str
    exists: bool
    seeds: list[int]
    losses: list[str]
    """The names of `rounds.losses`; empty for a run with one loss."""


@dataclass(frozen=True)
class DevicePlan:
    """What the run would compute with."""

    name: str
    precision: str
    decoding_threads: int
    actors: dict[str, int | None] | None = None
    """With Ray, the decoding threads per process of each kind; null: its share of the CPUs of its
    node, which is known on the cluster alone."""


@dataclass(frozen=True)
class SplitPlan:
    """The samples of a split, and how many of them have no label (None: not counted)."""

    samples: int
    unlabelled: int | None


@dataclass(frozen=True)
class SamplesPlan:
    """The samples: their splits, classes and domains."""

    splits: dict[str, SplitPlan]
    classes: list[str]
    domains: list[str]
    novel_classes: list[str]
    """Classes of `data.few_shot` that measure at the end."""
    wrong_labels: int
    """Labels of student_train that `data.noise` changes."""
    first_ids: list[str]


@dataclass(frozen=True)
class StudentPlan:
    """The student and its training in each round."""

    mode: str
    backbone: str
    steps: int
    batch_size: int
    weights: int | None = None
    """Number of weights of a network that is trained whole."""
    image_size: int | None = None
    episodes: int | None = None
    """Episodes of the meta stage."""


@dataclass(frozen=True)
class FeaturesPlan:
    """Features that the student or the assigner reads."""

    backbone: str
    per_image: int
    image_size: int
    nbytes: int
    cache: str | None
    images: int
    missing: int
    """Images whose features are not in the cache."""


@dataclass(frozen=True)
class PromptsPlan:
    """Prompts of the class names, for a head that starts from text features."""

    names: int
    templates: int
    example: str


@dataclass(frozen=True)
class AnnotationsPlan:
    """What the teachers, those of controls included, would annotate."""

    samples: int
    teachers: int
    nbytes: int
    files: int


@dataclass(frozen=True)
class RoundsPlan:
    """The rounds of a run, or the recipes that it would choose from."""

    rounds: int | None = None
    assigner: str | None = None
    filters: list[str] | None = None
    loss: str | None = None
    """None where `rounds.losses` is given."""
    targets: str | None = None
    recipes: list[str] | None = None
    chosen: str | None = None
    """By what a recipe would be chosen, in words."""
    left_out: dict[str, str] = field(default_factory=dict)
    """The reason for each recipe that cannot be run shard by shard, in a sharded run."""


@dataclass(frozen=True)
class ControlsPlan:
    """The controls, and the reason for each that the data do not allow."""

    names: list[str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher: what it is made of, its scope (None: all) and its training (None: none)."""

    level: int
    name: str
    model: str
    classes: list[str] | None
    domains: list[str] | None
    samples: int | None
    steps: int | None


@dataclass(frozen=True)
class TablePlan:
    """A teacher that is a table: its form, and what became of its rows."""

    teacher: str
    form: str
    counts: TableCounts


@dataclass(frozen=True, repr=False)
class Plan:
    """All that a run would do. None, or an empty list, where there is nothing of a kind.

    Python and notebooks show it as `cosup plan` does.
    """

    run: RunPlan
    device: DevicePlan
    samples: SamplesPlan
    student: StudentPlan
    features: FeaturesPlan | None
    prompts: PromptsPlan | None
    annotations: AnnotationsPlan
    costs: CostsPlan
    rounds: RoundsPlan
    controls: ControlsPlan
    teachers: list[TeacherPlan]
    tables: list[TablePlan]
    notes: list[Note]
    shards: ShardsPlan | None = None
    """Those of a sharded run; annotations and features are then those of the listed samples."""

    def __rich__(self) -> RenderableType:
        from cosup.runs.plan_text import plan_table

        return plan_table(self)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self.__rich__())
