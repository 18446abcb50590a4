"""What the files of a run hold, at least: they are checked by it when they are read.

Other keys may stand beside these; readers ask for them with `get`, as older runs lack some.
"""

from functools import cache
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

Content: TypeAlias = Any
"""A type that pydantic checks, such as the ones below; None checks nothing."""


class Object(BaseModel):
    """A JSON object with these keys; those with a default may be missing."""

    model_config = ConfigDict(strict=True)


def invalid(found: object, content: Content) -> str:
    """Return what is wrong with a value that was read, in a few words; "" if nothing is."""
    if content is None:
        return ""
    try:
        _adapter(content).validate_python(found, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else first["msg"]
    return ""


@cache
def _adapter(content: Content) -> TypeAdapter[Any]:
    return TypeAdapter(content)


class Marker(Object):
    """`.cosup-run.json`. format: of the run directory. config_hash: of its config."""

    format: int
    config_hash: str


class Stage(Object):
    """The record of a stage of which no more is known. seconds: that it took."""

    seconds: float = 0.0


class Timed(Object):
    """The record of a part of which only the time is recorded."""

    seconds: float


class Named(Object):
    """An entry of a list that is found by its name."""

    name: str


class Prepared(Object):
    """`stages/prepared.json`: the names that samples and predictions are counted by."""

    classes: list[str]
    domains: list[str]
    answers: list[str]
    teachers: list[Named]
    measured: str | None = None
    floor: dict[str, Any] = {}
    samples: dict[str, int] = {}
    features: int = 0
    shards: int = 0
    shifted: dict[str, int] = {}


class Round(Object):
    """`stages/round-K.json`: the numbers of a round."""

    round: int
    level: int
    teachers: list[str]
    assigner: str
    seconds: float
    assignment_accuracy: float | None = None
    annotation_accuracy: float | None = None
    best_choice: float | None = None
    kept: float | None = None
    kept_precision: float | None = None
    kept_recall: float | None = None
    refined: float | None = None
    refined_accuracy: float | None = None
    refined_right: float | None = None
    refined_wrong: float | None = None
    student_accuracy: float | None = None
    rejected: dict[str, int] = {}
    best_epoch: dict[str, Any] | None = None


class Team(Object):
    """`stages/team.json`. reason: why there is no student with a team; null if there is one."""

    reason: str | None
    seconds: float


class Sources(Object):
    """`stages/sources.json`: what is known of each source, by its name."""

    sources: dict[str, dict[str, Any]]
    seconds: float


class Labels(Object):
    """`stages/labels.json`: how good the final labels are, and who agrees with whom."""

    labels: dict[str, Any]
    agreement: dict[str, Any]
    seconds: float


class Answers(Object):
    """`stages/answers.json`. digest: of the answers of a review that the run uses."""

    digest: str


class Candidate(Named):
    """A recipe of which a run chooses one."""

    rounds: dict[str, Any]


class RecipeChoice(Object):
    """`stages/choose-recipe.json`."""

    chosen: str | None
    candidates: list[Candidate]
    seconds: float


class WeightChoice(Object):
    """`stages/choose-labelled-weight.json`."""

    weight: float
    candidates: list[dict[str, float]]
    seconds: float


class StudentNumbers(Object):
    """`student` of a summary."""

    accuracy: float | None = None
    pgr: float | None = None
    pgr_ci95: list[float] | None = None


class Summary(Object):
    """`summary.json`, of one run, of several seeds, or of several losses."""

    run: str = ""
    status: str = ""
    seed: int | list[int] = 0
    config_hash: str = ""
    measured: str | None = None
    floor: dict[str, Any] = {}
    ceiling: dict[str, Any] = {}
    student: StudentNumbers = StudentNumbers()
    rounds: list[dict[str, Any]] = []
    controls: dict[str, dict[str, Any]] = {}
    controls_absent: dict[str, str] = {}
    shifted: dict[str, dict[str, Any]] = {}
    teachers: list[dict[str, Any]] = []
    data: dict[str, Any] = {}
    sources: dict[str, dict[str, Any]] = {}
    labels: dict[str, Any] = {}
    agreement: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    verdict: list[str] = []
    outcome: dict[str, Any] | None = None
    next: list[dict[str, Any]] = []
    losses: dict[str, dict[str, Any]] = {}


class Environment(Object):
    """`environment.json`."""

    packages: dict[str, str | None] = {}
    python: str = ""


class ScalarLine(Object):
    """A line of `metrics.jsonl`. value: null if it is not finite. time: Unix seconds."""

    tag: str
    step: int
    value: float | None
    time: float


class TeacherRecord(Object):
    """`teachers/NAME.json`. classes, domains: the scope, as indices; null: all."""

    name: str
    kind: str
    level: int
    classes: list[int] | None
    domains: list[int] | None
    steps: int
    identity: str
    recipe: str
    temperature: float = 1.0


class Annotated(Object):
    """What a teacher annotated of a split. key: of the annotations. abstains: on which classes."""

    key: str
    abstains: list[int]
    facts: dict[str, float] = {}


Annotations: TypeAlias = dict[str, dict[str, Annotated]]
"""`annotations/manifest.json`: what was annotated, by split and teacher."""


class RunKeys(Object):
    """`run` of a config."""

    name: str = ""
    seed: int = 0


class ConfigTree(Object):
    """`config.yaml`, as far as it is read without being checked as a config."""

    run: RunKeys = RunKeys()
    data: dict[str, Any] = {}
    teachers: dict[str, Any] = {}
    student: dict[str, Any] = {}
    rounds: dict[str, Any] = {}
    controls: list[str] = []
    execution: dict[str, Any] = {}


STAGES: dict[str, Content] = {
    "answers": Answers,
    "data": Timed,
    "features": Timed,
    "teachers": Timed,
    "annotate": Timed,
    "prepared": Prepared,
    "choose-recipe": RecipeChoice,
    "choose-labelled-weight": WeightChoice,
    "team": Team,
    "sources": Sources,
    "labels": Labels,
    "summary": Summary,
}
"""What the record of each stage holds."""


def stage_content(name: str) -> Content:
    """Return what the record of a stage holds."""
    return STAGES.get(name) or (Round if name.startswith("round-") else Stage)


SAMPLE_COLUMNS = ("split", "sample_id", "true_label", "domain", "group", "answer")
DECISION_COLUMNS = (
    "sample_id",
    "round",
    "level",
    "assigned_teacher",
    "assignment_weight",
    "annotation",
    "annotation_confidence",
    "kept",
    "rejected_by",
    "true_label",
    "domain",
)
DECISION_SUM_COLUMNS = (
    "assigned_teacher",
    "previous_teacher",
    "shared",
    "kept",
    "rejected_by",
    "correct",
    "true_label",
    "annotation",
    "domain",
    "samples",
)
SHARD_COLUMNS = ("path", "bytes", "sha256")
ANSWER_SUM_COLUMNS = ("teacher", "true_label", "samples", "answered", "correct")
LABEL_COLUMNS = (
    "sample_id",
    "label",
    "probability",
    "source",
    "teacher",
    "kept",
    "rejected_by",
    "runner_up",
    "runner_up_probability",
    "review_rank",
)
