"""What a run prints at the end: one table a newcomer understands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.remote import Place

CONTROL_LABELS = {
    "zero_shot": "student before any training (CLIP's zero-shot)",
    "best_teacher": "student taught by the best teacher alone",
    "mean_ensemble": "student taught by the mean of the teachers",
    "equal_budget_generalist": "student taught by one generalist with all specialists' budget",
    "self_training": "student that goes on with its own labels",
    "random_assignment": "as cosup, teachers drawn at random",
    "oracle_assignment": "as cosup, teachers chosen by the truth (oracle)",
    "given_labels": "student trained on the labels as given, without teachers",
    "ceiling": "student trained on the true labels (ceiling)",
}
FIRST = "zero_shot"
BOUNDS = ("oracle_assignment", "ceiling")


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
        table.add_row(f"teacher {teacher['name']} alone{note}", percent(teacher["accuracy"]), "")
    table.add_section()
    controls = summary["controls"]
    for name in sorted(controls, key=lambda name: name != FIRST):
        if name not in BOUNDS:
            _add_control(table, summary, name)
    table.add_section()
    student = summary["student"]
    table.add_row(
        "[bold]the co-supervised student[/bold]",
        f"[bold]{percent(student['accuracy'])}{_spread(summary, 'student.accuracy')}[/bold]",
        f"[bold]{_pgr(student)}[/bold]",
    )
    table.add_section()
    for name in BOUNDS:
        if name in controls:
            _add_control(table, summary, name)
    return Group(table, Text(_explain(summary)), Text(_next(summary, directory)))


def percent(value: float | None) -> str:
    """A fraction as percent with one digit; a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def _add_control(table: Table, summary: Mapping[str, Any], name: str) -> None:
    numbers = summary["controls"][name]
    accuracy = percent(numbers["accuracy"]) + _spread(summary, f"controls.{name}.accuracy")
    table.add_row(CONTROL_LABELS.get(name, name), accuracy, percent(numbers["pgr"]))


def _spread(summary: Mapping[str, Any], number: str) -> str:
    """The deviation over seeds, where several were run; else, of episodes, the interval."""
    deviation = summary.get("over_seeds", {}).get(number, {}).get("deviation")
    if deviation is not None:
        return f" ± {percent(deviation)}"
    if not summary["measured"].startswith("over") or summary.get("over_seeds"):
        return ""
    found: Any = summary
    for key in f"{number}_ci95".split("."):
        found = found[key]
    return rf" \[{percent(found[0])}, {percent(found[1])}]"


def _pgr(student: Mapping[str, Any]) -> str:
    text = percent(student["pgr"])
    if student["pgr_ci95"] is None:
        return text
    low, high = student["pgr_ci95"]
    return f"{text} [{percent(low)}, {percent(high)}]".replace("[", r"\[")


def _explain(summary: Mapping[str, Any]) -> str:
    last = summary["rounds"][-1]
    lines = []
    if summary["measured"].startswith("over"):
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
            f"Last round: {percent(last['assignment_accuracy'])} % of the samples went to a "
            f"teacher who knows their kind; {percent(last['kept'])} % of the annotations were "
            f"kept, {percent(last['kept_precision'])} % of those are right."
        )
    if last.get("noise") is not None:
        lines.append(
            f"Labels as given: {percent(last['noise'])} % of student_train's are wrong; rejected "
            f"were {percent(last['noise_rejected'])} % of those samples, and "
            f"{percent(last['clean_rejected'])} % of the others."
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
