"""Which teacher is assigned which samples, and how samples move between teachers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from cosup import words
from cosup.analysis.arrays import (
    Row,
    count_groups,
    highest_row,
    largest,
    lowest_row,
    names_in_order,
    rows_of,
)
from cosup.analysis.decisions import all_decisions
from cosup.analysis.drawing import Cell, Flow, FlowNode, Link, Matrix, View
from cosup.analysis.figure import Figure, Unavailable
from cosup.analysis.records import Run
from cosup.words import percent, plural

__all__ = ["ASSIGNMENT_FIGURE", "FLOW_FIGURE"]

MOST_ROWS, MOST_COLUMNS, MOST_NODES, MOST_ROUNDS = 24, 24, 10, 5
OTHERS = "others"
TONES = 6
GAP = 0.025
"""Space between two boxes of a column, as a share of the height."""


def assignment_table(run: Run) -> pd.DataFrame:
    """Make the table of assignments: a row per round, teacher and domain or true class.

    Columns: round, teacher, by ("domain", "class"), name, samples, share (of the samples of that
    domain or class in the round), annotation_accuracy (null if no label is known), kept (share).
    Domains are listed if there are several, classes if labels are known.
    """
    parts = []
    both = list(dict.fromkeys([*run.domains, *run.classes]))
    for now in all_decisions(run):
        teacher = (now.teacher, run.teacher_names)
        means = {"annotation_accuracy": (now.correct, now.known), "kept": (now.kept, None)}
        for by, code, names in (
            ("domain", now.domain, run.domains),
            ("class", now.truth, run.classes),
        ):
            if by == "domain" and len(names) == 1:
                continue
            table = count_groups({"teacher": teacher, "name": (code, names)}, means, now.samples)
            total = now.count(code, len(names))
            share = table["samples"] / total[table["name"].cat.codes]
            table.insert(3, "share", share)
            table["name"] = table["name"].cat.set_categories(both)
            table.insert(1, "by", by)
            table.insert(0, "round", now.number)
            parts.append(table)
    table = pd.concat(parts, ignore_index=True)
    table["by"] = pd.Categorical(table["by"], categories=["domain", "class"])
    return table[
        ["round", "teacher", "by", "name", "samples", "share", "annotation_accuracy", "kept"]
    ]


def assignment_sentence(run: Run, table: pd.DataFrame) -> str:
    """Count the domains or classes that one teacher supervises, and name the most divided one."""
    part = table[table["round"] == table["round"].max()]
    by = "domain" if (part["by"] == "domain").any() else "class"
    part = part[part["by"] == by]
    if part["teacher"].nunique() < 2:
        return "In the last round one teacher is assigned all samples."
    first = part.sort_values("share", ascending=False, kind="stable").drop_duplicates("name")
    spread = lowest_row(first, "share")
    whole = int((first["share"] > 0.99).sum())
    return (
        f"In the last round {whole} of {plural(len(first), by)} "
        f"{'is' if whole == 1 else 'are'} assigned to one teacher almost entirely (over 99 %). "
        f"The most divided {by} is {spread['name']}: {percent(spread['share'])} of it are "
        f"assigned to {spread['teacher']}."
    )


def draw_assignment(table: pd.DataFrame) -> list[View]:
    """Draw the share of each domain and class that each teacher gets; a column sums to 100 %.

    Shown are the last two rounds with more than one teacher.
    """
    choice = table.groupby("round")["teacher"].nunique()
    rounds = [number for number in choice.index if choice[number] > 1][-2:]
    views: list[View] = []
    for number in reversed(rounds or list(choice.index[-1:])):
        for by in ("domain", "class"):
            part = table[(table["round"] == number) & (table["by"].astype(str) == by)]
            if part["name"].nunique() > 1 or (by == "class" and len(part)):
                views.append(_assignment(part, number, by))
    return views


def _assignment(part: pd.DataFrame, number: int, by: str) -> Matrix:
    teachers, names = names_in_order(part["teacher"]), names_in_order(part["name"])
    shown_teachers = largest(teachers, _sums(part, "teacher"), MOST_ROWS)
    shown_names = largest(names, _sums(part, "name"), MOST_COLUMNS)
    part = part[part["teacher"].isin(shown_teachers) & part["name"].isin(shown_names)]
    found = {(str(row["teacher"]), str(row["name"])): row for row in rows_of(part)}
    cells = [
        [_share_cell(found.get((teacher, name)), teacher, name) for name in shown_names]
        for teacher in shown_teachers
    ]
    shortened = [
        f"{len(shown)} of {words.plural(len(whole), noun)}"
        for shown, whole, noun in ((shown_teachers, teachers, "teacher"), (shown_names, names, by))
        if len(shown) < len(whole)
    ]
    left_out = f"Shown are the {' and '.join(shortened)} with the most samples."
    return Matrix(
        shown_teachers,
        shown_names,
        cells,
        "teacher",
        by,
        left_out=f"{left_out} The table lists all." if shortened else "",
        caption=f"Round {number}: share of each {by} assigned to each teacher, %",
    )


def _share_cell(row: Row | None, teacher: str, name: str) -> Cell:
    if row is None:
        return Cell(0.0, "", f"{teacher} is assigned nothing of {name}")
    correct = (
        ""
        if words.missing(row["annotation_accuracy"])
        else f", {words.in_percent(row['annotation_accuracy'])} % of them annotated correctly"
    )
    tooltip = (
        f"{teacher} is assigned {words.in_percent(row['share'])} % of {name} "
        f"({words.plural(int(row['samples']), 'sample')}{correct})"
    )
    text = words.in_percent(row["share"], 0)
    return Cell(float(row["share"]), text if row["share"] >= 0.005 else "", tooltip)


def _sums(part: pd.DataFrame, by: str) -> "pd.Series[float]":
    sums = part.groupby(by, observed=True)["samples"].sum().astype(float)
    return sums.set_axis(sums.index.astype(str))


ASSIGNMENT_FIGURE = Figure(
    "assignment",
    "Assignment of samples to teachers",
    assignment_table,
    assignment_sentence,
    draw_assignment,
    "With soft assignment, a sample counts for the teacher with the largest weight.",
)


def flow_table(run: Run) -> pd.DataFrame:
    """Make the table of flows: the samples that go from a teacher to one of the next round.

    Columns: round, teacher, next_round, next_teacher, samples. Pairs without samples are left out.
    """
    names, parts = run.teacher_names, []
    for last, now in pairwise(all_decisions(run)):
        assert now.before is not None
        keys = {"teacher": (now.before, names), "next_teacher": (now.teacher, names)}
        table = count_groups(keys, samples=now.samples)
        table.insert(0, "round", last.number)
        table.insert(2, "next_round", now.number)
        parts.append(table)
    if not parts:
        raise Unavailable("there is one round alone")
    return pd.concat(parts, ignore_index=True)


def flow_sentence(run: Run, table: pd.DataFrame) -> str:
    """Name the largest flow into the last round, and the share of samples that keep a teacher."""
    part = table[table["round"] == table["round"].max()]
    main = highest_row(part, "samples")
    text = (
        f"The largest flow into round {main['next_round']} goes from {main['teacher']} to "
        f"{main['next_teacher']} ({plural(int(main['samples']), 'sample')})"
    )
    before, after = part["teacher"].astype(str), part["next_teacher"].astype(str)
    if not set(before) & set(after):
        return f"{text}."
    share = part["samples"][before == after].sum() / part["samples"].sum()
    return f"{text}; {percent(share)} of the samples keep their teacher."


def draw_flow(table: pd.DataFrame) -> list[View]:
    """Draw the last rounds with at most ten teachers each; the others are merged into one box."""
    typed = table.astype({"teacher": str, "next_teacher": str}).reset_index(drop=True)
    for name in ("teacher", "next_teacher"):
        typed[name] = pd.Categorical(typed[name], names_in_order(table[name]))
    steps = typed[["round", "next_round"]].drop_duplicates()
    pairs = sorted((int(row["round"]), int(row["next_round"])) for row in rows_of(steps))
    left_out = []
    if len(pairs) > MOST_ROUNDS - 1:
        pairs = pairs[-(MOST_ROUNDS - 1) :]
        left_out.append(f"Shown are the last {MOST_ROUNDS} rounds. The table lists all.")
    typed = typed[typed["round"].isin([first for first, _ in pairs])]
    rounds = [pairs[0][0], *(second for _, second in pairs)]
    columns = {
        number: _column(typed, number, index / max(len(rounds) - 1, 1))
        for index, number in enumerate(rounds)
    }
    if any(OTHERS in column.boxes for column in columns.values()):
        left_out.append(f"All but the largest {MOST_NODES - 1} teachers of a round are one box.")
    nodes = [
        FlowNode(column.x, box.top, box.height, name, words.count(box.samples))
        for column in columns.values()
        for name, box in column.boxes.items()
    ]
    links = [
        link
        for first, second in pairs
        for link in _links(
            typed[(typed["round"] == first) & (typed["next_round"] == second)],
            columns[first],
            columns[second],
        )
    ]
    height = max(180, 46 * max(len(column.boxes) for column in columns.values()))
    titles = [(columns[number].x, f"Round {number}") for number in rounds]
    return [Flow(titles, nodes, links, height, left_out=" ".join(left_out))]


@dataclass(frozen=True)
class _Box:
    """The box of a teacher: top edge and height as shares of the drawing, and its samples."""

    top: float
    height: float
    samples: float

    def thickness(self, samples: float) -> float:
        """Return the height that so many of its samples take."""
        return self.height * samples / self.samples if self.samples else 0.0


@dataclass(frozen=True)
class _Column:
    """The boxes of a round by teacher, and their position from left (0) to right (1)."""

    x: float
    boxes: Mapping[str, _Box]


def _column(table: pd.DataFrame, number: int, x: float) -> _Column:
    """Stack the teachers of a round in their order, the small ones merged into one box."""
    sizes = _sizes(table, number)
    names = [name for name in _order(table, number) if sizes.get(name, 0) > 0]
    total = sum(sizes.values()) or 1.0
    if len(names) > MOST_NODES:
        names = largest(names, pd.Series(sizes), MOST_NODES - 1)
        sizes = {name: sizes[name] for name in names}
        sizes[OTHERS] = total - sum(sizes.values())
        names = [*names, OTHERS]
    room = 1 - GAP * (len(names) - 1)
    top, boxes = 0.0, {}
    for name in names:
        boxes[name] = _Box(top, room * sizes[name] / total, sizes[name])
        top += boxes[name].height + GAP
    return _Column(x, boxes)


def _order(table: pd.DataFrame, number: int) -> list[str]:
    """Return the teachers of a round in their order."""
    leaving = names_in_order(table.loc[table["round"] == number, "teacher"])
    arriving = names_in_order(table.loc[table["next_round"] == number, "next_teacher"])
    return list(dict.fromkeys([*leaving, *arriving]))


def _sizes(table: pd.DataFrame, number: int) -> dict[str, float]:
    """Return the number of samples of each teacher of a round."""
    leaving = bool((table["round"] == number).any())
    on, by = ("round", "teacher") if leaving else ("next_round", "next_teacher")
    sums = table[table[on] == number].groupby(by, observed=True)["samples"].sum()
    return {str(name): float(value) for name, value in sums.items()}


def _links(part: pd.DataFrame, left: _Column, right: _Column) -> Iterator[Link]:
    """Return the ribbons between two columns, ordered in each box as the boxes they connect."""
    start, end = _merged(part["teacher"], left), _merged(part["next_teacher"], right)
    sums = part["samples"].groupby([start, end]).sum()
    out = {name: box.top for name, box in left.boxes.items()}
    into = {name: box.top for name, box in right.boxes.items()}
    for row, source in enumerate(left.boxes):
        for column, target in enumerate(right.boxes):
            samples = float(sums.get((source, target), 0))
            if not samples:
                continue
            one = left.boxes[source].thickness(samples)
            other = right.boxes[target].thickness(samples)
            path = _ribbon((left.x, out[source], one), (right.x, into[target], other))
            tooltip = f"{words.count(samples)} samples: {source} → {target}"
            yield Link(path, tooltip, (column if len(left.boxes) == 1 else row) % TONES)
            out[source] += one
            into[target] += other


def _merged(values: "pd.Series[Any]", column: _Column) -> "pd.Series[str]":
    text = values.astype(str)
    return text.where(text.isin(list(column.boxes)), OTHERS)


def _ribbon(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    """Return an SVG path from start to end, each (x, top, thickness), in a 1000 x 1000 space."""
    a, b = 1000 * start[0], 1000 * end[0]
    middle = (a + b) / 2
    y = [1000 * v for v in (start[1], end[1], end[1] + end[2], start[1] + start[2])]
    return (
        f"M{a:.1f} {y[0]:.1f}C{middle:.1f} {y[0]:.1f} {middle:.1f} {y[1]:.1f} {b:.1f} {y[1]:.1f}"
        f"V{y[2]:.1f}C{middle:.1f} {y[2]:.1f} {middle:.1f} {y[3]:.1f} {a:.1f} {y[3]:.1f}Z"
    )


FLOW_FIGURE = Figure(
    "flow",
    "Flow of samples between teachers from round to round",
    flow_table,
    flow_sentence,
    draw_flow,
)
