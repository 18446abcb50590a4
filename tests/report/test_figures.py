"""Figures are html_of from tables with missing numbers, few rounds or names with markup."""

from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from synthetic_tables import synthetic_tables

from cosup.analysis.drawing import Bars, Dots, Flow, Matrix, Scale
from cosup.analysis.figure import Figure
from cosup.analysis.figures import FIGURES
from cosup.analysis.filters import filters_sentence
from cosup.report.render import _environment, table_view

MAY_LACK = {
    "limits": ["accuracy", "gain", "low", "high"],
    "candidates": ["accuracy", "score"],
    "overview": ["pgr", "gain", "gain_low", "gain_high", "p_value", "low", "high"],
    "teachers": ["accuracy", "accuracy_inside", "accuracy_outside"],
    "rounds": ["assignment_accuracy", "annotation_accuracy", "kept_precision", "kept_recall"],
    "load": ["annotation_accuracy", "kept_accuracy"],
    "assignment": ["annotation_accuracy"],
    "annotation_accuracy": ["accuracy", "assigned_accuracy"],
    "filters": ["precision", "recall"],
    "classes": ["floor", "ceiling", "first_round", "gained", "to_ceiling"],
    "domains": ["floor", "ceiling", "first_round", "gained", "to_ceiling"],
    "supervision_domains": ["accuracy"],
    "shifted": ["accuracy", "low", "high", "pgr", "gain", "gain_low", "gain_high", "lost"],
    "review_list": ["student_confidence"],
    "weights": ["value"],
    "cost": ["images_per_second"],
}


def html_of(figure: Figure, found: dict[str, pd.DataFrame]) -> str:
    """Return all drawings of a figure as HTML."""
    source = '{% import "views.html.j2" as views %}{{ views.view(item, "title") }}'
    template = _environment().from_string(source)
    return "".join(template.render(item=view) for view in figure.draw(found[figure.name]))


@cache
def tables_of(rounds: int) -> dict[str, pd.DataFrame]:
    return synthetic_tables(["all", "a", "b"], ["x", "y"], ["d", "e"], rounds)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("rounds", [1, 2, 9])
def test_any_number_of_rounds(name: str, rounds: int) -> None:
    found = tables_of(rounds)
    if len(found[name]):
        assert "nan" not in html_of(FIGURES[name], found)


@pytest.mark.parametrize("table", MAY_LACK)
def test_missing_numbers(table: str) -> None:
    found = synthetic_tables(["all", "a", "b"], ["x", "y"], ["d", "e"])
    found[table][MAY_LACK[table]] = np.nan
    text = html_of(FIGURES[table], found)
    assert "nan" not in text
    texts = [text for row in table_view(found[table], "").rows for text in row]
    assert "nan" not in texts


def test_segments_of_a_bar_sum_to_at_most_one() -> None:
    found = synthetic_tables([f"t{n}" for n in range(5)], ["x", "y"], ["d"])
    for name in ("load", "filters", "student_teachers"):
        (view,) = FIGURES[name].draw(found[name])
        assert isinstance(view, Bars)
        for row in view.rows:
            total = sum(part.share for part in row.segments)
            assert -1e-9 < total < 1 + 1e-9
            if name == "student_teachers":
                assert total == pytest.approx(1)


def test_filters_that_rejected_nothing_draw_nothing() -> None:
    found = synthetic_tables(["all", "a"], ["x"], ["d"])
    table = found["filters"].assign(rejected=0, share=0.0)
    assert FIGURES["filters"].draw(table) == []
    assert filters_sentence(None, table) == "No annotation was rejected."  # type: ignore[arg-type]


def test_ribbons_fill_their_boxes() -> None:
    found = synthetic_tables(["all", *(f"t{n}" for n in range(14))], ["x"], ["d"], rounds=4)
    (view,) = FIGURES["flow"].draw(found["flow"])
    assert isinstance(view, Flow)
    for x in {node.x for node in view.nodes}:
        column = sorted((n for n in view.nodes if n.x == x), key=lambda n: n.y)
        assert all(a.y + a.height < b.y + 1e-9 for a, b in pairwise(column))
        assert column[-1].y + column[-1].height == pytest.approx(1)
    assert "others" in {node.name for node in view.nodes}
    total = sum(int(link.tooltip.split(" ")[0].replace(",", "")) for link in view.links)
    assert total == found["flow"]["samples"].sum()


def test_columns_of_the_assignment_sum_to_one() -> None:
    found = synthetic_tables(["all", "a", "b", "c"], ["x", "y"], ["d", "e"])
    found["assignment"]["share"] = found["assignment"]["share"].round(12)
    for view in FIGURES["assignment"].draw(found["assignment"]):
        assert isinstance(view, Matrix)
        sums = np.array([[cell.value or 0 for cell in row] for row in view.cells]).sum(0)
        np.testing.assert_allclose(sums, 1, atol=0.05)  # shares below 1 % are omitted


def test_the_hierarchy_starts_at_the_generalist() -> None:
    found = synthetic_tables(["all", "a", "b", "aa"], ["x"], ["d"])
    found["teachers"]["parent"] = [None, "all", "all", "a"]
    (view,) = FIGURES["teachers"].draw(found["teachers"])
    assert isinstance(view, Dots)
    assert [(row.name, row.depth) for row in view.rows] == [
        ("all", 0),
        ("a", 1),
        ("aa", 2),
        ("b", 1),
    ]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.401, 0.402), (0.9, 0.999), (0, 0), (1, 1)])
def test_an_axis_contains_its_values(low: float, high: float) -> None:
    scale = Scale.of_shares([low, None, float("nan"), high])
    assert scale.low <= low <= high <= scale.high
    ticks = scale.axis().ticks
    assert 2 <= len(ticks) <= 8
    assert len({text for _, text in ticks}) == len(ticks)
    assert all(0 <= at <= 1 for at, _ in ticks)


def test_text_from_a_run_is_escaped() -> None:
    found = synthetic_tables(["<i>all", "a&b", 'c"d'], ["<x>", "y"], ["d", "e"])
    text = "".join(html_of(figure, found) for figure in FIGURES.values())
    assert "<i>all" not in text
    assert "<x>" not in text
    assert "&lt;i&gt;all" in text
    assert 'c"d' not in text
