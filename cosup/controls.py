"""The controls: the same student on the same samples, with a simpler supervision.

`CONTROLS` has an entry for each control: its computation, its requirements and its labels.
The config schema, the run, the table it prints and the report read it, so a new control is one
entry. Those that read the true labels (the oracle, the ceiling) bound what assignment, and what any
supervision, could reach. The module imports no torch: the schema needs the names alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from cosup.levels import Level
    from cosup.probabilities import ProbTable

__all__ = [
    "CONTROLS",
    "GENERALIST",
    "Control",
    "ControlContext",
    "Need",
    "control_title",
    "needing",
]

Need = Literal["labels", "text_prototypes", "generalist"]
"""labels: true labels of student_train. text_prototypes: a head that starts from text features.
generalist: a teacher of the whole task, trained with the budget of all specialists."""

GENERALIST = "equal_budget_generalist"
"""The name of that teacher, and of the control that it teaches."""


class ControlContext(Protocol):
    """What a control is computed from: a run's task and ways to train its student.

    Each method returns the class probabilities of the test samples.
    """

    @property
    def finest(self) -> "Level":
        """The finest level of the hierarchy."""
        ...

    @property
    def best_teacher(self) -> "Level":
        """A level of the best single teacher alone."""
        ...

    @property
    def generalist(self) -> "Level":
        """A level of the generalist alone that was trained with the specialists' budget."""
        ...

    @property
    def true_labels(self) -> "Tensor":
        """True labels [N] int64 of student_train, -1 where unknown."""
        ...

    @property
    def given_labels(self) -> "Tensor":
        """Labels [N] int64 of student_train as given, noise included, -1 where unknown."""
        ...

    def untrained(self) -> "ProbTable":
        """Predict with the untrained student."""
        ...

    def trained_on(self, labels: "Tensor") -> "ProbTable":
        """Train the student on labels [N] with cross-entropy."""
        ...

    def taught_by(self, level: "Level", assigner: str) -> "ProbTable":
        """Train the student once on all of a level's annotations with cross-entropy."""
        ...

    def rerun(self, assigner: str) -> "ProbTable":
        """Repeat the run's rounds with another assigner."""
        ...

    def self_trained(self) -> "ProbTable":
        """Train the student on the coarsest level, then on its own predictions."""
        ...


@dataclass(frozen=True)
class Control:
    """A control. The name is that of the config, of `summary.json` and of the files of a run."""

    name: str
    run: Callable[[ControlContext], "ProbTable"]
    """Compute the class probabilities of the test samples."""
    title: str
    """Short name for reports."""
    label: str
    """Label of its row in tables and figures of supervisions."""
    sentence: str
    """A noun phrase for "the student beats ...", or "" for a bound, which it is not to beat."""
    needs: frozenset[Need] = frozenset()
    """What a run must have for it."""
    uses_run_loss: bool = False
    """Whether it depends on the run's loss; if not, runs that differ in their loss share it."""
    is_trained: bool = True
    """Whether its student is trained at all."""
    headline: bool = False
    """Whether the head of the report shows its accuracy."""

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
        sentence="zero-shot CLIP, the same student before training",
        needs=frozenset({"text_prototypes"}),
        is_trained=False,
        headline=True,
    ),
    Control(
        GENERALIST,
        lambda run: run.taught_by(run.generalist, "single"),
        title="equal-budget generalist",
        label="student taught by one generalist with all specialists' budget",
        sentence="a student taught by one generalist with the training budget of all specialists",
        needs=frozenset({"generalist"}),
        headline=True,
    ),
    Control(
        "mean_ensemble",
        lambda run: run.taught_by(run.finest, "mean"),
        title="mean ensemble",
        label="student taught by the mean of the teachers",
        sentence="a student taught by the mean of the teachers",
        headline=True,
    ),
    Control(  # Burns et al. 2023: weak-to-strong generalisation with a single teacher
        "best_teacher",
        lambda run: run.taught_by(run.best_teacher, "single"),
        title="best teacher",
        label="student taught by the best teacher alone",
        sentence="a student taught by the best single teacher",
    ),
    Control(
        "self_training",
        lambda run: run.self_trained(),
        title="self-training",
        label="student trained on its own predictions (self-training)",
        sentence="self-training",
        uses_run_loss=True,
    ),
    Control(
        "random_assignment",
        lambda run: run.rerun("random"),
        title="random routing",
        label="random routing",
        sentence="random routing",
        uses_run_loss=True,
    ),
    Control(
        "given_labels",
        lambda run: run.trained_on(run.given_labels),
        title="given labels",
        label="student trained on the given labels, without teachers",
        sentence="a student trained on the given labels",
        needs=frozenset({"labels"}),
    ),
    Control(
        "oracle_assignment",
        lambda run: run.rerun("oracle"),
        title="oracle routing",
        label="oracle routing (reads the true labels)",
        sentence="",
        needs=frozenset({"labels"}),
        uses_run_loss=True,
    ),
    Control(
        "ceiling",
        lambda run: run.trained_on(run.true_labels),
        title="ceiling",
        label="student trained on the true labels (ceiling)",
        sentence="",
        needs=frozenset({"labels"}),
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
