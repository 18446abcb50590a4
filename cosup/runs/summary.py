"""`summary.json`: the numbers of a run, each from the records of its finished stages.

What a run prints at the end: one table a newcomer understands.
"""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from cosup.controls import CONTROLS, control_title
from cosup.metrics import expected_calibration_error, paired_comparison, pgr, pgr_interval
from cosup.probabilities import ProbTable
from cosup.remote import Place
from cosup.words import in_percent

Numbers = dict[str, Any]


@dataclass(frozen=True)
class TestSplit:
    """The samples that measure: labels [M], domains [M], groups [M] resampled together.

    kinds: [M] indices into `classes`, where the labels are something else: the queries of episodes,
    whose labels are ways.
    """

    labels: Tensor
    domains: Tensor
    groups: Tensor
    classes: tuple[str, ...]
    domain_names: tuple[str, ...]
    kinds: Tensor | None = None

    @property
    def answers(self) -> int:
        """The number of possible answers: classes, or the ways of an episode."""
        return len(self.classes) if self.kinds is None else int(self.labels.max()) + 1

    def correct(self, probs: ProbTable) -> Tensor:
        """[M] bool: is the most probable class the true one? An abstention is not."""
        label, confidence = probs.top()
        return (label == self.labels) & (confidence > 0)

    def accuracy(self, probs: ProbTable) -> float:
        """The share that is right, in [0, 1]."""
        return float(self.correct(probs).double().mean())


def student_numbers(
    test: TestSplit, student: ProbTable, floor: ProbTable, ceiling: ProbTable | None, seed: int
) -> Numbers:
    """The student's accuracy and its PGR with 95 % intervals, and its accuracy by domain and class.

    The intervals are bootstraps (PGR's a paired one) over the test split's groups. PGR is None
    without a ceiling, or where the ceiling isn't above the floor.
    """
    right = test.correct(student)
    value: float | None = None
    interval: list[float] | None = None
    if ceiling is not None:
        bottom, top = test.correct(floor), test.correct(ceiling)
        value = pgr(_mean(bottom), _mean(right), _mean(top))
        if value is not None:
            low_high = pgr_interval(bottom, right, top, groups=test.groups, seed=seed)
            interval = None if low_high is None else [float(bound) for bound in low_high]
    return {
        "accuracy": _mean(right),
        "accuracy_ci95": _interval(test, right, seed),
        "pgr": value,
        "pgr_ci95": interval,
        "per_domain": _by(right, test.domains, test.domain_names),
        "per_class": _by(right, _kinds(test), test.classes),
        "calibration_error": expected_calibration_error(student.dense(), test.labels),
    }


def control_numbers(
    test: TestSplit, controls: Mapping[str, ProbTable], floor: ProbTable, seed: int
) -> dict[str, Numbers]:
    """Each control's test accuracy, its interval and PGR, against the same floor and ceiling."""
    ceiling = test.accuracy(controls["ceiling"]) if "ceiling" in controls else None
    bottom = test.accuracy(floor)
    numbers = {}
    for name, probs in controls.items():
        accuracy = test.accuracy(probs)
        gap = None if ceiling is None else pgr(bottom, accuracy, ceiling)
        interval = _interval(test, test.correct(probs), seed)
        numbers[name] = {"accuracy": accuracy, "accuracy_ci95": interval, "pgr": gap}
    return numbers


def sum_seconds(stages: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Seconds of work per part, summed over the stages (and over resumed runs)."""
    parts = ("data", "teachers", "annotate", "features", "rounds", "controls")
    totals = dict.fromkeys(parts, 0.0)
    for part, spent in stages:
        totals[part] += spent
    return {**{k: round(v, 2) for k, v in totals.items()}, "total": round(sum(totals.values()), 2)}


def peak_rss_mb() -> float:
    """The most memory this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _interval(test: TestSplit, right: Tensor, seed: int) -> list[float]:
    """95 % interval of an accuracy: bootstrap over groups (scans, episodes)."""
    found = paired_comparison(right, torch.zeros_like(right), test.groups, seed=seed)
    return [found.low, found.high]


def _kinds(test: TestSplit) -> Tensor:
    return test.labels if test.kinds is None else test.kinds


def _mean(right: Tensor) -> float:
    return float(right.double().mean())


def _by(right: Tensor, index: Tensor, names: Sequence[str]) -> dict[str, float | None]:
    """Accuracy per class or domain; None for one without a test sample."""
    size = len(names)
    total = torch.bincount(index, minlength=size)
    hits = torch.bincount(index, weights=right.double(), minlength=size)
    return {name: float(hits[i] / total[i]) if total[i] else None for i, name in enumerate(names)}


def summary_table(summary: Mapping[str, Any], directory: Path | Place) -> RenderableType:
    """Teachers, controls, the student, its bounds; what PGR means; and where to look next."""
    seeds = summary["seed"] if isinstance(summary["seed"], list) else []
    over = f", mean over the seeds {', '.join(map(str, seeds))}" if seeds else ""
    title = f"{summary['run']}: accuracy {summary['measured']}, in %{over}"
    table = Table(title=title, title_justify="left")
    table.add_column("who")
    table.add_column("accuracy", justify="right")
    table.add_column("PGR", justify="right")
    for teacher in summary["teachers"]:
        note = " (floor)" if teacher["name"] == summary["floor"]["teacher"] else ""
        table.add_row(f"teacher {teacher['name']} alone{note}", in_percent(teacher["accuracy"]), "")
    table.add_section()
    controls = summary["controls"]
    for name in sorted(controls, key=_is_trained):
        if not _is_bound(name):
            _add_control(table, summary, name)
    table.add_section()
    student = summary["student"]
    table.add_row(
        "[bold]the co-supervised student[/bold]",
        f"[bold]{in_percent(student['accuracy'])}{_spread(summary, 'student.accuracy')}[/bold]",
        f"[bold]{_pgr(student)}[/bold]",
    )
    table.add_section()
    for name in CONTROLS:
        if _is_bound(name) and name in controls:
            _add_control(table, summary, name)
    return Group(table, Text(_explain(summary)), Text(_next(summary, directory)))


def _is_trained(name: str) -> bool:
    return name not in CONTROLS or CONTROLS[name].is_trained


def _is_bound(name: str) -> bool:
    return name in CONTROLS and CONTROLS[name].is_bound


def _add_control(table: Table, summary: Mapping[str, Any], name: str) -> None:
    numbers = summary["controls"][name]
    accuracy = in_percent(numbers["accuracy"]) + _spread(summary, f"controls.{name}.accuracy")
    label = CONTROLS[name].label if name in CONTROLS else control_title(name)
    table.add_row(label, accuracy, in_percent(numbers["pgr"]))


def _spread(summary: Mapping[str, Any], number: str) -> str:
    """The deviation over seeds, where several were run; else, of episodes, the interval."""
    deviation = summary.get("over_seeds", {}).get(number, {}).get("deviation")
    if deviation is not None:
        return f" ± {in_percent(deviation)}"
    if "episodes" not in summary["data"] or summary.get("over_seeds"):
        return ""
    found: Any = summary
    for key in f"{number}_ci95".split("."):
        found = found[key]
    return rf" \[{in_percent(found[0])}, {in_percent(found[1])}]"


def _pgr(student: Mapping[str, Any]) -> str:
    text = in_percent(student["pgr"])
    if student["pgr_ci95"] is None:
        return text
    low, high = student["pgr_ci95"]
    return f"{text} [{in_percent(low)}, {in_percent(high)}]".replace("[", r"\[")


def _explain(summary: Mapping[str, Any]) -> str:
    last = summary["rounds"][-1]
    lines = []
    if "episodes" in summary["data"]:
        lines.append("In brackets beside an accuracy: its 95 % interval over episodes.")
    if summary["student"]["pgr"] is not None:
        lines.append(
            "PGR, performance gap recovered: 0 is the best teacher alone (the floor), 100 the same "
            "student trained on true labels (the ceiling); in brackets its 95 % interval."
        )
    elif "ceiling" in summary["controls"]:
        lines.append(
            "No PGR: the ceiling (the same student trained on true labels) isn't above the floor "
            "(the best teacher alone)."
        )
    else:
        lines.append("No PGR: it needs the control 'ceiling'.")
    if last["assignment_accuracy"] is not None:
        lines.append(
            f"Last round: {in_percent(last['assignment_accuracy'])} % of the samples went to a "
            f"teacher who knows their kind; {in_percent(last['kept'])} % of the annotations were "
            f"kept, {in_percent(last['kept_precision'])} % of those are right."
        )
    if last.get("noise") is not None:
        lines.append(
            f"Labels as given: {in_percent(last['noise'])} % of student_train's are wrong; "
            f"rejected were {in_percent(last['noise_rejected'])} % of those samples, and "
            f"{in_percent(last['clean_rejected'])} % of the others."
        )
    if summary["data"]["broken"]:
        broken = summary["data"]["broken"]
        more = ", ..." if len(broken) > 3 else ""
        lines.append(f"broken images set aside: {len(broken)} ({', '.join(broken[:3])}{more})")
    return "\n".join(lines)


def _next(summary: Mapping[str, Any], directory: Path | Place) -> str:
    last = summary["rounds"][-1]["round"]
    one = ""  # several seeds: a directory for each, all alike
    if isinstance(summary["seed"], list):
        one = f"seed-{summary['seed'][0]}/"
    rows = (
        ("every number", "summary.json"),
        ("who taught which sample", f"{one}decisions/round-{last}.parquet"),
        ("the report", f"{one}report/index.html"),
        ("the trained student", f"{one}student/"),
    )
    lines = [f"  {what:<24} {directory / where}" for what, where in rows]
    curves = f"  {'curves':<24} tensorboard --logdir {directory}"
    return "\n".join(["Where to look next:", *lines, curves])
