"""Tables that a run prints at its end."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.analysis.next_steps import Step
from cosup.controls import CONTROLS, PAIR, control_title
from cosup.layout import Layout
from cosup.remote import Place
from cosup.report.terminal import steps_text
from cosup.sources import STUDENT
from cosup.words import in_percent, interval

MOST_SETS = 5
"""Shifted test sets that the terminal shows."""


def summary_table(summary: Mapping[str, Any], directory: Path | Place) -> RenderableType:
    """Return what a run prints at its end: table, files, and what to use and why."""
    seeds = summary["seed"] if isinstance(summary["seed"], list) else []
    over = f", mean over the seeds {', '.join(map(str, seeds))}" if seeds else ""
    name = directory_name(directory)
    if summary.get("measured", "") is None:
        table = estimates_table(summary, name, over)
        return Group(table, Text(_files(summary, directory)), *_verdict(summary, directory))
    title = f"{name}: accuracy {summary['measured']}, in %{over}"
    table = titled_table(title)
    table.add_column("supervision")
    table.add_column("accuracy", justify="right")
    table.add_column("PGR", justify="right")
    _add_teachers(table, summary)
    table.add_section()
    controls = summary["controls"]
    for name in sorted(controls, key=_is_trained):
        if not _is_bound(name) and name != PAIR:
            _add_control(table, summary, name)
    table.add_section()
    student = summary["student"]
    table.add_row(
        "[bold]co-supervised student[/bold]",
        f"[bold]{in_percent(student['accuracy'])}{_spread(summary, 'student.accuracy')}[/bold]",
        f"[bold]{_pgr(student)}[/bold]",
    )
    if PAIR in controls:
        _add_control(table, summary, PAIR)
    table.add_section()
    for name in CONTROLS:
        if _is_bound(name) and name in controls:
            _add_control(table, summary, name)
    _add_published(table, summary)
    parts = [Text(_explain(summary)), Text(_files(summary, directory))]
    return Group(table, *_on_shifted(summary), *parts, *_verdict(summary, directory))


def titled_table(title: str) -> Table:
    """Return a table whose title is one line, also where the table is narrower."""
    text = Text(title, "table.title", no_wrap=True, overflow="ignore")
    return Table(title=text, title_justify="left")


def _verdict(summary: Mapping[str, Any], directory: Path | Place) -> list[RenderableType]:
    """Return whether the run helped, the verdict, and what to do next."""
    sentences, told = summary.get("verdict") or [], summary.get("outcome")
    lines = [f"{told['headline']}."] if told else []
    parts: list[RenderableType] = []
    if lines or sentences:
        parts.append(Text("\n".join(["", *lines, *sentences]), style="bold"))
    several = isinstance(summary["seed"], list)
    part = Layout(Path()).of_seed(summary["seed"][0]).path if several else Path()
    whose = f", by seed {summary['seed'][0]}" if several else ""
    steps = [Step(**step) for step in summary.get("next") or []]
    return [*parts, *steps_text(steps, directory / str(part) if several else directory, whose)]


def estimates_table(summary: Mapping[str, Any], name: str, over: str = "") -> Table:
    """Return what a run without a test split prints: each source as it is estimated.

    name: of the run's directory.
    """
    title = f"{name}: how often each source is right, estimated without labels, in %{over}"
    table = titled_table(title)
    for name in ("source", "answers", "right", "agrees with the labels", "with the student"):
        table.add_column(name, justify="left" if name == "source" else "right")
    agreement = summary["agreement"]["sources"]
    for name, source in summary["sources"].items():
        bounds = source["reliability_ci95"]
        spread = "" if bounds is None else rf" \{interval(*bounds)}"
        shares = agreement[name]
        if name == STUDENT:
            table.add_section()
        table.add_row(
            "co-supervised student" if name == STUDENT else f"teacher {name}",
            in_percent(source["coverage"]),
            f"{in_percent(source['reliability'])}{spread}",
            in_percent(shares["labels"]),
            "" if name == STUDENT else in_percent(shares["student"]),
        )
    table.add_section()
    right = in_percent(summary["labels"]["estimated_right"])
    table.add_row("labels of student_train", "100.0", right, "", "")
    return table


def directory_name(directory: Path | Place) -> str:
    """Return the name of a run's directory, which `--output` may have set apart from `run.name`."""
    if isinstance(directory, Place):
        return directory.uri.partition("?")[0].rstrip("/").rpartition("/")[2]
    return directory.resolve().name


def _add_teachers(table: Table, summary: Mapping[str, Any]) -> None:
    """Add the teachers' accuracy where they answer; with intervals and coverage if some abstain."""
    abstains = any(_coverage(teacher) < 1 for teacher in summary["teachers"])
    for teacher in summary["teachers"]:
        note = " (simulated)" if teacher.get("simulated") else ""
        note += " (floor)" if teacher["name"] == summary["floor"]["teacher"] else ""
        accuracy = in_percent(teacher["accuracy"]) + (_spread_of(teacher) if abstains else "")
        if _coverage(teacher) < 1:
            note += f", answers {in_percent(_coverage(teacher))} %"
        table.add_row(f"teacher {teacher['name']}{note}", accuracy, "")


def _add_published(table: Table, summary: Mapping[str, Any]) -> None:
    """Add the figures that published code would give (`cosup.runs.published`), if there are any."""
    found = summary.get("published")
    if found is None:
        return
    table.add_section()
    if found["floor"] is not None:
        label = "as published: the generalist on student_train (floor)"
        table.add_row(label, in_percent(found["floor"]), "")
    epochs = f"best of {found['student']['epochs']:g} epochs"
    label = f"as published: student, {epochs}, selected on the test split"
    table.add_row(label, in_percent(found["student"]["accuracy"]), in_percent(found["pgr"]))


def _on_shifted(summary: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the accuracies on the shifted test sets (`data.shifted`) beside the test split's."""
    sets = dict(list((summary.get("shifted") or {}).items())[:MOST_SETS])
    if not sets:
        return
    more = len(summary["shifted"]) - len(sets)
    title = "on shifted test sets" + (
        f" (the first {len(sets)}; the report has all)" if more else ""
    )
    table = titled_table(title)
    table.add_column("supervision")
    for name in ("test", *sets):
        table.add_column(name, justify="right")
    columns = [summary, *sets.values()]
    floor = f"teacher {summary['floor']['teacher']} (floor)"
    table.add_row(floor, *(in_percent(one["floor"]["accuracy"]) for one in columns))
    for name in (name for name in CONTROLS if name in summary["controls"]):
        found = [one["controls"].get(name, {}).get("accuracy") for one in columns]
        table.add_row(CONTROLS[name].label, *map(in_percent, found))
    table.add_section()
    student = (in_percent(one["student"]["accuracy"]) for one in columns)
    table.add_row("[bold]co-supervised student[/bold]", *student)
    yield table


def _coverage(teacher: Mapping[str, Any]) -> float:
    found = teacher.get("coverage")
    return 1.0 if found is None else float(found)


def _spread_of(teacher: Mapping[str, Any]) -> str:
    bounds = teacher.get("accuracy_ci95")
    return "" if bounds is None else rf" \{interval(*bounds)}"


def _is_trained(name: str) -> bool:
    return name not in CONTROLS or CONTROLS[name].is_trained


def _is_bound(name: str) -> bool:
    return name in CONTROLS and CONTROLS[name].is_bound


def _add_control(table: Table, summary: Mapping[str, Any], name: str) -> None:
    numbers = summary["controls"][name]
    accuracy = in_percent(numbers["accuracy"]) + _spread(summary, f"controls.{name}.accuracy")
    label = CONTROLS[name].label if name in CONTROLS else control_title(name)
    if _is_bound(name) and numbers["accuracy"] < _highest(summary):
        label += ": no bound here"
    table.add_row(label, accuracy, in_percent(numbers["pgr"]))


def _highest(summary: Mapping[str, Any]) -> float:
    """Return the highest accuracy of a student taught by the sources, which no bound is below."""
    taught = [
        numbers
        for name, numbers in summary["controls"].items()
        if name in CONTROLS and CONTROLS[name].is_taught
    ]
    return max(float(numbers["accuracy"]) for numbers in (summary["student"], *taught))


def _spread(summary: Mapping[str, Any], number: str) -> str:
    """Return the deviation over seeds, or without several seeds the interval over episodes."""
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
    lines = []
    if "episodes" in summary["data"]:
        lines.append("In brackets after an accuracy: its 95 % interval over episodes.")
    if any(_coverage(teacher) < 1 for teacher in summary["teachers"]):
        lines.append(
            "Teachers are measured where they answer, with the 95 % interval over test samples."
        )
    lines += _pgr_lines(summary["student"])
    lines += _last_round(summary["rounds"][-1])
    if summary["data"]["broken"]:
        broken = summary["data"]["broken"]
        more = ", ..." if len(broken) > 3 else ""
        lines.append(f"Unreadable images left out: {len(broken)} ({', '.join(broken[:3])}{more})")
    return "\n".join(lines)


def _pgr_lines(student: Mapping[str, Any]) -> Iterator[str]:
    """Yield what PGR means, or why it is not given, and the PGR against the team."""
    if student["pgr"] is None:
        yield f"No PGR (performance gap recovered): {student['pgr_reason']}."
    else:
        yield (
            "PGR (performance gap recovered): 0 is the best teacher alone (floor), 100 is the same "
            "student trained on true labels (ceiling). In brackets: its 95 % interval."
        )
    team = student.get("pgr_team") or {}
    if team.get("value") is not None:
        shown = interval(*team["ci95"]) if team["ci95"] else ""
        yield f"PGR with the team of teachers as the floor: {in_percent(team['value'])} {shown}"


def _last_round(last: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the last round was assigned and filtered, as far as true labels are known."""
    if last["annotation_accuracy"] is not None:
        routed = ""
        if last["assignment_accuracy"] is not None:
            routed = (
                f"{in_percent(last['assignment_accuracy'])} % of the weight on specialists was on "
                "those whose scope contains the sample; "
            )
        best = ""
        if last.get("best_choice") is not None:
            best = f" (the best choice per sample: {in_percent(last['best_choice'])} %)"
        yield (
            f"Last round: {routed}{in_percent(last['annotation_accuracy'])} % of the assigned "
            f"annotations are correct{best}; {in_percent(last['kept'])} % were kept, of which "
            f"{in_percent(last['kept_precision'])} % are correct."
        )
    if last.get("noise") is not None:
        yield (
            f"Label noise: {in_percent(last['noise'])} % of the given labels of student_train are "
            f"wrong; {in_percent(last['noise_rejected'])} % of those samples were rejected, and "
            f"{in_percent(last['clean_rejected'])} % of the others."
        )


def _files(summary: Mapping[str, Any], directory: Path | Place) -> str:
    """List the files to read next."""
    root = Layout(Path())
    several = isinstance(summary["seed"], list)  # then every seed has a directory of its own
    one = root.of_seed(summary["seed"][0]) if several else root
    last = summary["rounds"][-1]["round"]
    rows: dict[str, Path | str] = {
        "all numbers": root.summary.path,
        "decisions per sample": one.round(last).decisions.path,
        "labels": one.labels.path,
        "report": one.page,
        "trained student": f"{one.student}/",
    }
    if "shards" in summary["data"]:
        rows["decisions per sample"] = one.shards / "decisions" / f"round-{last}"
        rows["labels"] = one.shard_labels
    return file_list(rows, directory)


def file_list(rows: Mapping[str, Path | str], directory: Path | Place) -> str:
    """Return lines with the path of each file, and how to see the curves.

    TensorBoard does not read a URI as cosup does (options, credentials), so none is named there.
    """
    lines = [f"  {name:<24} {directory / str(path)}" for name, path in rows.items()]
    if not isinstance(directory, Place):
        lines.append(f"  {'curves':<24} tensorboard --logdir {shlex.quote(str(directory))}")
    return "\n".join(["Files:", *lines])
