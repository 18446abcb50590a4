"""How samples moved between teachers from round to round: boxes and the ribbons between them."""

from typing import Any

import pandas as pd

from cosup.analysis.base import rows_of
from cosup.report import words
from cosup.report.pick import in_order, largest
from cosup.report.views import Flow, FlowNode, Link, View

MOST_NODES = 10
MOST_ROUNDS = 5
OTHERS = "others"
TONES = 6
GAP = 0.025
"""Between two boxes of a column, as a share of the height."""


def draw_flow(tables: dict[str, pd.DataFrame]) -> list[View]:
    """The last rounds, at most ten teachers of each; the others are one box."""
    table = tables["flow"].astype({"teacher": str, "next_teacher": str}).reset_index(drop=True)
    for name in ("teacher", "next_teacher"):
        table[name] = pd.Categorical(table[name], in_order(tables["flow"][name]))
    steps = table[["round", "next_round"]].drop_duplicates()
    pairs = sorted((int(row["round"]), int(row["next_round"])) for row in rows_of(steps))
    cut = ""
    if len(pairs) > MOST_ROUNDS - 1:
        pairs = pairs[-(MOST_ROUNDS - 1) :]
        cut = f"Shown are the last {MOST_ROUNDS} rounds; the table has all."
    table = table[table["round"].isin([first for first, _ in pairs])]
    rounds = [pairs[0][0], *(second for _, second in pairs)]
    names = {number: _names(table, number) for number in rounds}
    if any(OTHERS in found for found in names.values()):
        cut = f"{cut} Teachers beyond the largest {MOST_NODES - 1} of a round are one box.".strip()
    boxes = {number: _boxes(table, number, names[number]) for number in rounds}
    width = max(len(rounds) - 1, 1)
    x = {number: index / width for index, number in enumerate(rounds)}
    nodes, links = [], []
    for number in rounds:
        nodes += [
            FlowNode(x[number], top, height, name, words.count(samples))
            for name, (top, height, samples) in boxes[number].items()
        ]
    for first, second in pairs:
        links += _links(table, first, second, names, boxes, x)
    most = max(len(found) for found in names.values())
    columns = [(x[number], f"Round {number}") for number in rounds]
    return [Flow(columns, nodes, links, height=max(180, 46 * most), cut=cut)]


def _names(table: pd.DataFrame, number: int) -> list[str]:
    """The teachers of a round in their order, the small ones as one."""
    sizes = _sizes(table, number)
    names = [name for name in _order(table, number) if sizes.get(name, 0) > 0]
    if len(names) <= MOST_NODES:
        return names
    return [*largest(names, pd.Series(sizes), MOST_NODES - 1), OTHERS]


def _order(table: pd.DataFrame, number: int) -> list[str]:
    out = in_order(table.loc[table["round"] == number, "teacher"])
    into = in_order(table.loc[table["next_round"] == number, "next_teacher"])
    return list(dict.fromkeys([*out, *into]))


def _sizes(table: pd.DataFrame, number: int) -> dict[str, float]:
    side = ("round", "teacher") if (table["round"] == number).any() else None
    on, by = side or ("next_round", "next_teacher")
    sums = table[table[on] == number].groupby(by, observed=True)["samples"].sum()
    return {str(name): float(value) for name, value in sums.items()}


def _boxes(
    table: pd.DataFrame, number: int, names: list[str]
) -> dict[str, tuple[float, float, float]]:
    """Top, height and samples of each teacher's box in a column."""
    sizes = _sizes(table, number)
    total = sum(sizes.values()) or 1.0
    known = {name: sizes.get(name, 0.0) for name in names if name != OTHERS}
    if OTHERS in names:
        known[OTHERS] = total - sum(known.values())
    room = 1 - GAP * (len(known) - 1)
    top, boxes = 0.0, {}
    for name, samples in known.items():
        height = room * samples / total
        boxes[name] = (top, height, samples)
        top += height + GAP
    return boxes


def _links(
    table: pd.DataFrame, first: int, second: int, names: Any, boxes: Any, x: dict[int, float]
) -> list[Link]:
    part = table[(table["round"] == first) & (table["next_round"] == second)]
    start = _merged(part["teacher"], names[first])
    end = _merged(part["next_teacher"], names[second])
    sums = part["samples"].groupby([start, end]).sum()
    out = {name: box[0] for name, box in boxes[first].items()}
    into = {name: box[0] for name, box in boxes[second].items()}
    links = []
    for source in names[first]:
        for index, target in enumerate(names[second]):
            samples = float(sums.get((source, target), 0))
            if not samples:
                continue
            one = _thick(boxes[first][source], samples)
            other = _thick(boxes[second][target], samples)
            path = _ribbon(x[first], x[second], out[source], one, into[target], other)
            say = f"{words.count(samples)} samples: {source} → {target}"
            tone = index if len(names[first]) == 1 else names[first].index(source)
            links.append(Link(path, say, tone % TONES))
            out[source] += one
            into[target] += other
    return links


def _merged(values: "pd.Series[Any]", names: list[str]) -> "pd.Series[str]":
    text = values.astype(str)
    return text.where(text.isin(names), OTHERS)


def _thick(box: tuple[float, float, float], samples: float) -> float:
    return box[1] * samples / box[2] if box[2] else 0.0


def _ribbon(
    left: float, right: float, top: float, thick: float, next_top: float, next_thick: float
) -> str:
    """Two curves that leave and arrive level, in a space of 1000 x 1000."""
    a, b = 1000 * left, 1000 * right
    middle = (a + b) / 2
    y = [1000 * v for v in (top, next_top, next_top + next_thick, top + thick)]
    return (
        f"M{a:.1f} {y[0]:.1f}C{middle:.1f} {y[0]:.1f} {middle:.1f} {y[1]:.1f} {b:.1f} {y[1]:.1f}"
        f"V{y[2]:.1f}C{middle:.1f} {y[2]:.1f} {middle:.1f} {y[3]:.1f} {a:.1f} {y[3]:.1f}Z"
    )
