"""The head of the page: the run's name, what it is, its main numbers, and what it lacks.

The page's last part: how to run it again, in what environment it ran, and its config.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import yaml

from cosup import words
from cosup.analysis import Run


@dataclass(frozen=True)
class Number:
    """A number of the head line."""

    name: str
    value: str
    unit: str = ""
    note: str = ""
    main: bool = False


@dataclass(frozen=True)
class Head:
    """What stands above the sections."""

    name: str
    subtitle: str
    numbers: list[Number]
    warnings: list[str]


def make_head(run: Run, tables: Mapping[str, pd.DataFrame]) -> Head:
    """The head of a run's page."""
    return Head(run.name, subtitle(run), _numbers(run, tables), warnings(run))


def subtitle(run: Run) -> str:
    """What was measured on what, in a line."""
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
    if "measured" in run.summary:
        parts.append(f"accuracy {run.summary['measured']}")
    seed = config.get("run", {}).get("seed")
    parts.append(f"seed {seed}")
    return ", ".join(parts) + "."


def warnings(run: Run) -> list[str]:
    """What a reader must know first: an unfinished run, and what it has not got."""
    if run.finished and not run.missing:
        return []
    what = "This run is not finished" if not run.finished else "This run's records are incomplete"
    return [
        f"{what}: there is no {words.listed(run.missing, 12)}. The page shows what there is."
        if run.missing
        else f"{what}. The page shows what there is."
    ]


def _numbers(run: Run, tables: Mapping[str, pd.DataFrame]) -> list[Number]:
    if "overview" not in tables:
        return []
    table = tables["overview"]
    numbers = [
        _accuracy(table, "student", "student", "student", main=True),
        _floor(run, table),
        _accuracy(table, "control", "zero_shot", "zero-shot"),
        _accuracy(table, "control", "ceiling", "ceiling"),
        _accuracy(table, "control", "mean_ensemble", "mean ensemble"),
        _accuracy(table, "control", "equal_budget_generalist", "equal-budget generalist"),
    ]
    pgr = _pgr(run, table)
    return [number for number in (*numbers[:1], pgr, *numbers[1:]) if number is not None]


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
    return _accuracy(table, "teacher", str(floor.get("teacher")), "floor: the best teacher")


def _pgr(run: Run, table: pd.DataFrame) -> Number | None:
    """Performance gap recovered, as the run's summary has it."""
    student = run.summary.get("student", {})
    if student.get("pgr") is None:
        return None
    span = student.get("pgr_ci95") or (None, None)
    note = words.interval(*span)
    return Number("PGR, gap recovered", words.in_percent(student["pgr"]), "%", note, True)


@dataclass(frozen=True)
class Block:
    """Text, a small table of facts, or code, under a title; `open` ones are not folded."""

    title: str
    text: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    code: str = ""
    open: bool = False


def make_blocks(run: Run) -> list[Block]:
    """How to reproduce a run, its environment and its config."""
    return [_again(run), _environment(run), _config(run)]


def _again(run: Run) -> Block:
    environment = run.environment
    text = [
        "The same config, seed, machine and number of threads give the same numbers; another "
        "number of threads rounds otherwise.",
        "In the folder above the run's directory:",
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
        lines.append("# or go on with it:")
        lines.append(f"cosup run {config} --output {shlex.quote(directory)} --resume")
    return Block("Run it again", text, code="\n".join(lines), open=True)


def _environment(run: Run) -> Block:
    environment = run.environment
    facts = [(name, value) for name, value in _flat(environment) if name not in _PRIVATE]
    peak = run.summary.get("peak_rss_mb")
    if peak is not None:
        facts.insert(0, ("peak memory", f"{words.number(peak)} MiB"))
    text = [] if facts else ["The run has not kept its environment."]
    return Block("Environment", text, facts)


_PRIVATE = ("working_directory", "command")
"""Paths of the machine that it ran on are nobody's business."""


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} " if name != "packages" else "")
        elif isinstance(value, list):
            yield f"{above}{name}", shlex.join(map(str, value))
        elif value is not None:
            yield f"{above}{name}", str(value)


def _config(run: Run) -> Block:
    text = ["As resolved: what the config file left out has its default here."]
    code = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    return Block("Config", text, code=code.rstrip())
