"""The page of a run has the numbers of the records, escaped names, and a valid structure.

Missing parts are named with the reason.
"""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.synthetic_run import Shape, make_run
from page_reader import Node, read_page, rows_of
from report_run import CLASSES, DOMAINS
from safetensors.numpy import load_file
from synthetic_tables import synthetic_tables

from cosup.analysis import load_run, tables
from cosup.analysis.next_steps import next_steps
from cosup.analysis.outcome import outcome
from cosup.layout import Layout
from cosup.report import page
from cosup.report.page import page_html, write_report

pytestmark = pytest.mark.slow
LAST = 2
"""The run's last round."""


@pytest.fixture(scope="module")
def tree(finished_run: Path) -> Node:
    return read_page(finished_run / "report" / "index.html")


@pytest.fixture(scope="module")
def decided(finished_run: Path) -> pd.DataFrame:
    table = pd.read_parquet(finished_run / "decisions" / f"round-{LAST}.parquet")
    table["right"] = table["annotation"].astype(str) == table["true_label"].astype(str)
    return table


@pytest.fixture(scope="module")
def test_split(finished_run: Path) -> pd.DataFrame:
    samples = pd.read_parquet(finished_run / "samples.parquet")
    return samples[samples["split"] == "test"].reset_index(drop=True)


def table_of(tree: Node, name: str) -> list[dict[str, str]]:
    """Return the rows of the table of a figure."""
    figure = tree.one("figure", id=f"figure-{name}")
    return rows_of(figure.one("table", class_="data"))


def shown(share: float) -> str:
    return f"{100 * share:.1f}"


def labels_of(folder: Path, names: list[str]) -> Any:
    """Return the labels of a dense probability table, from its files."""
    values = [load_file(path)["logs"] for path in sorted(folder.parent.glob(folder.name))]
    return np.array(names)[np.concatenate(values).astype(np.float64).argmax(1)]


def predicted(finished_run: Path, what: str) -> Any:
    classes = json.loads((finished_run / "stages" / "prepared.json").read_text())["classes"]
    return labels_of(finished_run / what, classes)


def test_accuracies(finished_run: Path, tree: Node, test_split: pd.DataFrame) -> None:
    truth = test_split["true_label"].astype(str).to_numpy()
    files = {
        "student": f"checkpoints/round-{LAST}/test.safetensors",
        "ceiling": "checkpoints/control-ceiling.safetensors",
        "mean_ensemble": "checkpoints/control-mean_ensemble.safetensors",
        "domain_plain": "annotations/test/domain_plain/*.safetensors",
    }
    found = {row["who"]: row for row in table_of(tree, "overview")}
    for who, file in files.items():
        assert found[who]["accuracy, %"] == shown((predicted(finished_run, file) == truth).mean())
    lead = (predicted(finished_run, files["student"]) == truth).mean()
    lead -= (predicted(finished_run, files["ceiling"]) == truth).mean()
    assert found["ceiling"]["gain, points"] == f"{100 * lead:+.1f}".replace("-", "\N{MINUS SIGN}")
    headline = tree.one("dl", class_="headline").text
    assert found["student"]["accuracy, %"] in headline


def test_the_head_says_whether_it_helped_and_what_to_do(finished_run: Path, tree: Node) -> None:
    run = load_run(finished_run)
    made = tables(run)
    told = outcome(run, made)
    assert told is not None
    box = tree.one("div", class_="outcome")
    assert box.has("class_", told.answer)
    plain = box.text.replace("\N{NO-BREAK SPACE}", " ")
    assert told.headline in plain
    assert told.detail in plain
    steps = tree.one("div", class_="next").all("li")
    assert [step.one("pre").text for step in steps if step.all("pre")] == [
        step.command_for(finished_run.name) for step in next_steps(run, made) if step.command
    ]


def test_a_student_below_the_floor_is_told_so(finished_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "below"
    shutil.copytree(finished_run, path)
    summary = json.loads((path / "summary.json").read_text())
    summary["student"] |= {"pgr": -2.37, "pgr_ci95": [-3.0, -1.5], "pgr_reason": None}
    Layout(path).summary.write(summary)
    head = read_page(write_report(load_run(path))).one("dl", class_="headline")
    (tile,) = (part for part in head.all("div") if "PGR)" in part.one("dt").text)
    assert "below the floor" in tile.one("dd").text
    assert "%" not in tile.one("dd").text
    assert "\N{MINUS SIGN}237.0" in tile.one("dd", class_="note").text
    assert not tile.has("class_", "main")


def test_load_and_filters(tree: Node, decided: pd.DataFrame) -> None:
    loads = [row for row in table_of(tree, "load") if row["round"] == str(LAST)]
    assert len(loads) == 2
    for row in loads:
        part = decided[decided["assigned_teacher"] == row["teacher"]]
        assert row["samples"] == str(len(part))
        assert row["share, %"] == shown(len(part) / len(decided))
        assert row["annotation accuracy, %"] == shown(part["right"].mean())
        assert row["kept, %"] == shown(part["kept"].mean())
    filters = {r["filter"]: r for r in table_of(tree, "filters") if r["round"] == str(LAST)}
    rejected = decided[~decided["kept"]]
    assert filters["all"]["rejected"] == str(len(rejected))
    assert filters["all"]["precision, %"] == shown((~rejected["right"]).mean())
    wrong = decided[~decided["right"]]
    assert filters["all"]["recall, %"] == shown((~wrong["kept"]).mean())
    for name, count in decided["rejected_by"].value_counts().items():
        if count:
            assert filters[str(name)]["rejected"] == str(count)


def test_the_assignment_matrix(tree: Node, decided: pd.DataFrame) -> None:
    matrix = tree.one("figure", id="figure-assignment").one("table", class_="heat")
    share = pd.crosstab(decided["assigned_teacher"], decided["domain"], normalize="columns")
    columns = [cell.text for cell in matrix.all("th", scope="col")[1:]]
    assert columns == list(DOMAINS)
    for row in matrix.one("tbody").all("tr"):
        teacher = row.one("th").text
        for name, cell in zip(columns, row.all("td"), strict=True):
            expected = float(share.loc[teacher, name])
            assert cell.text == (f"{100 * expected:.0f}" if expected else "")
            assert name in cell.attributes["data-tooltip"]


def test_classes_confusions_and_agreement(
    finished_run: Path, tree: Node, test_split: pd.DataFrame
) -> None:
    truth = test_split["true_label"].astype(str).to_numpy()
    student = predicted(finished_run, f"checkpoints/round-{LAST}/test.safetensors")
    by_class = {row["name"]: row for row in table_of(tree, "classes")}
    assert set(by_class) == set(CLASSES)
    for name, row in by_class.items():
        assert row["student, %"] == shown((student == truth)[truth == name].mean())
    pairs = {(r["true"], r["predicted"]): int(r["samples"]) for r in table_of(tree, "confusion")}
    counted = pd.crosstab(truth, student).stack()
    assert pairs == {key: int(value) for key, value in counted.items() if value}
    teacher = predicted(finished_run, "annotations/test/domain_plain/*.safetensors")
    inside = (test_split["domain"] == "plain").to_numpy()
    (row,) = (
        row
        for row in table_of(tree, "student-teachers")
        if (row["teacher"], row["where"]) == ("domain_plain", "inside")
    )
    assert row["agreement, %"] == shown((student == teacher)[inside].mean())
    only = (student == truth) & (teacher != truth)
    assert row["student only, %"] == shown(only[inside].mean())


def test_the_linked_files_have_the_same_rows(finished_run: Path, tree: Node) -> None:
    for figure in tree.all("figure"):
        for link in figure.all("a"):
            assert (finished_run / "report" / link.attributes["href"]).is_file()
    kept = pd.read_parquet(finished_run / "report" / "tables" / "load.parquet")
    assert [shown(share) for share in kept["share"]] == [
        r["share, %"] for r in table_of(tree, "load")
    ]


def test_names_are_escaped(finished_run: Path, tree: Node) -> None:
    text = (finished_run / "report" / "index.html").read_text(encoding="utf-8")
    for name in (*CLASSES, *DOMAINS):
        assert name in tree.one("main").text
    assert "<b>bold" not in text
    assert "<img src=x" not in text
    assert [node.text for node in tree.all("b")] == []
    assert all(img.attributes["src"].startswith("data:") for img in tree.all("img"))
    assert len(tree.all("img")) > 10, "the samples' pictures"


def test_the_page_is_well_formed_and_self_contained(tree: Node) -> None:
    nodes = tree.walk()
    ids = [node.attributes["id"] for node in nodes if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in nodes:
        for name in ("src", "href", "action", "srcset"):
            where = node.attributes.get(name, "data:")
            assert where.startswith(("data:", "#", "tables/")), where
            if where.startswith("#"):
                assert where[1:] in ids
        if "aria-labelledby" in node.attributes:
            assert node.attributes["aria-labelledby"] in ids
    levels = [int(node.tag[1]) for node in nodes if node.tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(new <= old + 1 for old, new in pairwise(levels))


def test_the_page_is_accessible(tree: Node) -> None:
    for figure in tree.all("figure"):
        assert "aria-labelledby" in figure.attributes
    for plot in tree.all("div", class_="plot"):
        assert plot.attributes["aria-label"]
    for table in tree.all("table"):
        assert table.one("caption").text.strip()
        assert all(cell.attributes.get("scope") in ("row", "col") for cell in table.all("th"))
    for picture in tree.all("svg"):
        hidden = picture.attributes.get("aria-hidden") == "true"
        assert hidden or picture.attributes.get("aria-label")
    assert all(img.attributes["alt"] for img in tree.all("img"))
    assert tree.one("a", class_="skip").attributes["href"] == "#main"
    assert tree.one("html").attributes["lang"] == "en"
    labels = [node.attributes["aria-label"] for node in tree.walk() if node.has("role", "region")]
    titles = [node.one("h2").text for node in tree.all("section")]
    assert len(labels) > 10
    assert len({*labels, *titles}) == len(labels) + len(titles), "screen readers list them by name"


def test_a_minus_sign_is_one_character(tree: Node) -> None:
    """`-12.3` is a hyphen, and is read so; commands, configs and names have hyphens."""
    code = {part for node in tree.all("pre") for part in node.text.split()}
    text = tree.one("header").text + tree.one("main").text
    words = [word.strip("[](),;:.") for word in text.split()]
    assert [w for w in words if re.fullmatch(r"-[\d.,]+%?", w) and w not in code] == []
    assert any(word.startswith("\N{MINUS SIGN}") for word in words)


def test_each_figure_has_a_finding(tree: Node) -> None:
    for figure in tree.all("figure"):
        assert figure.all("p", class_="finding"), figure.attributes["id"]
        assert any(letter.isdigit() for letter in figure.one("p", class_="finding").text)


def test_an_unfinished_run(finished_run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(finished_run, cut)
    for name in ("summary.json", "stages/summary.json", "stages/control-ceiling.json"):
        (cut / name).unlink()
    shutil.rmtree(cut / "report")
    found = read_page(write_report(load_run(cut)))
    notice = found.one("div", class_="notice").text
    assert "not finished" in notice
    assert "control ceiling" in notice
    figure = found.one("figure", id="figure-examples")
    assert "thumbnails.parquet" in figure.one("figcaption").text
    assert figure.all("img") == []
    assert "--resume" in found.one("section", id="reproduce").text
    assert table_of(found, "overview")[0]["who"] == "student"


def test_without_true_labels_of_student_train(tmp_path: Path) -> None:
    """Figures that need true labels name the reason; the others are shown."""
    found = read_page(write_report(load_run(make_run(tmp_path / "run", Shape(labels=False)))))
    assert "No true label of student_train is known" in found.one("section", id="verdict").text
    missing = found.one("figure", id="figure-annotation-accuracy").text
    assert "Not shown: no true label of student_train is known." in missing
    assert "precision" not in table_of(found, "filters")[0]  # columns without a number are omitted
    assert "rejected" in table_of(found, "filters")[0]
    assert table_of(found, "overview")[0]["who"] == "student"


def test_a_missing_table_is_named_with_its_reason(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(finished_run)
    monkeypatch.setattr(page, "findings", lambda run, tables: {})
    monkeypatch.setattr(page, "verdict_parts", lambda run, tables: (["A verdict."], []))
    run.absent["filters"] = "it needs <true> labels"
    found = read_page(page_html(run, {}))
    assert "Not shown: it needs <true> labels." in found.one("figure", id="figure-filters").text
    assert found.all("table", class_="data") == []


def test_many_teachers_and_classes(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(finished_run)
    teachers = ["all", *(f"<teacher> {n}" for n in range(200))]
    classes = [f"{CLASSES[n % 4]} {n}" for n in range(600)]
    synthetic = synthetic_tables(teachers, classes, [f"domain {n}" for n in range(30)], rounds=4)
    monkeypatch.setattr(page, "findings", lambda run, tables: dict.fromkeys(tables, "Found 1."))
    monkeypatch.setattr(page, "verdict_parts", lambda run, tables: (["A verdict."], []))
    text = page_html(run, synthetic)
    assert len(text.encode()) < 2_000_000
    found = read_page(text)
    for name in ("overview", "teachers", "annotation-accuracy", "assignment", "load", "flow"):
        figure = found.one("figure", id=f"figure-{name}")
        assert figure.all("p", class_="left-out"), name
        assert len(figure.all("li", class_="row")) <= 130, name
    for matrix in found.all("table", class_="matrix"):
        assert len(matrix.all("td")) <= 24 * 24
    assert "the first 200 of 600 rows" in found.one("figure", id="figure-classes").text
