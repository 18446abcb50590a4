"""The controls: the same student on the same samples, with a simpler supervision.

`CONTROLS` has an entry for each control: its computation, its requirements and its labels.
The config schema, the run, the table it prints and the report read it, so a new control is one
entry. Those that read the true labels (the oracles, the ceiling) bound what assignment, and what
any supervision, could reach. The module imports no torch: the schema needs the names alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, Union

if TYPE_CHECKING:
    from cosup.probabilities import ProbTable
    from cosup.protocols import Lessons

__all__ = [
    "BAGGED",
    "CONTROLS",
    "GENERALIST",
    "LABELS",
    "NO_TEST",
    "NO_TRUE_LABEL",
    "PAIR",
    "TEAM",
    "Absent",
    "Control",
    "ControlContext",
    "Need",
    "control_title",
    "needing",
]

Need = Literal["text_prototypes"]
"""What a config must have for a control. text_prototypes: a head that starts from text features."""

GENERALIST = "equal_budget_generalist"
"""The control, and its teacher: a generalist trained with the budget of all specialists."""
BAGGED = "bagged_generalists"
"""The control that is taught by several generalists with that budget in all."""
LABELS = "labels"
"""The control that is trained on the teachers' own labelled samples."""
TEAM = "team"
"""The control that is the teachers without a student."""
PAIR = "student_and_team"
"""The control that is the run's student together with its teachers."""

NO_TRUE_LABEL = "no true label of student_train is known"
NO_TEST = "there is no test split, so no accuracy is measured"
"""Reasons why controls, figures and accuracies are left out."""


class Absent(Exception):
    """A control cannot be computed for a run. The message is the reason, in words."""


LevelT = TypeVar("LevelT")
LabelsT = TypeVar("LabelsT")
Found = Union["ProbTable", "Lessons[ProbTable]"]
"""The class probabilities of the test samples, or the lessons that end with them."""


class ControlContext(Protocol[LevelT, LabelsT]):
    """What a control is computed from: a run's task and ways to train its student.

    Students are trained with the run's own objective, start and number of optimiser steps. Methods,
    properties and lessons raise `Absent` if the run lacks what they need. A control passes levels
    and labels on as it gets them: they are those of samples in memory, or of shards.
    """

    @property
    def finest(self) -> LevelT:
        """The level of the last round."""
        ...

    @property
    def best_teacher(self) -> LevelT:
        """A level of the best single teacher alone."""
        ...

    def generalists(self, control: str) -> LevelT:
        """Return the level of the generalists that were trained for this control."""
        ...

    @property
    def true_labels(self) -> LabelsT:
        """True labels of student_train."""
        ...

    @property
    def given_labels(self) -> LabelsT:
        """Labels of student_train as given, noise included."""
        ...

    def with_team(self) -> "ProbTable":
        """Combine the run's student with the team, the exponents fitted (`cosup.team`)."""
        ...

    def untrained(self) -> "ProbTable":
        """Predict with the untrained student."""
        ...

    def trained_on(self, labels: LabelsT) -> Found:
        """Train the student on labels of student_train."""
        ...

    def trained_on_teachers_labels(self) -> Found:
        """Train the student on the labelled samples of teacher_train."""
        ...

    def taught_by(self, level: LevelT, assigner: str) -> Found:
        """Train the student on all of a level's annotations, as this assigner gives them."""
        ...

    def rerun(self, assigner: str) -> Found:
        """Repeat the run's rounds with another assigner."""
        ...

    def without_filters(self) -> Found:
        """Repeat the run's rounds without its filters."""
        ...

    def with_cross_entropy(self) -> Found:
        """Repeat the run's rounds with cross-entropy as the loss."""
        ...

    def self_trained(self) -> Found:
        """Train the student on a generalist's annotations, then on its own predictions."""
        ...

    def team(self) -> "ProbTable":
        """Predict with the teachers of the last round, routed as in that round."""
        ...


@dataclass(frozen=True)
class Control:
    """A control. The name is that of the config, of `summary.json` and of the files of a run."""

    name: str
    run: Callable[["ControlContext[Any, Any]"], Found]
    """Return the class probabilities of the test samples, or, where students are trained, the
    lessons that end with them. Raises `Absent`, at once or in a lesson, if it cannot."""
    title: str
    """Short name for reports."""
    label: str
    """Label of its row in tables and figures of supervisions."""
    sentence: str
    """A noun phrase for "the student beats ...", or "" for a bound, which it is not to beat."""
    needs: frozenset[Need] = frozenset()
    """What a config must have for it."""
    condition: str = ""
    """What a run must have for it, in words; empty if any run has it."""
    is_trained: bool = True
    """Whether a student is trained for it."""
    reads_student: bool = False
    """Whether it depends on the student of the run's rounds, though none is trained for it."""
    reads_labels: bool = False
    """Whether it reads labels of student_train. A bound does, and so does `given_labels`."""
    is_variant: bool = False
    """Whether it is the run itself with one part left out, which shows what that part is worth."""
    headline: bool = False
    """Whether the head of the report shows its accuracy."""
    advice: str = ""
    """How to use what it shows, as the begin of a sentence; empty: "Use" and `sentence`."""

    @property
    def loss_free(self) -> bool:
        """Whether it is the same for runs that differ in their loss alone."""
        return not self.is_trained and not self.reads_student

    @property
    def is_taught(self) -> bool:
        """Whether its student is trained on annotations of teachers, and on no label."""
        return self.is_trained and not self.reads_labels and self.name != LABELS

    @property
    def is_bound(self) -> bool:
        """Whether the control bounds the student's accuracy."""
        return not self.sentence


_TABLE = (
    Control(
        "zero_shot",
        lambda run: run.untrained(),
        title="zero-shot",
        label="student before any training (zero-shot)",
        condition="prototypes on CLIP that start from text (student.head.init: text)",
        sentence="zero-shot CLIP, the same student before training",
        needs=frozenset({"text_prototypes"}),
        is_trained=False,
        headline=True,
    ),
    Control(
        TEAM,
        lambda run: run.team(),
        title="team",
        label="team: the teachers routed at test time, no student",
        condition="teachers that answer new images",
        sentence="the team, which is the teachers routed as in the last round, without a student",
        is_trained=False,
        reads_student=True,
        headline=True,
    ),
    Control(
        PAIR,
        lambda run: run.with_team(),
        title="student and team",
        label="the student together with the routed teachers",
        condition="teachers that answer new images",
        sentence="the student together with its teachers",
        is_trained=False,
        reads_student=True,
        headline=True,
    ),
    Control(
        LABELS,
        lambda run: run.trained_on_teachers_labels(),
        title="labels",
        label="student trained on the teachers' labelled samples",
        condition="teachers that are trained on labelled samples",
        sentence="the same student trained on the teachers' own labelled samples",
        advice="Train the student on the teachers' own labelled samples (control labels)",
        headline=True,
    ),
    Control(
        GENERALIST,
        lambda run: run.taught_by(run.generalists(GENERALIST), "single"),
        title="equal-budget generalist",
        label="student taught by one generalist with all specialists' budget",
        condition="specialists that are trained",
        sentence="a student taught by one generalist with the training budget of all specialists",
    ),
    Control(
        BAGGED,
        lambda run: run.taught_by(run.generalists(BAGGED), "mean"),
        title="bagged generalists",
        label="student taught by the mean of bagged generalists, same budget",
        condition="specialists that are trained",
        sentence="a student taught by the mean of several generalists on bootstrap samples, with "
        "the training budget of all specialists",
    ),
    Control(
        "mean_ensemble",
        lambda run: run.taught_by(run.finest, "mean"),
        title="mean ensemble",
        label="student taught by the mean of the teachers",
        sentence="a student taught by the mean of the teachers",
        advice="Train the student on the mean of the teachers (rounds.assignment: mean)",
    ),
    Control(  # Burns et al. 2023: weak-to-strong generalisation with a single teacher
        "best_teacher",
        lambda run: run.taught_by(run.best_teacher, "single"),
        title="best teacher",
        label="student taught by the best teacher alone",
        sentence="a student taught by the best single teacher",
        advice="Train the student on the best teacher alone (rounds.assignment: single)",
    ),
    Control(
        "self_training",
        lambda run: run.self_trained(),
        title="self-training",
        label="student trained on its own predictions (self-training)",
        sentence="self-training",
    ),
    Control(
        "random_assignment",
        lambda run: run.rerun("random"),
        title="random routing",
        label="random routing",
        sentence="random routing",
    ),
    Control(
        "no_filter",
        lambda run: run.without_filters(),
        title="no filter",
        label="the same run without its filters",
        condition="a filter in rounds.consistency",
        sentence="the same run without its filters",
        advice="Run it without filters (rounds.consistency: [])",
        is_variant=True,
    ),
    Control(
        "plain_loss",
        lambda run: run.with_cross_entropy(),
        title="plain loss",
        label="the same run with cross-entropy as the loss",
        condition="another loss than cross_entropy",
        sentence="the same run with cross-entropy as the loss",
        advice="Run it with cross-entropy (rounds.loss: cross_entropy)",
        is_variant=True,
    ),
    Control(
        "given_labels",
        lambda run: run.trained_on(run.given_labels),
        title="given labels",
        label="student trained on the given labels, without teachers",
        condition="labels of student_train, as data.noise changes them",
        sentence="a student trained on the given labels",
        reads_labels=True,
    ),
    Control(
        "oracle_assignment",
        lambda run: run.rerun("oracle"),
        title="oracle routing",
        label="oracle routing (reads the true labels)",
        condition="the true labels of student_train",
        sentence="",
        reads_labels=True,
    ),
    Control(
        "oracle_without_rounds",
        lambda run: run.taught_by(run.finest, "oracle"),
        title="oracle routing, no rounds",
        label="oracle routing to the finest teachers, without rounds (reads the true labels)",
        condition="the true labels of student_train",
        sentence="",
        reads_labels=True,
    ),
    Control(
        "loss_oracle",
        lambda run: run.taught_by(run.finest, "loss_oracle"),
        title="loss oracle",
        label="each sample's least wrong teacher (reads the true labels)",
        condition="the true labels of student_train",
        sentence="",
        reads_labels=True,
    ),
    Control(
        "ceiling",
        lambda run: run.trained_on(run.true_labels),
        title="ceiling",
        label="student trained on the true labels (ceiling)",
        condition="the true labels of student_train",
        sentence="",
        reads_labels=True,
        headline=True,
    ),
)

CONTROLS: dict[str, Control] = {control.name: control for control in _TABLE}
"""Every control by its name, in the order in which tables and texts have them."""


def needing(need: Need, names: Iterable[str]) -> list[str]:
    """Return those of the named controls that need this."""
    return [name for name in names if need in CONTROLS[name].needs]


def control_title(name: str) -> str:
    """Return a control's name in words; of one that a later version wrote, what its name gives."""
    return CONTROLS[name].title if name in CONTROLS else name.replace("_", " ")
