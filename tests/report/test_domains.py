"""Accuracy by domain on the page and the terminal equals the predictions, for one and more runs.

Large tables are shortened with a note. Every control has a title and a label.
"""

import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from helpers.comparable_runs import DOMAINS, random_answers
from helpers.comparable_runs import make_run as make_comparable
from helpers.synthetic_run import Shape, make_run
from page_reader import read_page
from rich.console import Console, RenderableType
from rich.text import Text
from synthetic_tables import synthetic_tables

from cosup.analysis import findings, load_run, tables
from cosup.analysis.comparable import Entry, entries_in
from cosup.analysis.compared import Compared
from cosup.analysis.comparison import compare, tables_of
from cosup.analysis.drawing import Matrix
from cosup.analysis.figures import FIGURES
from cosup.analysis.supervision_domains import MEAN, draw_supervision_domains
from cosup.config.schema import ControlName
from cosup.controls import CONTROLS
from cosup.remote import Place
from cosup.report.compare import write_comparison
from cosup.report.compare_text import comparison_text
from cosup.report.page import page_html
from cosup.report.terminal import _supervisions_by_domain, report_text, runs_by_domain
from cosup.runs.tables import summary_table, titled_table


def printed(renderable: RenderableType, width: int = 400) -> str:
    with open("/dev/null", "w") as nowhere:
        console = Console(width=width, record=True, file=nowhere)
        console.print(renderable)
        return console.export_text()


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the row of a printed table that begins with `first`."""
    rows = (line.strip() for line in text.splitlines())
    (row,) = (row for row in rows if re.match(rf"{re.escape(first)}  ", row))
    return re.split(r"\s{2,}", row)


def shown(values: Any) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("domains") / "run", Shape(noise=0.2))


def by_domain(path: Path, who: tuple[str, str]) -> list[float]:
    """Return a supervision's accuracies by domain and their mean, from the recorded predictions."""
    found = load_run(path)
    table = found.predictions[lambda rows: (rows["kind"] == who[0]) & (rows["who"] == who[1])]
    if who[0] == "teacher":
        table = table[table["label"].notna()]
    domain = found.test["domain"].to_numpy()[table["position"]]
    values = table["correct"].groupby(domain).mean()
    return [*values, values.mean()]


def test_the_figure_has_every_supervision(run: Path) -> None:
    (view,) = draw_supervision_domains(tables(load_run(run))["supervision_domains"])
    assert isinstance(view, Matrix)
    assert view.columns == [*DOMAINS, MEAN]
    named = {
        "the co-supervised student": ("student", "student"),
        CONTROLS["best_teacher"].label: ("control", "best_teacher"),
        CONTROLS["ceiling"].label: ("control", "ceiling"),
        "teacher level1_1": ("teacher", "level1_1"),
    }
    assert set(named) <= set(view.rows)
    assert len(view.rows) == 1 + 4 + 3
    for name, who in named.items():
        row = view.cells[view.rows.index(name)]
        assert [cell.value for cell in row] == pytest.approx(by_domain(run, who))
        assert [cell.text for cell in row] == shown(by_domain(run, who))
        assert all(name in cell.tooltip for cell in row)
    assert view.row_kinds[0] == "student"
    assert view.left_out == ""


def test_the_page_has_figure_sentence_and_table(run: Path) -> None:
    loaded = load_run(run)
    page = read_page(page_html(loaded, tables(loaded)))
    figure = page.one("figure", id="figure-supervision-domains")
    finding = figure.one("p", class_="finding").text
    assert shown(by_domain(run, ("student", "student")))[-1] in finding
    matrix = figure.one("table", class_="heat")
    assert [cell.text for cell in matrix.all("th", scope="col")[1:]] == [*DOMAINS, MEAN]
    student = matrix.one("tr", class_="student")
    values = by_domain(run, ("student", "student"))
    assert [cell.text for cell in student.all("td")] == shown(values)
    assert [cell.has("class_", "mean") for cell in student.all("td")] == [False, False, True]
    assert len(figure.one("table", class_="data").one("tbody").all("tr")) == (1 + 4 + 3) * 3


def test_the_terminal_has_the_same_table(run: Path) -> None:
    text = printed(report_text(load_run(run)))
    start = text.index(FIGURES["supervision_domains"].title)
    part = text[start : text.index(FIGURES["classes"].title, start)]
    for who, name in (
        (("student", "student"), "student"),
        (("control", "mean_ensemble"), "control mean_ensemble"),
        (("teacher", "level0_0"), "teacher level0_0"),
    ):
        assert cells(part, name)[1:] == shown(by_domain(run, who))
    assert findings(load_run(run), tables(load_run(run)))["supervision_domains"][:60] in part


def test_a_single_domain_prints_no_table(tmp_path: Path) -> None:
    """Few-shot episodes have a single domain."""
    text = printed(report_text(load_run(make_run(tmp_path / "run", Shape(ways=3, test=60)))))
    assert MEAN not in text
    assert "supervision domains: " in text


def test_many_supervisions_and_domains_are_shortened() -> None:
    domains = [f"domain {number}" for number in range(50)]
    found = synthetic_tables(["all", *(f"t{n}" for n in range(300))], ["x"], domains)
    table = found["supervision_domains"]
    (view,) = draw_supervision_domains(table)
    assert isinstance(view, Matrix)
    assert len(view.rows) == len(view.columns) == 24
    assert "of 301 teachers" in view.left_out
    assert "23 of 50 domains" in view.left_out
    student = table[table["kind"] == "student"].astype({"domain": str}).set_index("domain")
    largest = student["samples"].drop(MEAN).nlargest(23)
    assert student["samples"][view.columns[:-1]].min() == largest.min()
    assert view.cells[0][-1].value == pytest.approx(student["accuracy"][:-1].mean())
    means = table[(table["domain"] == MEAN) & (table["kind"] == "teacher")]
    ends = means["accuracy"].sort_values()
    teachers = [name.removeprefix("teacher ") for name in view.rows[4:]]
    assert set(teachers) == set(means["who"][[*ends.index[:10], *ends.index[-10:]]])
    text = printed(_supervisions_by_domain(table, Text("Title")))
    assert "10 of 50 domains" in " ".join(text.split())
    assert cells(text, "student")[-1] == f"{100 * student['accuracy'][MEAN]:.1f}"


@pytest.mark.parametrize("width", [80, 120])
def test_numbers_are_complete_on_a_narrow_terminal(width: int) -> None:
    names = ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"]
    found = synthetic_tables(["all", *(f"domain_{name}" for name in names)], ["x"], names)
    table = found["supervision_domains"]
    text = printed(_supervisions_by_domain(table, Text("Title")), width)
    found = set(re.findall(r"\d+\.\d", text))
    assert set(shown(table["accuracy"])) <= found


def runs_of(folder: Path, count: int = 2, **more: Any) -> tuple[list[Entry], list[str]]:
    names = [f"run_{number}" for number in range(count)]
    paths = [
        make_comparable(folder / name, random_answers(seed, 0.5 + 0.05 * seed, **more))
        for seed, name in enumerate(names)
    ]
    return entries_in(paths), names


def compared_text(entries: list[Entry]) -> RenderableType:
    found = Compared(entries)
    return comparison_text(found, tables_of(found))


def test_comparisons_on_the_terminal_and_the_page(tmp_path: Path) -> None:
    runs, names = runs_of(tmp_path)
    text = printed(compared_text(runs))
    part = text[text.index("Accuracy by domain") :]
    expected = {}
    for (one,), name in zip((entry.runs for entry in runs), names, strict=True):
        right = one.predictions[one.predictions["kind"] == "student"]["correct"].to_numpy()
        values = pd.Series(right).groupby(one.test["domain"].astype(str).to_numpy()).mean()
        expected[name] = [*values[list(DOMAINS)], values.mean()]
        assert cells(part, name)[1:] == shown(expected[name])
    page = read_page(write_comparison(runs, tmp_path / "page.html"))
    figure = page.one("figure", id="figure-domains")
    finding = figure.one("p", class_="finding").text.replace("\xa0", " ")
    means = [f"{100 * expected[name][-1]:.1f} % by {name}" for name in names]
    assert f"{means[0]} and {means[1]}" in finding
    assert any(name in finding for name in DOMAINS)
    last = figure.one("table", class_="matrix").all("tr")[-1]
    assert last.has("class_", "mean")
    assert [cell.text for cell in last.all("td")] == shown(expected[n][-1] for n in names)


def test_comparisons_of_many_runs_name_the_best_and_worst_mean(tmp_path: Path) -> None:
    runs, names = runs_of(tmp_path, 6)
    table = compare(runs)["domains"]
    means = dict(zip(names, table[names].iloc[-1], strict=True))
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    page = read_page(write_comparison(runs, tmp_path / "page.html"))
    finding = page.one("figure", id="figure-domains").one("p", class_="finding").text
    assert finding.replace("\xa0", " ").endswith(
        f"{100 * means[worst]:.1f} % by {worst} to {100 * means[best]:.1f} % by {best}."
    )


def test_comparisons_of_many_domains_keep_the_mean(tmp_path: Path) -> None:
    domains = [f"place {number}" for number in range(60)]
    runs, names = runs_of(tmp_path, domains=domains)
    table = compare(runs)["domains"]
    page = read_page(write_comparison(runs, tmp_path / "page.html"))
    figure = page.one("figure", id="figure-domains")
    matrix = figure.one("table", class_="matrix")
    assert len(matrix.one("tbody").all("tr")) == 41
    assert matrix.all("tr")[-1].one("th").text == MEAN
    assert "of 60 domains" in figure.one("p", class_="left-out").text
    text = printed(runs_by_domain(table, names, "Title"))
    assert cells(text, names[0])[-1] == f"{100 * table[names[0]][:-1].mean():.1f}"


def test_comparisons_of_a_single_domain_have_no_table(tmp_path: Path) -> None:
    runs, _ = runs_of(tmp_path, domains=("all",))
    assert "Accuracy by domain" not in printed(compared_text(runs))
    page = read_page(write_comparison(runs, tmp_path / "page.html"))
    assert page.all("figure", id="figure-domains") == []


def test_every_control_has_title_and_label() -> None:
    assert set(get_args(ControlName)) == set(CONTROLS)
    labels = [text for control in CONTROLS.values() for text in (control.title, control.label)]
    assert len(set(labels)) >= 2 * len(CONTROLS) - 1
    assert all(labels)


def test_the_summary_begins_with_the_untrained_student() -> None:
    names = ("best_teacher", "zero_shot", "mean_ensemble")
    controls = {name: {"accuracy": 0.5, "pgr": None} for name in names}
    last = {"round": 1, "assignment_accuracy": None, "annotation_accuracy": None}
    summary = {
        "run": "x",
        "seed": 0,
        "measured": "on the test split",
        "teachers": [{"name": "all", "accuracy": 0.4}],
        "floor": {"teacher": "all"},
        "controls": controls,
        "student": {"accuracy": 0.6, "pgr": None, "pgr_ci95": None, "pgr_reason": "no ceiling"},
        "rounds": [last],
        "data": {"broken": []},
    }
    text = printed(summary_table(summary, Path("run")))
    order = [
        text.index(words)
        for words in (
            "teacher all (floor)",
            *(CONTROLS[name].label for name in ("zero_shot", "best_teacher", "mean_ensemble")),
            "co-supervised student",
        )
    ]
    assert np.all(np.diff(order) > 0)
    assert "tensorboard --logdir 'my runs/a'" in printed(summary_table(summary, Path("my runs/a")))
    at_uri = printed(summary_table(summary, Place("s3://bucket/runs/a?scheme=http")))
    assert "s3://bucket/runs/a/summary.json?scheme=http" in at_uri
    assert "tensorboard" not in at_uri


def test_the_title_of_a_narrow_table_is_one_line() -> None:
    table = titled_table("a run: accuracy on the test split, in %")
    table.add_column("of")
    assert printed(table).splitlines()[0].strip() == "a run: accuracy on the test split, in %"
