"""The first and the last part of the page.

The head has the run's name, its data, its main numbers and warnings. The last section has the
commands that reproduce the run, its environment and its config.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import yaml

from cosup import words
from cosup.analysis import Run
from cosup.analysis.alternatives import best_control, overview_rows
from cosup.analysis.arrays import Row
from cosup.analysis.next_steps import next_steps
from cosup.analysis.outcome import Outcome, outcome
from cosup.analysis.unmeasured import best_source
from cosup.controls import CONTROLS, control_title
from cosup.secrets import mask


@dataclass(frozen=True)
class Number:
    """A number of the headline. note: its interval. main: in colour."""

    name: str
    value: str
    unit: str = ""
    note: str = ""
    main: bool = False


@dataclass(frozen=True)
class Head:
    """The part of the page above the sections. steps: (text, command) of what to do next."""

    name: str
    subtitle: str
    outcome: Outcome | None
    steps: list[tuple[str, str]]
    numbers: list[Number]
    warnings: list[str]


def make_head(run: Run, tables: Mapping[str, pd.DataFrame]) -> Head:
    """Make the head of a run's page."""
    # A page is shared, so it has no path of the machine.
    place = run.path.name if run.path.is_absolute() else run.path
    steps = [(step.text, step.command_for(place)) for step in next_steps(run, tables)]
    told = outcome(run, tables)
    numbers = _numbers(run, tables)
    if told is not None and told.answer == "no":
        numbers = [replace(number, main=False) for number in numbers]
    return Head(run.title, subtitle(run), told, steps, numbers, warnings(run))


def subtitle(run: Run) -> str:
    """Describe the data, the teachers and the measure in one line."""
    config, parts = run.config, []
    data = config.get("data", {}).get("source")
    name = data.get("name") if isinstance(data, Mapping) else data
    if name:
        parts.append(f"Data {name}")
    for items, noun in ((run.classes, "class"), (run.domains, "domain")):
        if len(items) > 1:
            parts.append(words.plural(len(items), noun))
    teachers = len(run.teacher_names)
    if teachers:
        parts.append(words.plural(teachers, "teacher"))
    if run.summary.get("measured"):
        parts.append(f"accuracy {run.summary['measured']}")
    seed = config.get("run", {}).get("seed")
    parts.append(f"seed {seed}")
    return ", ".join(parts) + "."


def warnings(run: Run) -> list[str]:
    """Return warnings: of simulated teachers, an unfinished run, missing records."""
    found = []
    external = run.config.get("teachers", {}).get("external", [])
    names = [str(one["name"]) for one in external if one.get("simulate")]
    if names:
        whose = words.listed(names, 12)
        found.append(f"Simulated from the true labels, so no measurement of anybody: {whose}.")
    if run.finished and not run.missing:
        return found
    problem = "The records of this run are incomplete"
    if not run.finished:
        problem = "This run is not finished"
    missing = f" Missing: {words.listed(run.missing, 12)}." if run.missing else ""
    return [*found, f"{problem}.{missing} The report covers the records that exist."]


def _numbers(run: Run, tables: Mapping[str, pd.DataFrame]) -> list[Number]:
    if "overview" not in tables:
        return _estimates(run)
    table = tables["overview"]
    rows = overview_rows(tables)
    best = best_control(rows)
    shown = [control for control in CONTROLS.values() if control.headline]
    return list(
        filter(
            None,
            [
                _accuracy(table, "student", "student", "student", main=True),
                _pgr(run),
                _pgr_team(run),
                _floor(run, table),
                _best_control(table, best),
                *(
                    _accuracy(table, "control", control.name, control.title)
                    for control in shown
                    if best is None or control.name != best["who"]
                ),
            ],
        )
    )


def _estimates(run: Run) -> list[Number]:
    """Return the student, the best source and the labels of a run without a test split."""
    sources, labels = run.summary.get("sources"), run.summary.get("labels")
    if not sources or not labels:
        return []
    entries = [("student", sources["student"])]
    best = best_source(sources)
    if best is not None:
        entries.append((f"best source: {best[0]}", best[1]))
    found = [
        Number(
            f"{name}, estimated",
            words.in_percent(one["reliability"]),
            "%",
            words.interval(*(one["reliability_ci95"] or (None, None))),
            main=name == "student",
        )
        for name, one in entries
        if one["reliability"] is not None
    ]
    right = words.in_percent(labels["estimated_right"])
    return [*found, Number("labels right, estimated", right, "%")]


def _best_control(table: pd.DataFrame, best: Row | None) -> Number | None:
    """Return the most accurate of the controls that read no true label."""
    if best is None:
        return None
    who = str(best["who"])
    return _accuracy(table, "control", who, f"best control: {control_title(who)}")


def _accuracy(
    table: pd.DataFrame, kind: str, who: str, name: str, main: bool = False
) -> Number | None:
    row = table[(table["kind"].astype(str) == kind) & (table["who"].astype(str) == who)]
    if not len(row):
        return None
    one: Any = row.iloc[0]
    note = words.interval(one["low"], one["high"])
    return Number(name, words.in_percent(one["accuracy"]), "%", note, main)


def _floor(run: Run, table: pd.DataFrame) -> Number | None:
    floor = run.summary.get("floor") or run.prepared.get("floor")
    if not isinstance(floor, Mapping) or floor.get("accuracy") is None:
        return None
    return _accuracy(table, "teacher", str(floor.get("teacher")), "floor: the best single teacher")


def _pgr(run: Run) -> Number | None:
    """Return the performance gap recovered from the run's summary, or why it is not given."""
    student = run.summary.get("student", {})
    name = "performance gap recovered (PGR)"
    if student.get("pgr_ci95") is None:
        reason = student.get("pgr_reason")
        return Number(name, words.NONE, note=reason) if reason else None
    return _gap(name, student["pgr"], student["pgr_ci95"], main=True)


def _pgr_team(run: Run) -> Number | None:
    """Return the performance gap recovered with the team as the floor, where it is given."""
    team = run.summary.get("student", {}).get("pgr_team") or {}
    if not team.get("ci95"):
        return None
    return _gap("PGR over the team", team["value"], team["ci95"])


def _gap(name: str, value: float, bounds: tuple[float, float], main: bool = False) -> Number:
    """Return a performance gap recovered; of a student below its floor, that it is."""
    number, note = words.in_percent(value), words.interval(*bounds)
    if bounds[1] < 0:
        return Number(name, "below the floor", note=f"{number} % {note}")
    return Number(name, number, "%", note, main)


@dataclass(frozen=True)
class TextBlock:
    """Text, a table of facts, or code under a title. open: shown without a click."""

    title: str
    text: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    code: str = ""
    open: bool = False


def make_blocks(run: Run) -> list[TextBlock]:
    """Make the blocks with commands, environment and config."""
    return [_commands(run), _environment(run), _config(run)]


def _commands(run: Run) -> TextBlock:
    environment = run.environment
    text = [
        "The same config, seed, machine and number of threads give the same numbers. With another "
        "number of threads rounding differs.",
        "Run these commands in the parent folder of the run's directory:",
    ]
    directory = run.path.name
    lines = []
    version = environment.get("packages", {}).get("cosup")
    commit = environment.get("commit") or {}
    if version:
        at = f", commit {commit['id'][:12]}" if commit.get("id") else ""
        changed = " with local changes" if commit.get("changed") else ""
        lines.append(f"# cosup {version}{at}{changed}")
    threads = environment.get("cpu", {}).get("threads")
    config, again = shlex.quote(f"{directory}/config.yaml"), shlex.quote(f"{directory}-again")
    fixed = f"OMP_NUM_THREADS={threads} " if threads else ""
    lines.append(f"{fixed}cosup run {config} --output {again}")
    lines.append(f"cosup compare {shlex.quote(directory)} {again}")
    if not run.finished:
        lines.append("# or resume it:")
        lines.append(f"cosup run {config} --output {shlex.quote(directory)} --resume")
    return TextBlock("Reproduce the run", text, code="\n".join(lines), open=True)


def _environment(run: Run) -> TextBlock:
    environment = run.environment
    facts = [(name, value) for name, value in _flat(environment) if name not in _PRIVATE]
    peak = run.summary.get("peak_rss_mb")
    if peak is not None:
        facts.insert(0, ("peak memory", f"{words.number(peak)} MiB"))
    text = [] if facts else ["The environment of the run was not recorded."]
    return TextBlock("Environment", text, facts)


_PRIVATE = ("working_directory", "command")
"""Left out, as they contain paths of the machine."""


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} " if name != "packages" else "")
        elif isinstance(value, list):
            yield f"{above}{name}", shlex.join(map(str, value))
        elif value is not None:
            yield f"{above}{name}", str(value)


def _config(run: Run) -> TextBlock:
    text = ["The resolved config, including defaults."]
    code = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    return TextBlock("Config", text, code=mask(code.rstrip()))
